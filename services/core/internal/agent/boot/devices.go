package boot

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// devicePatience bounds how long a device may take to appear.
const devicePatience = 20 * time.Second

// devices hears of new devices from the kernel
// (NETLINK_KOBJECT_UEVENT, netlink(7)).
type devices struct{ fd int }

// watchDevices begins to listen: what appears from now on is not missed.
func watchDevices() (*devices, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("bind", err)
	}
	return &devices{fd}, nil
}

func (d *devices) close() { _ = unix.Close(d.fd) }

// wait waits until a device's file is there.
func (d *devices) wait(path string) error {
	end := time.Now().Add(devicePatience)
	buf := make([]byte, 8<<10)
	for {
		if _, err := os.Stat(path); err == nil {
			return nil
		}
		left := time.Until(end)
		if left <= 0 {
			return fmt.Errorf("the device %s did not appear", path)
		}
		// What the news is does not matter: it is looked again.
		fds := []unix.PollFd{{Fd: int32(d.fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, int(left.Milliseconds())+1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("poll", err)
		}
		if n > 0 {
			_, _, _ = unix.Recvfrom(d.fd, buf, unix.MSG_DONTWAIT) // ENOBUFS: some news was lost, and this is some
		}
	}
}
