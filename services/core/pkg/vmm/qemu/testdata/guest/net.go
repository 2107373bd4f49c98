package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/aetherium/aetherium/services/core/pkg/guest/bootline"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// serveVsock serves on the agent's ports of the vsock.
func serveVsock(s *http.Server) error {
	failed := make(chan error, bootline.AgentPorts)
	for i := range uint32(bootline.AgentPorts) {
		l, err := listenVsock(bootline.AgentPort + i)
		if err != nil {
			return err
		}
		go func() { failed <- s.Serve(l) }()
	}
	return <-failed
}

func listenVsock(port uint32) (net.Listener, error) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Bind(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: port}); err != nil {
		return nil, err
	}
	if err := unix.Listen(fd, 64); err != nil {
		return nil, err
	}
	return &vsockListener{fd: fd}, nil
}

// vsockListener accepts with blocking calls: package net knows no vsock.
type vsockListener struct{ fd int }

func (l *vsockListener) Accept() (net.Conn, error) {
	for {
		fd, _, err := unix.Accept4(l.fd, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		if err == unix.EINTR {
			continue
		} else if err != nil {
			return nil, err
		}
		return vsockConn{os.NewFile(uintptr(fd), "vsock")}, nil
	}
}

func (l *vsockListener) Close() error   { return unix.Close(l.fd) }
func (l *vsockListener) Addr() net.Addr { return vsockAddr{} }

type vsockAddr struct{}

func (vsockAddr) Network() string { return "vsock" }
func (vsockAddr) String() string  { return strconv.Itoa(bootline.AgentPort) }

type vsockConn struct{ *os.File }

func (vsockConn) LocalAddr() net.Addr  { return vsockAddr{} }
func (vsockConn) RemoteAddr() net.Addr { return vsockAddr{} }

// setLink gives the network device an address, with one on the other side.
func setLink(w http.ResponseWriter, r *http.Request) {
	err := func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		addr, err := netlink.ParseAddr(r.URL.Query().Get("address"))
		if err != nil {
			return err
		}
		if err := netlink.AddrReplace(link, addr); err != nil {
			return err
		}
		return netlink.LinkSetUp(link)
	}()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

// askPeer reads what a TCP server says.
func askPeer(w http.ResponseWriter, r *http.Request) {
	conn, err := net.DialTimeout("tcp", r.URL.Query().Get("address"), 20*time.Second)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	text, err := io.ReadAll(io.LimitReader(conn, 1024))
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	fmt.Fprintf(w, "%s", text)
}
