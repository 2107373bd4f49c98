package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// processes of the host and of others: by number, none can be seen or reached.
func processes(pids []string) {
	for _, text := range pids {
		pid, _ := strconv.Atoi(text)
		attempt("signal the process "+text+" of the host", func() error { return unix.Kill(pid, 0) })
		attempt("trace the process "+text+" of the host", func() error { return unix.PtraceAttach(pid) })
	}
	all, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, path := range all {
		comm, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		name := strings.TrimSpace(string(comm))
		check("sees "+name, name == "fc-agent" || name == "intruder", "it belongs to somebody else")
	}
}

// sockets of the host: abstract names are a network namespace's own.
func sockets(names []string) {
	for _, name := range names {
		for _, kind := range []string{"unix", "unixgram", "unixpacket"} {
			attempt("connect to "+name+" by "+kind, func() error {
				c, err := net.Dial(kind, name)
				if err == nil {
					_ = c.Close()
				}
				return err
			})
		}
	}
	table, _ := os.ReadFile("/proc/net/unix")
	for _, name := range names {
		check("sees the socket "+name, !bytes.Contains(table, []byte(strings.TrimPrefix(name, "@"))), "it is listed")
	}
	// The interfaces are the machine's to use and not to change.
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err == nil {
		defer unix.Close(fd)
		ifr, _ := unix.NewIfreq("lo")
		ifr.SetUint16(0)
		attempt("take an interface down", func() error { return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr) })
	}
	for _, family := range []int{unix.NETLINK_AUDIT, unix.NETLINK_NETFILTER} {
		s, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, family)
		if err != nil {
			continue
		}
		// NFNL_MSG_BATCH_BEGIN or AUDIT_GET: both want a capability that is not there.
		msg := []byte{20, 0, 0, 0, 16, 0, 5, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10}
		_ = unix.Sendto(s, msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		_ = unix.SetsockoptTimeval(s, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 200000})
		buf := make([]byte, 4096)
		n, _, err := unix.Recvfrom(s, buf, 0)
		_ = unix.Close(s)
		switch {
		case err != nil:
			held(fmt.Sprintf("netlink family %d", family), err)
		case n >= 20 && buf[4] == unix.NLMSG_ERROR && int32(uint32(buf[16])|uint32(buf[17])<<8|uint32(buf[18])<<16|uint32(buf[19])<<24) < 0:
			held(fmt.Sprintf("netlink family %d", family), errors.New("refused"))
		default:
			breach("netlink", "family %d answers %x", family, buf[:n])
		}
	}
}

// target is a place that must not be reached.
type target struct{ What, Network, Address string }

// connect tries targets; "open" ones must be reached, so that the others'
// refusal means something.
func connect(args []string) {
	var targets []target
	if err := json.Unmarshal([]byte(args[0]), &targets); err != nil {
		breach("targets", "%v", err)
		return
	}
	for _, t := range targets {
		err := reach(t)
		if strings.HasPrefix(t.What, "open: ") {
			check(t.What, err == nil, fmt.Sprint(err))
			continue
		}
		if err != nil {
			held(t.What, err)
			continue
		}
		breach(t.What, "%s %s answers", t.Network, t.Address)
	}
}

func reach(t target) error {
	const patience = 3 * time.Second
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := new(net.Dialer).DialContext(ctx, t.Network, t.Address)
	if err != nil {
		return err
	}
	defer c.Close()
	if strings.HasPrefix(t.Network, "udp") {
		_ = c.SetDeadline(time.Now().Add(patience / 10))
		if _, err := c.Write([]byte("hello")); err != nil {
			return err
		}
		_, err = c.Read(make([]byte, 64))
	}
	return err
}

// scan tries every port of an address but those that are given.
func scan(args []string) {
	allowed := map[string]bool{}
	for _, p := range args[1:] {
		allowed[p] = true
	}
	open, tried := 0, 0
	for port := 1; port <= 4096; port++ {
		text := strconv.Itoa(port)
		if allowed[text] {
			continue
		}
		tried++
		c, err := net.DialTimeout("tcp", net.JoinHostPort(args[0], text), 3*time.Second)
		if err == nil {
			_ = c.Close()
			open++
			breach("a port", "%s:%d is open", args[0], port)
		}
	}
	note("%d of %d ports of %s are open", open, tried, args[0])
}

// marker is in every frame that is forged.
const marker = "forged-by-the-intruder"

// frames forges: arguments are its own MAC and address, those of a neighbour, and the gateway's.
func frames(args []string) {
	var ownMAC, otherMAC, gwMAC net.HardwareAddr
	ownMAC, _ = net.ParseMAC(args[0])
	own := net.ParseIP(args[1]).To4()
	otherMAC, _ = net.ParseMAC(args[2])
	other := net.ParseIP(args[3]).To4()
	gwMAC, _ = net.ParseMAC(args[4])
	gw := net.ParseIP(args[5]).To4()
	eth, err := net.InterfaceByName("eth0")
	if err != nil {
		breach("frames", "%v", err)
		return
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, int(htons(unix.ETH_P_ALL)))
	if err != nil {
		held("frames", err)
		return
	}
	defer unix.Close(fd)
	all := net.HardwareAddr{255, 255, 255, 255, 255, 255}
	arp := func(op byte, senderMAC net.HardwareAddr, sender net.IP, targetMAC net.HardwareAddr, to net.IP) []byte {
		p := append([]byte{0, 1, 8, 0, 6, 4, 0, op}, senderMAC...)
		p = append(append(append(p, sender...), targetMAC...), to...)
		return append(p, marker...)
	}
	sent := 0
	for _, f := range []struct {
		to, from net.HardwareAddr
		kind     uint16
		payload  []byte
	}{
		{all, ownMAC, unix.ETH_P_ARP, arp(2, ownMAC, gw, otherMAC, other)},      // I am the gateway
		{otherMAC, ownMAC, unix.ETH_P_ARP, arp(2, ownMAC, gw, otherMAC, other)}, // to the neighbour alone
		{gwMAC, ownMAC, unix.ETH_P_ARP, arp(2, ownMAC, other, gwMAC, gw)},       // I am the neighbour
		{all, otherMAC, unix.ETH_P_ARP, arp(1, otherMAC, other, make([]byte, 6), gw)},
		{otherMAC, ownMAC, unix.ETH_P_IP, ipv4(own, other)},
		{otherMAC, gwMAC, unix.ETH_P_IP, ipv4(gw, other)}, // as if from the gateway
		{all, ownMAC, unix.ETH_P_IP, ipv4(own, net.IPv4bcast.To4())},
		{net.HardwareAddr{1, 0, 0x5e, 0, 0, 0xfb}, ownMAC, unix.ETH_P_IP, ipv4(own, net.IPv4(224, 0, 0, 251).To4())},
		{net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, ownMAC, unix.ETH_P_IPV6, ipv6(ownMAC)},
		{otherMAC, ownMAC, unix.ETH_P_IPV6, ipv6(ownMAC)},
		{otherMAC, ownMAC, 0x88b5, []byte(marker)}, // a type for experiments (IEEE 802)
		{otherMAC, ownMAC, unix.ETH_P_8021Q, append([]byte{0, 7, 8, 0}, ipv4(own, other)...)},
	} {
		frame := append(append(append([]byte{}, f.to...), f.from...), byte(f.kind>>8), byte(f.kind))
		if err := unix.Sendto(fd, append(frame, f.payload...), 0, &unix.SockaddrLinklayer{Ifindex: eth.Index, Halen: 6}); err == nil {
			sent++
		}
	}
	note("%d frames were sent", sent)
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

func ipv4(src, dst net.IP) []byte {
	body := append([]byte{0x10, 0xe1, 0x23, 0x28, 0, byte(8 + len(marker)), 0, 0}, marker...)
	p := []byte{0x45, 0, 0, byte(20 + len(body)), 0, 1, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}
	p = append(append(p, src...), dst...)
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(p[i])<<8 | uint32(p[i+1])
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	p[10], p[11] = byte(^sum>>8), byte(^sum)
	return append(p, body...)
}

// ipv6 is a packet of no upper layer from a link-local address to all nodes.
func ipv6(mac net.HardwareAddr) []byte {
	p := []byte{0x60, 0, 0, 0, 0, byte(len(marker)), 59, 255}
	p = append(p, 0xfe, 0x80, 0, 0, 0, 0, 0, 0, mac[0]^2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5])
	p = append(p, 0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1)
	return append(p, marker...)
}

// sniff says "ready", then looks at every frame that comes until one with the
// given text, and counts what was forged or is another's.
func sniff(args []string) {
	eth, err := net.InterfaceByName("eth0")
	if err != nil {
		breach("sniffing", "%v", err)
		return
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, int(htons(unix.ETH_P_ALL)))
	if err != nil {
		breach("sniffing", "%v", err)
		return
	}
	_ = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: eth.Index})
	_ = unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &unix.PacketMreq{Ifindex: int32(eth.Index), Type: unix.PACKET_MR_PROMISC})
	fmt.Println("ready")
	buf := make([]byte, 65536)
	for n := 0; ; n++ {
		size, from, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			breach("sniffing", "%v", err)
			return
		}
		frame := buf[:size]
		switch ll, _ := from.(*unix.SockaddrLinklayer); {
		case bytes.Contains(frame, []byte(args[0])):
			note("%d frames came", n)
			return
		case ll != nil && ll.Pkttype == unix.PACKET_OUTGOING:
		case bytes.Contains(frame, []byte(marker)):
			breach("sniffing", "a forged frame came: %x", frame[:min(size, 64)])
		case ll != nil && ll.Pkttype == unix.PACKET_OTHERHOST:
			breach("sniffing", "another's frame came: %x", frame[:min(size, 64)])
		}
	}
}

// agent: what root can do to the agent of its own machine. It is the guest's
// own, so nothing here is refused for sure; what matters is what the host does
// then. A datagram to the given address says that all was tried but its death.
func agent(args []string) {
	begun()
	pidfd, _, errno := unix.Syscall(unix.SYS_PIDFD_OPEN, 1, 0, 0)
	for fd := range uintptr(32) {
		if errno != 0 {
			break
		}
		got, _, errno := unix.Syscall(unix.SYS_PIDFD_GETFD, pidfd, fd, 0)
		if errno != 0 {
			continue
		}
		var st unix.Stat_t
		_, err := unix.Getsockname(int(got))
		if err == nil || unix.Fstat(int(got), &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR {
			// Frames that no agent sends, on connections that are the host's.
			_ = unix.SetNonblock(int(got), true)
			_, _ = unix.Write(int(got), bytes.Repeat([]byte{0xff, 0xfe, 0, 1}, 4096))
			_ = unix.Shutdown(int(got), unix.SHUT_RDWR)
		}
	}
	for _, s := range []unix.Signal{unix.SIGKILL, unix.SIGSTOP, unix.SIGHUP, unix.SIGQUIT} {
		_ = unix.Kill(1, s)
	}
	if c, err := net.Dial("udp", args[0]); err == nil {
		_, _ = c.Write([]byte(args[1]))
	}
	// And what may be its end, and so the machine's.
	_ = unix.Kill(1, unix.SIGSEGV)
	_ = unix.PtraceAttach(1)
	select {} // holds on to it
}
