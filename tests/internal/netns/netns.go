// Package netns is what tests need of network namespaces that they have made.
package netns

import (
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// LinkUp gives a link of the thread's own namespace addresses (CIDR), and brings it up.
func LinkUp(name string, addresses ...string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	for _, a := range addresses {
		addr, err := netlink.ParseAddr(a)
		if err == nil {
			err = netlink.AddrAdd(l, addr)
		}
		if err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(l)
}

// In runs f in the namespace of a file, such as /proc/PID/ns/net. What it opens
// stays there.
func In(path string, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			if err = unix.Setns(fd, unix.CLONE_NEWNET); err == nil {
				err = f()
			}
			_ = unix.Close(fd)
		}
		done <- err
	}()
	return <-done
}
