package netif

import (
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// DropConnections ends the machine's TCP connections to others (sock_diag(7),
// SOCK_DESTROY): their programs get ECONNABORTED. Call it once the machine has
// its new address: of what the kernel sends to the other side nothing leaves by
// the old one. Those over loopback go on.
// Returns Unsupported where the kernel cannot (CONFIG_INET_DIAG_DESTROY, and
// the module tcp_diag).
func DropConnections() error {
	h, err := netlink.NewHandle(unix.NETLINK_INET_DIAG)
	if err != nil {
		return errors.Wrap(err, errors.Unsupported, "the machine's connections cannot be listed: %s", err)
	}
	defer h.Close()
	var failed error
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} { // the latter also has IPv4's, mapped
		list, err := h.SocketDiagTCP(family)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) { // what was missed then is new
			return errors.Wrap(err, errors.Unsupported, "the machine's connections cannot be listed: %s", err)
		}
		for _, s := range list {
			if s.State == unix.BPF_TCP_LISTEN || s.ID.Source.IsLoopback() || s.ID.Destination.IsLoopback() {
				continue
			}
			if err := drop(h, s); err != nil {
				failed = errors.Wrap(err, errors.Unsupported, "a connection of the machine cannot be ended: %s", err)
			}
		}
	}
	return failed
}

func drop(h *netlink.Handle, s *netlink.Socket) error {
	err := h.SocketDestroy(
		&net.TCPAddr{IP: s.ID.Source, Port: int(s.ID.SourcePort)},
		&net.TCPAddr{IP: s.ID.Destination, Port: int(s.ID.DestinationPort)},
	)
	switch {
	case errors.Is(err, unix.ENOENT): // it ended by itself
		return nil
	case errors.Is(err, unix.EOPNOTSUPP) && s.State == unix.BPF_TCP_TIME_WAIT: // no program has it any more
		return nil
	case errors.Is(err, netlink.ErrNotImplemented): // IPv6, which machines do not have
		return nil
	}
	return err
}
