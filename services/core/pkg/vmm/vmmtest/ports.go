package vmmtest

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

var portTests = []behaviour{
	{"a server inside is reached", nil, testPort},
	{"many connections, much data", nil, testPortBulk},
	{"a server that says all and closes", nil, testPortEnds},
	{"a closed port", nil, testClosedPort},
}

// server answers each connection with what it read, in capitals.
const server = `
import socket, threading
s = socket.socket(); s.bind(("127.0.0.1", 0)); s.listen(64)
print("port", s.getsockname()[1], flush=True)
def serve(c):
    while True:
        b = c.recv(65536)
        if not b: break
        c.sendall(b.upper())
    c.close()
while True:
    c, _ = s.accept()
    threading.Thread(target=serve, args=(c,), daemon=True).start()
`

// serve starts the server and gives its port.
func (x *box) serve(t *testing.T) uint32 {
	t.Helper()
	return x.port(t, server)
}

// port runs a script that goes on after it told its port.
func (x *box) port(t *testing.T, script string) uint32 {
	t.Helper()
	id := x.start(t, python(script))
	f := x.follow(t, id)
	f.until("\n")
	port, err := strconv.ParseUint(strings.TrimSpace(strings.TrimPrefix(f.text.String(), "port ")), 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(port)
}

func testPort(t *testing.T, b *bed) {
	x := b.machine(t)
	port := x.serve(t)
	for i := range 3 {
		conn, err := b.Driver.Dial(timeout(t), x.id, port)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(callTimeout))
		text := fmt.Sprintf("hello %d", i)
		if _, err := io.WriteString(conn, text); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(text))
		if _, err := io.ReadFull(conn, got); err != nil || string(got) != strings.ToUpper(text) {
			t.Errorf("%q, %v", got, err)
		}
		_ = conn.Close()
	}
}

func testPortBulk(t *testing.T, b *bed) {
	x := b.machine(t)
	port := x.serve(t)
	const size = 4 << 20
	failed := make(chan error, 8)
	for range cap(failed) {
		go func() {
			conn, err := b.Driver.Dial(timeout(t), x.id, port)
			if err != nil {
				failed <- err
				return
			}
			defer func() { _ = conn.Close() }()
			_ = conn.SetDeadline(time.Now().Add(callTimeout))
			go func() { _, _ = io.WriteString(conn, strings.Repeat("a", size)) }()
			got := make([]byte, size)
			_, err = io.ReadFull(conn, got)
			if err == nil && strings.Trim(string(got), "A") != "" {
				err = errors.Plain("wrong bytes")
			}
			failed <- err
		}()
	}
	for range cap(failed) {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
}

// The end of what a server says arrives, also when nobody has said that to it.
func testPortEnds(t *testing.T, b *bed) {
	x := b.machine(t)
	port := x.port(t, `
import socket
s = socket.socket(); s.bind(("127.0.0.1", 0)); s.listen(64)
print("port", s.getsockname()[1], flush=True)
while True:
    c, _ = s.accept()
    c.recv(1)
    c.sendall(b"all" * 30000)
    c.close()
`)
	for range 3 {
		conn, err := b.Driver.Dial(timeout(t), x.id, port)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(callTimeout))
		if _, err := io.WriteString(conn, "?"); err != nil {
			t.Error(err)
		}
		if got, err := io.ReadAll(conn); err != nil || string(got) != strings.Repeat("all", 30000) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		_ = conn.Close()
	}
}

func testClosedPort(t *testing.T, b *bed) {
	x := b.machine(t)
	// Taken, so that nothing else gets it, and not listened on.
	port := x.port(t, `
import socket, time
s = socket.socket(); s.bind(("127.0.0.1", 0))
print("port", s.getsockname()[1], flush=True)
time.sleep(1000)
`)
	if conn, err := b.Driver.Dial(timeout(t), x.id, port); !errors.HasCode(err, errors.Unavailable) {
		if err == nil {
			_ = conn.Close()
		}
		t.Errorf("%v, want unavailable", err)
	}
	if _, err := b.Driver.Dial(timeout(t), string(domain.NewID()), port); !errors.HasCode(err, errors.NotFound) && !errors.HasCode(err, errors.Conflict) {
		t.Errorf("of a machine that is none: %v, want not_found", err)
	}
}
