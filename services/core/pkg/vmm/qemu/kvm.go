package qemu

import (
	"context"
	"os"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"golang.org/x/sys/unix"
)

// proveKVM boots a kernel without any disk with KVM: it has come all the way up
// when it says that it finds no root. The presence of /dev/kvm proves nothing:
// under some hypervisors guests begin and then hang.
func (e *Engine) proveKVM(ctx context.Context, h *host) error {
	if err := h.useKVM(); err != nil {
		return err
	}
	if e.cfg.Kernel == nil {
		if e.cfg.Accelerator == KVM {
			return nil
		}
		return errors.Plain("there is no kernel to prove KVM with")
	}
	kernel, err := e.cfg.Kernel(ctx)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "aetherium-kvm-")
	if err != nil {
		return err
	}
	defer os.Remove(dir)
	m := machine{host: h, cpus: 1, memory: 128 << 20, kernel: &bootable{image: imageName, line: "console=ttyS0 quiet loglevel=1 panic=-1 reboot=t"}}
	l := &launch{
		dir: dir, uid: nobody, tied: true, limit: 0,
		shown: []shown{{name: imageName, path: bootImage(kernel)}},
		args:  append(m.args(), "-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"),
	}
	p, err := l.start(h)
	if err != nil {
		return err
	}
	text := make(chan string, 1)
	go func() { text <- p.everything() }()
	select {
	case said := <-text:
		p.kill()
		if !strings.Contains(said, "VFS: ") {
			return errors.Plain("a kernel ended early: " + said)
		}
		return nil
	case <-time.After(proofPatience):
		err = errors.Plain("a kernel does not come up")
	case <-ctx.Done():
		err = ctx.Err()
	}
	_ = unix.Kill(p.pid, unix.SIGKILL)
	<-text
	p.kill()
	return err
}

const kvmDevice = "/dev/kvm"

// nobody is the user that owns nothing.
const nobody = 65534
