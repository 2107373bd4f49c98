package agent_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/services/core/pkg/guest"
	"github.com/aetherium/aetherium/services/core/pkg/guest/lane"
)

func (r *rig) connect() net.Conn {
	r.t.Helper()
	conn, err := (&net.Dialer{}).DialContext(r.ctx, "unix", r.socket)
	must(r.t, err)
	r.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// serveAlso has the agent serve another socket, until it is stopped.
func (r *rig) serveAlso(as func(net.Listener) net.Listener) (socket string, stop func()) {
	r.t.Helper()
	socket = r.socket + ".also"
	l, err := net.Listen("unix", socket)
	must(r.t, err)
	ctx, cancel := context.WithCancel(r.ctx)
	served := make(chan error, 1)
	go func() { served <- r.agent.Serve(ctx, as(l)) }()
	return socket, func() {
		cancel()
		must(r.t, <-served)
	}
}

// What a connection speaks is told apart by its first bytes, however they come.
func TestConnectionsAreToldApart(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	whole := lane.Hello + "\x04\x00\x00\x00\x01\x04" // List
	for name, pieces := range map[string][]string{
		"a call at once":         {whole},
		"a call byte by byte":    strings.Split(whole, ""),
		"HTTP at once":           {"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"},
		"HTTP byte by byte":      strings.Split("GET /health HTTP/1.1\r\nHost: a\r\n\r\n", ""),
		"HTTP that begins alike": strings.Split("AET /health HTTP/1.1\r\nHost: a\r\n\r\n", ""),
	} {
		t.Run(name, func(t *testing.T) {
			conn := r.connect()
			for _, p := range pieces {
				_, err := io.WriteString(conn, p)
				must(t, err)
			}
			if strings.HasPrefix(name, "a call") {
				head := make([]byte, 5)
				if _, err := io.ReadFull(conn, head); err != nil || string(head) != "\x01\x00\x00\x00\x00" {
					t.Errorf("%q, %v", head, err)
				}
				return
			}
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			must(t, err)
			_ = resp.Body.Close()
			if want := map[bool]int{true: http.StatusNoContent, false: http.StatusMethodNotAllowed}[pieces[0][0] == 'G']; resp.StatusCode != want {
				t.Errorf("%s, not %d", resp.Status, want)
			}
		})
	}
}

// An agent that ends lets go of the connections of calls, those that watch among
// them.
func TestCallsEndWithTheAgent(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	socket, stop := r.serveAlso(func(l net.Listener) net.Listener { return l })
	conn, err := (&net.Dialer{}).DialContext(r.ctx, "unix", socket)
	must(t, err)
	defer func() { _ = conn.Close() }()
	_, err = io.WriteString(conn, lane.Hello+"\x04\x00\x00\x00\x01\x07") // Watch
	must(t, err)
	head := make([]byte, 5)
	_, err = io.ReadFull(conn, head)
	must(t, err)
	stop()
	if n, err := io.Copy(io.Discard, conn); n > 4<<10 { // it may say why
		t.Errorf("%d bytes, %v", n, err)
	}
}

// A call that is none ends its connection with a reason, or without, and no other.
func TestCallsThatAreNone(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for name, says := range map[string]string{
		"an unknown method":    "\x04\x00\x00\x00\x01\xff",
		"a message that isn't": "\x04\x00\x00\x00\x03\x03\xff\xff",
		"a frame that isn't":   "\x09\x00\x00\x00\x00",
		"too long":             "\x04\xff\xff\xff\xff",
		"a lane of nonsense":   "\x04\x00\x00\x00\x01\x08\x09\x00\x00\x00\x00",
	} {
		t.Run(name, func(t *testing.T) {
			conn := r.connect()
			_, err := io.WriteString(conn, lane.Hello+says)
			must(t, err)
			must(t, conn.(*net.UnixConn).CloseWrite())
			said, err := io.ReadAll(conn)
			must(t, err)
			if len(said) > 0 && said[0] != 3 {
				t.Errorf("it answers %q", said)
			}
		})
	}
	conn := r.connect()
	_, err := io.WriteString(conn, lane.Hello+"\x04\x00\x00\x00\x01\x04")
	must(t, err)
	if _, err := io.ReadFull(conn, make([]byte, 5)); err != nil {
		t.Errorf("the agent is gone: %v", err)
	}
}

// bare is a listener of connections as a machine's channel has them: they can only
// be closed, and the kernel knows nothing of them.
type bare struct{ net.Listener }

func (l bare) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	return struct{ net.Conn }{conn}, err
}

// A connection to a port ends with its server over a channel that cannot be closed
// one way, too.
func TestPortsOverAChannelThatClosesWhole(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	socket, stop := r.serveAlso(func(l net.Listener) net.Listener { return bare{l} })
	defer stop()
	server, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer func() { _ = server.Close() }()
	go func() {
		if conn, err := server.Accept(); err == nil {
			_, _ = io.WriteString(conn, "all")
			_ = conn.Close()
		}
	}()
	client := guest.New(func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}, guest.Options{})
	defer client.Close()
	conn, err := client.DialPort(r.ctx, uint16(server.Addr().(*net.TCPAddr).Port))
	must(t, err)
	defer func() { _ = conn.Close() }()
	must(t, conn.SetDeadline(time.Now().Add(limit/2)))
	if got, err := io.ReadAll(conn); string(got) != "all" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}
