package link

import (
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// The carrier of a veth end comes up by the kernel's link watch, after the
// call that set it up has returned. Until then the end's queue and its bridge
// port drop every frame in silence, and a machine's first packet would need a
// second try. The kernel announces the moment, so that is what is waited for.

// upWithin is far more than link watch needs on a busy host.
const upWithin = 10 * time.Second

// watch is a subscription to link changes in one network namespace.
type watch struct{ socket *nl.NetlinkSocket }

// watchLinks subscribes in the namespace that the pin names; in the calling thread's if empty.
func watchLinks(pin string) (watch, error) {
	ns := netns.None()
	if pin != "" {
		var err error
		if ns, err = netns.GetFromPath(pin); err != nil {
			return watch{}, err
		}
		defer func() { _ = ns.Close() }()
	}
	s, err := nl.SubscribeAt(ns, netns.None(), unix.NETLINK_ROUTE, unix.RTNLGRP_LINK)
	if err != nil {
		return watch{}, err
	}
	limit := unix.NsecToTimeval(upWithin.Nanoseconds())
	// Room for the news of a thousand links that come up at once.
	err = errors.Join(s.SetReceiveTimeout(&limit), s.SetReceiveBufferSize(4<<20, true))
	return watch{s}, err
}

func (w watch) close() {
	if w.socket != nil {
		w.socket.Close()
	}
}

// up waits until the link can send and receive. isUp asks the kernel, for
// when there was more news than the socket holds.
func (w watch) up(name string, isUp func() bool) error {
	for {
		messages, _, err := w.socket.Receive()
		if errors.Is(err, unix.ENOBUFS) {
			if isUp() {
				return nil
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("%s does not come up: %w", name, err)
		}
		for _, m := range messages {
			if m.Header.Type != unix.RTM_NEWLINK {
				continue
			}
			header := unix.NlMsghdr(m.Header)
			l, err := netlink.LinkDeserialize(&header, m.Data)
			if err == nil && l.Attrs().Name == name && l.Attrs().OperState == netlink.OperUp {
				return nil
			}
		}
	}
}

func isUp(name string) bool {
	l, err := netlink.LinkByName(name)
	return err == nil && l.Attrs().OperState == netlink.OperUp
}
