// Package redistest runs Redis servers for tests.
package redistest

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/logging"
	"github.com/aetherium/aetherium/services/core/pkg/redis"
	goredis "github.com/redis/go-redis/v9"
)

// Server is a Redis on a Unix socket. It ends with the process that started it,
// however that ends.
type Server struct {
	dir     string
	options []string
	process *os.Process
	ended   chan struct{}
}

// Start starts a server for a test, with which it ends. Options are as
// redis-server takes them.
func Start(t testing.TB, options ...string) *Server {
	t.Helper()
	s, err := New(options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// New starts a server that is ended by [Server.Stop].
func New(options ...string) (*Server, error) {
	dir, err := os.MkdirTemp("", "redis") // a socket's path is short
	if err != nil {
		return nil, err
	}
	s := &Server{dir: dir, options: options}
	if err := s.run(); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

// Stop ends the server and removes what it kept.
func (s *Server) Stop() error { return errors.Join(s.kill(), os.RemoveAll(s.dir)) }

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
	if err := s.kill(); err != nil {
		t.Error(err)
	}
}

func (s *Server) kill() error {
	if s.process == nil {
		return nil
	}
	err := s.process.Kill()
	<-s.ended
	s.process = nil
	return err
}

// PID is the server's process.
func (s *Server) PID() int { return s.process.Pid }

// Restart starts the server again, with what it has kept, and waits until it serves.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	if err := s.run(); err != nil {
		t.Fatal(err)
	}
}

func (s *Server) run() error {
	if err := os.Remove(s.socket()); err != nil && !os.IsNotExist(err) {
		return err
	}
	cmd := exec.Command("redis-server", append([]string{ //nolint:noctx // ended by kill
		"--port", "0", "--unixsocket", s.socket(), "--unixsocketperm", "700", "--dir", s.dir, "--save", "", "--daemonize", "no",
	}, s.options...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	begun, ready := make(chan error, 1), make(chan bool, 1)
	ended := make(chan struct{})
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
		close(ended)
	}()
	if err := <-begun; err != nil {
		return fmt.Errorf("redis-server does not start: %w (scripts/install-deps.sh --test installs it)", err)
	}
	s.process, s.ended = cmd.Process, ended
	if !<-ready {
		return errors.Plain("redis-server ended instead of serving")
	}
	return nil
}
