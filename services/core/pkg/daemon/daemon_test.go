package daemon_test

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/daemon"
)

const readyEnv = "DAEMON_TEST_READY"

// The test binary plays the server when it is told to.
func TestMain(m *testing.M) {
	switch role, dir := os.Getenv("DAEMON_TEST_ROLE"), os.Getenv("DAEMON_TEST_DIR"); role {
	case "serve":
		term := make(chan os.Signal, 1)
		signal.Notify(term, syscall.SIGTERM)
		if _, err := daemon.Lock(filepath.Join(dir, "lock"), filepath.Join(dir, "pid")); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		if err := os.WriteFile(filepath.Join(dir, "pid"), []byte(strconv.Itoa(os.Getpid())), 0o600); err != nil {
			os.Exit(1)
		}
		if err := daemon.Ready(readyEnv); err != nil {
			os.Exit(1)
		}
		<-term
	case "fail":
		fmt.Println("cannot bind the port")
		os.Exit(1)
	default:
		os.Exit(m.Run())
	}
}

func TestStartStop(t *testing.T) {
	dir := t.TempDir()
	lock, pidFile, log := filepath.Join(dir, "lock"), filepath.Join(dir, "pid"), filepath.Join(dir, "log")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if pid, err := daemon.Running(lock, pidFile); pid != 0 || err != nil {
		t.Fatalf("before: %d, %v", pid, err)
	}
	t.Setenv("DAEMON_TEST_DIR", dir)
	t.Setenv("DAEMON_TEST_ROLE", "fail")
	err := daemon.Start(ctx, log, readyEnv, []string{os.Args[0]})
	if !errors.HasCode(err, errors.Unavailable) || !strings.Contains(err.Error(), "cannot bind the port") {
		t.Fatalf("a server that fails: %v", err)
	}
	t.Setenv("DAEMON_TEST_ROLE", "serve")
	if err := daemon.Start(ctx, log, readyEnv, []string{os.Args[0]}); err != nil {
		t.Fatal(err)
	}
	pid, err := daemon.Running(lock, pidFile)
	if err != nil || pid == 0 {
		t.Fatalf("running: %d, %v", pid, err)
	}
	if _, err := daemon.Lock(lock, pidFile); !errors.HasCode(err, errors.Conflict) {
		t.Errorf("the lock is given twice: %v", err)
	}
	if err := daemon.Start(ctx, log, readyEnv, []string{os.Args[0]}); !errors.HasCode(err, errors.Unavailable) {
		t.Errorf("two servers on one directory: %v", err)
	}
	for range 2 {
		if err := daemon.Stop(ctx, pid); err != nil {
			t.Fatal(err)
		}
	}
	if pid, err := daemon.Running(lock, pidFile); pid != 0 || err != nil {
		t.Fatalf("after: %d, %v", pid, err)
	}
}
