package boot

import (
	"context"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// patience bounds a boot: what is not there by then never comes.
const patience = time.Minute

// events tells that hardware came up, as the kernel says it to all who listen
// (netlink(7), NETLINK_KOBJECT_UEVENT). Whoever waits for something begins to
// listen before looking for it.
type events struct{ socket *os.File }

func listenEvents() (*events, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err == nil {
		if err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
			_ = unix.Close(fd)
		}
	}
	if err != nil {
		return nil, errors.Wrap(err, errors.Internal, "the kernel's events cannot be heard")
	}
	return &events{os.NewFile(uintptr(fd), "uevent")}, nil
}

func (e *events) close() { _ = e.socket.Close() }

// await returns when found does. Returns GuestFault when that takes too long.
func (e *events) await(ctx context.Context, what string, found func() (bool, error)) error {
	deadline, _ := ctx.Deadline()
	if err := e.socket.SetReadDeadline(deadline); err != nil {
		return errors.Wrap(err, errors.Internal, "the kernel's events cannot be waited for")
	}
	event := make([]byte, 8<<10)
	for {
		if ok, err := found(); ok || err != nil {
			return err
		}
		// Too many of them are as good as one (ENOBUFS).
		if _, err := e.socket.Read(event); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return errors.Wrap(err, errors.GuestFault, "the machine has no %s", what)
		}
	}
}
