// Package pgtest runs a PostgreSQL server of its own for the tests of a
// package: in a temporary directory, on a Unix socket, and gone with the tests
// however they end. A host without PostgreSQL's programs fails the tests.
package pgtest

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// Server is a PostgreSQL server.
type Server struct {
	// SetUp, if not nil, fills the database that each test's is a copy of.
	SetUp func(ctx context.Context, database string) error

	dir, bin string
	args     []string
	as       *syscall.Credential // nil: this process's own
	cmd      *exec.Cmd
	gone     chan struct{} // closed when the server has ended

	template sync.Once
	failed   error
	made     atomic.Int64
}

// template is the database that tests' are copies of.
const template = "aetherium_template"

// Main runs a package's tests with a server, for TestMain.
func Main(m *testing.M, to **Server, setUp func(ctx context.Context, database string) error) int {
	s, err := Start(context.Background())
	if err == nil {
		s.SetUp, *to = setUp, s
		code := m.Run()
		if err = s.Stop(); err == nil {
			return code
		}
	}
	fmt.Fprintln(os.Stderr, "pgtest:", err)
	return 1
}

// Start makes a server and starts it. Settings are of postgresql.conf, as
// name=value; without any, nothing waits for disks.
func Start(ctx context.Context, settings ...string) (_ *Server, err error) {
	s := &Server{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Stop())
		}
	}()
	if s.bin, err = programs(); err != nil {
		return nil, err
	}
	// Not in TMPDIR: a socket's path is short.
	if s.dir, err = os.MkdirTemp("/tmp", "aetherium-pg-"); err != nil {
		return nil, err
	}
	if err := s.beOrdinary(); err != nil {
		return nil, err
	}
	out, err := s.command(ctx, "initdb", "--pgdata="+s.data(), "--username=postgres", "--auth=trust", "--no-sync", "--no-instructions",
		"--encoding=UTF8", "--locale=C.UTF-8").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("initdb: %w: %s", err, out)
	}
	s.args = []string{"-D", s.data(), "-k", s.dir}
	for _, set := range append([]string{
		"listen_addresses=", "fsync=off", "full_page_writes=off", "max_connections=300", "shared_buffers=64MB", "autovacuum=off",
		"wal_level=minimal", "max_wal_senders=0", "log_min_messages=panic", "dynamic_shared_memory_type=mmap", // /dev/shm is small in containers
	}, settings...) {
		s.args = append(s.args, "-c", set)
	}
	return s, s.Run(ctx)
}

// Run starts the server again after [Server.Kill], and waits until it answers.
func (s *Server) Run(ctx context.Context) error {
	cmd, gone, started := s.command(context.Background(), "postgres", s.args...), make(chan struct{}), make(chan error, 1)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.WaitDelay = time.Second
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGQUIT // ends all of its processes at once
	go func() {
		// The signal comes when the thread ends that has started the server.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(gone)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	s.cmd, s.gone = cmd, gone
	return s.ready(ctx)
}

// ready waits until the server answers.
func (s *Server) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		conn, err := pgx.Connect(ctx, s.URL("postgres"))
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-s.gone:
			return errors.Plain("the server has ended")
		case <-ctx.Done():
			return err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Kill ends the server at once, as a crash would.
func (s *Server) Kill() error {
	err := s.cmd.Process.Signal(syscall.SIGQUIT)
	<-s.gone
	s.cmd = nil
	return err
}

// KillWithin ends the server as [Server.Kill] does, while somebody is in a
// transaction and about to write to a table; where nobody comes to that before
// ctx ends, then.
func (s *Server) KillWithin(ctx context.Context, table string) error {
	err := s.hold(ctx, table)
	if ctx.Err() != nil {
		err = nil
	}
	return errors.Join(err, s.Kill())
}

// hold keeps others from writing to a table until one waits for that.
func (s *Server) hold(ctx context.Context, table string) error {
	conn, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, "BEGIN"); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, "LOCK TABLE "+table+" IN SHARE MODE"); err != nil {
		return err
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		var waiting bool
		err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = $1::regclass)", table).Scan(&waiting)
		if err != nil || waiting {
			return err // the connection ends with the server
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// PID is the process that the server's others are children of.
func (s *Server) PID() int { return s.cmd.Process.Pid }

// Stop ends the server and removes what it kept.
func (s *Server) Stop() error {
	var err error
	if s.cmd != nil {
		err = s.Kill()
	}
	if s.dir == "" {
		return err
	}
	return errors.Join(err, os.RemoveAll(s.dir))
}

// URL names a database of the server.
func (s *Server) URL(database string) string {
	return (&url.URL{Scheme: "postgres", User: url.User("postgres"), Path: "/" + database, RawQuery: url.Values{"host": {s.dir}}.Encode()}).String()
}

// Database makes a database for a test: a copy of the one that SetUp fills, or
// an empty one. It goes with the test.
func (s *Server) Database(t testing.TB) string {
	t.Helper()
	if s.SetUp == nil {
		return s.database(t, "template1")
	}
	s.template.Do(func() {
		ctx := context.Background()
		if s.failed = s.exec(ctx, "CREATE DATABASE "+template); s.failed == nil {
			s.failed = s.SetUp(ctx, s.URL(template))
		}
	})
	if s.failed != nil {
		t.Fatal(s.failed)
	}
	return s.database(t, template)
}

// Empty makes an empty database for a test.
func (s *Server) Empty(t testing.TB) string {
	t.Helper()
	return s.database(t, "template1")
}

func (s *Server) database(t testing.TB, from string) string {
	t.Helper()
	name := "test_" + strconv.FormatInt(s.made.Add(1), 10)
	if err := s.exec(t.Context(), "CREATE DATABASE "+name+" TEMPLATE "+from+""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.exec(context.Background(), "DROP DATABASE "+name+" WITH (FORCE)"); err != nil {
			t.Error(err)
		}
	})
	return s.URL(name)
}

func (s *Server) exec(ctx context.Context, sql string) error {
	conn, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, sql)
	return errors.Join(err, conn.Close(ctx))
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

func (s *Server) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, name), args...) //nolint:gosec // PostgreSQL's own programs
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C.UTF-8", "TZ=UTC"}
	if s.as != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.as}
	}
	return cmd
}

// beOrdinary finds a user for the server where this process is root's, which
// PostgreSQL refuses.
func (s *Server) beOrdinary() error {
	if os.Geteuid() != 0 {
		return nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return fmt.Errorf("%w: PostgreSQL's package makes it", err)
	}
	uid, uerr := strconv.ParseUint(u.Uid, 10, 32)
	gid, gerr := strconv.ParseUint(u.Gid, 10, 32)
	s.as = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return errors.Join(uerr, gerr, os.Chown(s.dir, int(uid), int(gid)))
}

// programs finds the directory of PostgreSQL's programs, the newest there is.
func programs() (string, error) {
	found, newest := "", 0
	dirs, err := filepath.Glob("/usr/lib/postgresql/*/bin") // Debian's place
	for _, dir := range dirs {
		if version, err := strconv.Atoi(filepath.Base(filepath.Dir(dir))); err == nil && version > newest {
			found, newest = dir, version
		}
	}
	if path, lerr := exec.LookPath("initdb"); found == "" && lerr == nil {
		found = filepath.Dir(path)
	}
	if found == "" {
		return "", errors.Join(err, errors.Plain("PostgreSQL's server is not on this host: scripts/install-deps.sh --test installs it"))
	}
	return found, nil
}
