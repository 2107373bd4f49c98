package boot

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// unhurried are the modules that a machine does without until it is told who it
// is. What only they need comes with them.
var unhurried = []string{"failover", "net_failover", "virtio_net", "virtio_rng", "virtio_balloon", "inet_diag", "tcp_diag"}

// late are modules that wait to be loaded. Their files are open: by then the
// initramfs is gone.
type late struct {
	mu    sync.Mutex
	files []*os.File
}

// loadModules loads the modules of the initramfs but for the unhurried.
func loadModules() (*late, error) {
	order, err := os.ReadFile(orderFile)
	if err != nil {
		return nil, err
	}
	l := &late{}
	for name := range strings.FieldsSeq(string(order)) {
		f, err := os.Open("/modules/" + name + ".ko")
		if err != nil {
			return nil, err
		}
		if slices.Contains(unhurried, name) {
			l.files = append(l.files, f)
			continue
		}
		err = load(f)
		_ = f.Close()
		if err != nil {
			return nil, fmt.Errorf("module %s: %w", name, err)
		}
	}
	return l, nil
}

// load loads a module. One that is loaded, and one for hardware that is not
// there, are fine.
func load(f *os.File) error {
	err := unix.FinitModule(int(f.Fd()), "", 0)
	if errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

func (l *late) load() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for _, f := range l.files {
		errs = append(errs, load(f), f.Close())
	}
	l.files = nil
	return errors.Join(errs...)
}
