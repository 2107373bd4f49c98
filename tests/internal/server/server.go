// Package server runs a real Aetherium server for the end-to-end tests and the
// benchmarks: the built binaries, a data directory and a port of its own, on
// loopback.
package server

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/aetherium/aetherium/services/core/pkg/client"
)

// Server is one running installation.
type Server struct {
	Bin     string // directory of the binaries
	DataDir string
	// RuntimeDir is the server's own, which tells it from others on the host.
	RuntimeDir string
	URL        string
	Key        string
	Env        []string // of the server and of commands run by CLI
	Through    []string // a program and arguments that a process of a [Fleet] is started by

	lease lease // known once it was started
	// program is what runs; empty: all in one process.
	program string
	once    []string // settings of the first start alone
}

// Root is the repository's root, found upward from the working directory.
func Root() (string, error) {
	dir, err := os.Getwd()
	for err == nil {
		if _, serr := os.Stat(filepath.Join(dir, "go.work")); serr == nil {
			return dir, nil
		}
		if filepath.Dir(dir) == dir {
			return "", fmt.Errorf("not inside the repository")
		}
		dir = filepath.Dir(dir)
	}
	return "", err
}

// New prepares an installation in a data directory; nothing runs yet. extra
// are further AETHERIUM_* settings as NAME=value.
func New(dataDir string, extra ...string) (*Server, error) {
	root, err := Root()
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	address := "127.0.0.1:" + strconv.Itoa(port)
	bin := os.Getenv("AETHERIUM_TEST_BIN") // to try other binaries than the repository's
	if bin == "" {
		bin = filepath.Join(root, "bin")
	}
	s := &Server{
		Bin: bin, DataDir: dataDir, URL: "http://" + address,
		RuntimeDir: "/run/aetherium-test-" + strings.ToLower(rand.Text()[:10]), // short: it is in socket paths
	}
	s.Env = environ()
	// Many VMs with the usual disk are promised more than a small host has.
	// No boots in the background, but for those who are about them.
	s.Env = append(s.Env, "AETHERIUM_MICROVM_BOOTED_MAX=0", "AETHERIUM_VM_DISK=2GiB", "AETHERIUM_LOG_LEVEL=warn", "AETHERIUM_DATA_DIR="+dataDir, "AETHERIUM_RUNTIME_DIR="+s.RuntimeDir, "AETHERIUM_LISTEN_ADDRESS="+address)
	s.Env = append(s.Env, extra...)
	return s, nil
}

// environ is ours without settings.
func environ() []string {
	return slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "AETHERIUM_") })
}

// freePort asks the kernel for a free port.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // at once
	if err != nil {
		return 0, err
	}
	port := l.Addr().(*net.TCPAddr).Port
	return port, l.Close()
}

// Start starts the server in the background and waits until it serves.
func (s *Server) Start(ctx context.Context) error {
	if _, err := s.Standalone(ctx, "start", "--quiet"); err != nil {
		return err
	}
	key, err := os.ReadFile(filepath.Join(s.DataDir, "api.key"))
	if err != nil {
		return err
	}
	s.Key = strings.TrimSpace(string(key))
	return s.learn()
}

// Stop ends the server in an orderly way; its VMs run on.
func (s *Server) Stop(ctx context.Context) error {
	_, err := s.Standalone(ctx, "stop")
	return err
}

// Down ends the server and everything that it made on the host.
func (s *Server) Down(ctx context.Context, args ...string) error {
	_, err := s.Standalone(ctx, append([]string{"down"}, args...)...)
	return err
}

// PID is the running server's process.
func (s *Server) PID() (int, error) {
	text, err := os.ReadFile(filepath.Join(s.DataDir, "server.pid"))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

// Kill ends the server with SIGKILL and waits until it is gone.
func (s *Server) Kill() error {
	pid, err := s.PID()
	if err != nil {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return err
	}
	for {
		state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return nil //nolint:nilerr // gone
		}
		// A zombie is dead; only its parent has not looked yet.
		if i := bytes.LastIndexByte(state, ')'); i >= 0 && i+2 < len(state) && state[i+2] == 'Z' {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
}

// Standalone runs the server's own command.
func (s *Server) Standalone(ctx context.Context, args ...string) (string, error) {
	return run(ctx, s.Env, filepath.Join(s.Bin, "aetherium-standalone"), args...)
}

// Command prepares a run of the command line against this server.
func (s *Server) Command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(s.Bin, "aetherium"), args...)
	cmd.Env = s.Env
	return cmd
}

// CLI runs the command line and returns its stdout.
func (s *Server) CLI(ctx context.Context, args ...string) (string, error) {
	return run(ctx, s.Env, filepath.Join(s.Bin, "aetherium"), args...)
}

// JSON runs the command line with -o json and decodes its answer.
func (s *Server) JSON(ctx context.Context, into any, args ...string) error {
	out, err := s.CLI(ctx, append(args, "-o", "json")...)
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(out), into)
}

func run(ctx context.Context, env []string, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = env
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s %s: %w\n%s%s", filepath.Base(name), strings.Join(args, " "), err, stdout.String(), stderr.String())
	}
	return stdout.String(), nil
}

// Client returns a client of the API.
func (s *Server) Client() (*client.Client, error) {
	return client.New(client.Options{URL: s.URL, Key: s.Key, UserAgent: "aetherium-tests"})
}

// Log is what the server has logged so far.
func (s *Server) Log() string {
	text, err := os.ReadFile(filepath.Join(s.DataDir, "server.log"))
	if err != nil {
		return err.Error()
	}
	return string(text)
}
