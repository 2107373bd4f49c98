package boot

import (
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/guest/bootline"
	"github.com/aetherium/aetherium/services/core/pkg/guest/mux"
)

func channelModule(channel string) string {
	if channel == bootline.ChannelVsock {
		return "vmw_vsock_virtio_transport"
	}
	return "virtio_console"
}

// listen takes the host's connections from the channel.
func listen(ctx context.Context, channel string, events *events, log *slog.Logger) ([]net.Listener, error) {
	if channel == bootline.ChannelVsock {
		return listenVsock()
	}
	p, err := openPort(ctx, channel, events)
	if err != nil {
		return nil, err
	}
	return []net.Listener{mux.New(mux.Guest, p.open, mux.Options{Log: log}).Listener()}, nil
}

func listenVsock() ([]net.Listener, error) {
	var all []net.Listener
	for i := range uint32(bootline.AgentPorts) {
		l, err := vsock.ListenContextID(unix.VMADDR_CID_ANY, bootline.AgentPort+i, nil)
		if err != nil {
			return nil, errors.Wrap(err, errors.GuestFault, "the machine's vsock cannot be listened on")
		}
		all = append(all, whole{l})
	}
	return all, nil
}

// whole is a listener whose connections end both ways at once. Firecracker does not
// tell its host of one that was closed in one direction: who reads there to the end
// of a stream would wait for ever.
type whole struct{ net.Listener }

func (l whole) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return struct{ net.Conn }{conn}, nil
}

// port is a virtio serial port. It stays open, so that nobody else takes it.
type port struct {
	file *os.File
	raw  interface {
		Write(func(fd uintptr) bool) error
	}
}

// openPort waits for the port of a name, which a host tells some time after it
// has shown the port.
func openPort(ctx context.Context, name string, events *events) (*port, error) {
	var device string
	err := events.await(ctx, "port "+name, func() (bool, error) {
		names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
		if err != nil {
			return false, errors.Wrap(err, errors.Internal, "the machine's ports cannot be listed")
		}
		for _, path := range names {
			if got, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(got)) == name {
				device = "/dev/" + filepath.Base(filepath.Dir(path))
				_, err := os.Stat(device)
				return err == nil, nil
			}
		}
		return false, nil
	})
	if err != nil {
		return nil, err
	}
	p := &port{}
	if p.file, err = os.OpenFile(device, os.O_RDWR|unix.O_NONBLOCK, 0); err != nil {
		return nil, errors.Wrap(err, errors.Internal, "the port %s cannot be opened", name)
	}
	if p.raw, err = p.file.SyscallConn(); err != nil {
		return nil, errors.Wrap(err, errors.Internal, "the port %s cannot be opened", name)
	}
	return p, nil
}

// open waits until the host has opened its end, which until then reads as ended.
func (p *port) open(ctx context.Context) (io.ReadWriteCloser, error) {
	if err := p.file.SetDeadline(time.Time{}); err != nil {
		return nil, errors.Wrap(err, errors.Internal, "the port cannot be waited for")
	}
	stop := context.AfterFunc(ctx, func() { _ = p.Close() })
	defer stop()
	var lost error
	err := p.raw.Write(func(fd uintptr) bool {
		state := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}} //nolint:gosec // a descriptor
		if _, lost = unix.Poll(state, 0); lost != nil {
			return !errors.Is(lost, unix.EINTR)
		}
		return state[0].Revents&unix.POLLHUP == 0
	})
	if err = errors.Join(err, lost); err != nil {
		return nil, errors.Wrap(err, errors.Unavailable, "the host does not open the port")
	}
	return p, nil
}

func (p *port) Read(b []byte) (int, error)  { return p.file.Read(b) }
func (p *port) Write(b []byte) (int, error) { return p.file.Write(b) }

// Close ends a Read and a Write that block.
func (p *port) Close() error { return p.file.SetDeadline(time.Now()) }
