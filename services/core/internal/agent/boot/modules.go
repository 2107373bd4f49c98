package boot

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// orderFile lists the modules of an initramfs, one a line, each followed by those
// that it needs, which stand in lines before it.
const orderFile = "order"

// maxOrder bounds the list.
const maxOrder = 64 << 10

// modules are the kernel's in the initramfs. They can be loaded as long as the
// machine lives: its initramfs is nowhere to be seen then, but still there.
type modules struct {
	dir *os.Root

	mu    sync.Mutex
	needs map[string][]string // the names of those that are not loaded
}

func openModules(path string) (*modules, error) {
	dir, err := os.OpenRoot(path)
	if err != nil {
		return nil, errors.Wrap(err, errors.Internal, "the initramfs has no modules")
	}
	m := &modules{dir: dir, needs: map[string][]string{}}
	f, err := dir.Open(orderFile)
	if err != nil {
		return nil, errors.Wrap(err, errors.Internal, "the initramfs has no list of its modules")
	}
	defer func() { _ = f.Close() }()
	list, err := io.ReadAll(io.LimitReader(f, maxOrder))
	if err != nil {
		return nil, errors.Wrap(err, errors.Internal, "the list of the initramfs's modules cannot be read")
	}
	for line := range strings.Lines(string(list)) {
		if words := strings.Fields(line); len(words) > 0 {
			m.needs[words[0]] = words[1:]
		}
	}
	return m, nil
}

// load loads modules and what they need. One that the initramfs does not have is
// taken for built in, and one that is loaded is let be: what is missing then
// tells itself.
func (m *modules) load(names ...string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, name := range names {
		if err := m.loadOne(name); err != nil {
			return err
		}
	}
	return nil
}

func (m *modules) loadOne(name string) error {
	needs, there := m.needs[name]
	if !there {
		return nil
	}
	delete(m.needs, name) // also: no circle goes on for ever
	for _, need := range needs {
		if err := m.loadOne(need); err != nil {
			return err
		}
	}
	file, signature := name+".ko", name+".sig"
	err := m.insert(file)
	if errors.Is(err, unix.EKEYREJECTED) || errors.Is(err, unix.EPERM) { // the kernel insists on signatures
		if err := m.sign(file, signature); err != nil {
			return errors.Wrap(err, errors.Internal, "the kernel takes no module that is not signed, and %s is not", name)
		}
		err = m.insert(file)
	}
	// No such device: the module is one of hardware that is not there.
	if err != nil && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENODEV) {
		return errors.Wrap(err, errors.Internal, "the kernel module %s cannot be loaded", name)
	}
	_ = m.dir.Remove(file) // its memory is the machine's
	_ = m.dir.Remove(signature)
	return nil
}

func (m *modules) insert(file string) error {
	f, err := m.dir.Open(file)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	return os.NewSyscallError("finit_module", unix.FinitModule(int(f.Fd()), "", 0))
}

// sign puts a module's signature where kernels look for it.
func (m *modules) sign(file, signature string) error {
	text, err := m.dir.ReadFile(signature)
	if err != nil {
		return err
	}
	f, err := m.dir.OpenFile(file, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Close())
}

// byDevice are the modules of devices that a machine boots without, by the
// devices' numbers (Virtual I/O Device, section 5).
func byDevice() map[string]string {
	return map[string]string{"0x0001": "virtio_net", "0x0004": "virtio_rng", "0x0005": "virtio_balloon"}
}

// hardware are those of the modules whose devices the machine has.
func hardware(modules map[string]string) []string {
	devices, err := filepath.Glob("/sys/bus/virtio/devices/*/device")
	if err != nil {
		return nil
	}
	var names []string
	for _, path := range devices {
		number, err := os.ReadFile(path) // no error: gone meanwhile
		if name, wanted := modules[strings.TrimSpace(string(number))]; err == nil && wanted {
			names = append(names, name)
		}
	}
	return names
}
