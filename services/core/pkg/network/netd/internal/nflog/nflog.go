// Package nflog receives what nftables' log statement sends to a group
// (nfnetlink_log, linux/netfilter/nfnetlink_log.h).
package nflog

import (
	"encoding/binary"
	"net/netip"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// From linux/netfilter/nfnetlink_log.h.
const (
	subsystem   = 4 // NFNL_SUBSYS_ULOG
	msgPacket   = 0
	msgConfig   = 1
	cfgCommand  = 1
	cfgMode     = 2
	cfgTimeout  = 4
	cfgQueued   = 5
	commandBind = 1
	copyPacket  = 2
	attrPayload = 9
	attrPrefix  = 10
)

const (
	copyBytes  = 64      // of a packet
	bufferSize = 1 << 20 // of the socket
	maxWait    = 5       // hundredths of a second that the kernel gathers packets
	maxQueued  = 64      // packets that it gathers
	maxPrefix  = 128
)

// Flow is a packet that began something.
type Flow struct {
	Prefix   string
	From, To netip.Addr
	Protocol uint8
	Port     uint16 // TCP's or UDP's destination
}

// Reader receives a group's packets.
type Reader struct{ conn *netlink.Conn }

// Open binds to a group. It needs CAP_NET_ADMIN; reading does not. Returns
// Unsupported where the kernel lacks nfnetlink_log, Unavailable when somebody
// else has the group.
func Open(group uint16) (*Reader, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, errors.Wrap(err, errors.Unsupported, "the kernel's packet log cannot be reached")
	}
	_ = conn.SetReadBuffer(bufferSize)
	r := &Reader{conn}
	if err := r.bind(group); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return r, nil
}

func (r *Reader) bind(group uint16) error {
	u32 := func(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }
	attrs, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: cfgCommand, Data: []byte{commandBind}},
		{Type: cfgMode, Data: append(u32(copyBytes), copyPacket, 0)},
		{Type: cfgTimeout, Data: u32(maxWait)},
		{Type: cfgQueued, Data: u32(maxQueued)},
	})
	if err != nil {
		return errors.Wrap(err, errors.Internal, "cannot describe the packet log")
	}
	header := []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, byte(group >> 8), byte(group)}
	_, err = r.conn.Send(netlink.Message{
		Header: netlink.Header{Type: subsystem<<8 | msgConfig, Flags: netlink.Request | netlink.Acknowledge},
		Data:   append(header, attrs...),
	})
	for err == nil {
		var messages []netlink.Message
		messages, err = r.conn.Receive()
		for _, m := range messages {
			if m.Header.Type == netlink.Error {
				return nil // the acknowledgement; packets that were quicker are lost
			}
		}
	}
	return errors.Wrap(err, errors.Unavailable, "the packet log's group %d cannot be had", group).WithHint("the kernel needs nfnetlink_log")
}

// Close ends Read.
func (r *Reader) Close() error { return r.conn.Close() }

// Read gives packets until Close. lost is called when the kernel had more than
// the socket could hold; how many is not known.
func (r *Reader) Read(each func(Flow), lost func()) {
	for {
		messages, err := r.conn.Receive()
		if errors.Is(err, unix.ENOBUFS) {
			lost()
			continue
		}
		if err != nil {
			return
		}
		for _, m := range messages {
			if m.Header.Type != subsystem<<8|msgPacket {
				continue
			}
			if f, ok := Parse(m.Data); ok {
				each(f)
			}
		}
	}
}

// Parse reads a packet message: nfgenmsg and attributes.
func Parse(message []byte) (f Flow, ok bool) {
	if len(message) < 4 {
		return f, false
	}
	d, err := netlink.NewAttributeDecoder(message[4:])
	if err != nil {
		return f, false
	}
	for d.Next() {
		switch d.Type() {
		case attrPrefix:
			prefix := d.Bytes()
			f.Prefix = strings.TrimRight(string(prefix[:min(len(prefix), maxPrefix)]), "\x00")
		case attrPayload:
			ok = f.packet(d.Bytes())
		}
	}
	return f, ok && d.Err() == nil
}

// packet reads an IPv4 header (RFC 791) and the ports behind it.
func (f *Flow) packet(b []byte) bool {
	if len(b) < 20 || b[0]>>4 != 4 {
		return false
	}
	header := int(b[0]&15) * 4
	if header < 20 {
		return false
	}
	f.Protocol = b[9]
	f.From, f.To = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	first := binary.BigEndian.Uint16(b[6:8])&0x1fff == 0 // not a later fragment
	if first && (f.Protocol == unix.IPPROTO_TCP || f.Protocol == unix.IPPROTO_UDP) && len(b) >= header+4 {
		f.Port = binary.BigEndian.Uint16(b[header+2 : header+4])
	}
	return true
}
