package server

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/aetherium/aetherium/services/core/pkg/daemon"
)

// Fleet is an installation whose gateways and workers are processes of their
// own, all on this host.
type Fleet struct {
	dir    string
	shared []string // settings of all
}

// NewFleet prepares an installation below a directory. shared are the settings
// of all its processes, which name the database and the queue at least.
func NewFleet(dir string, shared ...string) *Fleet {
	return &Fleet{dir, append(shared, "AETHERIUM_SEAL_KEY_FILE="+filepath.Join(dir, "seal.key"))}
}

// Below is the same installation, whose further processes have their data in
// another directory.
func (f *Fleet) Below(dir string) *Fleet { return &Fleet{dir, f.shared} }

// Gateway prepares a gateway; nothing runs yet.
func (f *Fleet) Gateway(name string, extra ...string) (*Server, error) {
	s, err := f.process("aetherium-gateway", name, "AETHERIUM_TLS_ADDRESS=off")
	if err != nil {
		return nil, err
	}
	s.Env = append(s.Env, extra...)
	return s, nil
}

// Worker prepares a worker that joins by a gateway, which runs; the worker does
// not yet. Its URL and key are the gateway's.
func (f *Fleet) Worker(ctx context.Context, name string, by *Server, extra ...string) (*Server, error) {
	token, err := by.CLI(ctx, "worker", "token", "create", "--quiet")
	if err != nil {
		return nil, err
	}
	s, err := f.process("aetherium-worker", name,
		"AETHERIUM_WORKER_ADDRESS=127.0.0.1:0", "AETHERIUM_WORKER_METRICS=", "AETHERIUM_WORKER_GATEWAY="+by.URL, "AETHERIUM_BASE_SKIP=true")
	if err != nil {
		return nil, err
	}
	s.URL, s.Key = by.URL, by.Key
	s.once = []string{"AETHERIUM_WORKER_NAME=" + name, "AETHERIUM_WORKER_TOKEN=" + strings.TrimSpace(token)}
	s.Env = append(s.Env, extra...)
	return s, nil
}

func (f *Fleet) process(program, name string, settings ...string) (*Server, error) {
	s, err := New(filepath.Join(f.dir, name), append(slices.Clone(f.shared), settings...)...)
	if err != nil {
		return nil, err
	}
	s.program = program
	return s, nil
}

// Run starts the process in the background, and waits until it is ready.
func (s *Server) Run(ctx context.Context) error {
	const ready = "AETHERIUM_READY_FD"
	argv := slices.Concat([]string{"/usr/bin/env", "-i", ready + "=1"}, s.Env, s.once, s.Through, []string{filepath.Join(s.Bin, s.program), "serve"})
	s.once = nil
	if err := daemon.Start(ctx, filepath.Join(s.DataDir, "server.log"), ready, argv); err != nil {
		return err
	}
	if s.program == "aetherium-worker" {
		return s.learn()
	}
	key, err := os.ReadFile(filepath.Join(s.DataDir, "api.key"))
	s.Key = strings.TrimSpace(string(key))
	return err
}

// End ends the process in an orderly way.
func (s *Server) End(ctx context.Context) error {
	pid, err := s.PID()
	if err != nil {
		return nil //nolint:nilerr // it does not run
	}
	return daemon.Stop(ctx, pid)
}

// Remove ends a worker's VMs and everything that it made on the host.
func (s *Server) Remove(ctx context.Context) error {
	_, err := run(ctx, s.Env, filepath.Join(s.Bin, s.program), "down")
	return err
}
