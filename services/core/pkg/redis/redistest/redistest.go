// Package redistest runs Redis servers for tests.
package redistest

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/logging"
	"github.com/aetherium/aetherium/services/core/pkg/redis"
	goredis "github.com/redis/go-redis/v9"
)

// Server is a Redis on a Unix socket. It ends with the test, or with the test's
// process however that ends.
type Server struct {
	dir     string
	options []string
	process *os.Process
	ended   chan struct{}
}

// Start starts a server with options as redis-server takes them.
func Start(t testing.TB, options ...string) *Server {
	t.Helper()
	dir, err := os.MkdirTemp("", "redis") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{dir: dir, options: options}
	s.Restart(t)
	t.Cleanup(func() {
		s.Kill(t)
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return s
}

// Address is the server's, for [redis.Open].
func (s *Server) Address() logging.Secret { return logging.Secret("unix://" + s.socket()) }

func (s *Server) socket() string { return filepath.Join(s.dir, "s") }

// Client connects to the server.
func (s *Server) Client(t testing.TB) *goredis.Client {
	t.Helper()
	o, err := redis.Parse(s.Address())
	if err != nil {
		t.Fatal(err)
	}
	c := goredis.NewClient(o)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// Kill ends the server as kill -9 does. Twice is fine.
func (s *Server) Kill(t testing.TB) {
	t.Helper()
	if s.process == nil {
		return
	}
	if err := s.process.Kill(); err != nil {
		t.Error(err)
	}
	<-s.ended
	s.process = nil
}

// PID is the server's process.
func (s *Server) PID() int { return s.process.Pid }

// Restart starts the server again, with what it has kept, and waits until it serves.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	if err := os.Remove(s.socket()); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "redis-server", append([]string{
		"--port", "0", "--unixsocket", s.socket(), "--unixsocketperm", "700", "--dir", s.dir, "--save", "", "--daemonize", "no",
	}, s.options...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	begun, ready := make(chan error, 1), make(chan bool, 1)
	s.ended = make(chan struct{})
	go func() {
		runtime.LockOSThread() // the signal comes when the thread ends that started it
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		begun <- err
		if err != nil {
			return
		}
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if strings.Contains(lines.Text(), "eady to accept connections") {
				ready <- true
			}
		}
		close(ready)
		_ = cmd.Wait() // killed, as a rule
		close(s.ended)
	}()
	if err := <-begun; err != nil {
		t.Fatalf("redis-server does not start: %v (scripts/install-deps.sh --test installs it)", err)
	}
	s.process = cmd.Process
	if !<-ready {
		t.Fatal("redis-server ended instead of serving")
	}
}
