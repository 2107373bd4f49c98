package sqlite_test

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/storage/sqlite"
)

const crashEnv = "AETHERIUM_TEST_CRASH_DB"

// TestMain lets the test binary be the process that is killed.
func TestMain(m *testing.M) {
	if path := os.Getenv(crashEnv); path != "" {
		if err := commitForever(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// commitForever writes a VM change and its event in one transaction after the
// other, and acknowledges each on stdout after its commit.
func commitForever(path string) error {
	ctx := context.Background()
	s, err := sqlite.Open(ctx, path, sqlite.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	for {
		var n int64
		err := s.Update(ctx, func(tx storage.Tx) error {
			list, err := tx.VMs().List(ctx, storage.VMFilter{})
			if err != nil {
				return err
			}
			vm := list.Items[0]
			vm.Epoch++
			vm.Reason = strings.Repeat("x", rand.IntN(20000))
			n = vm.Epoch
			if err := tx.VMs().Update(ctx, vm); err != nil {
				return err
			}
			return tx.Outbox().Append(ctx, &domain.Event{ProjectID: vm.ProjectID, Type: "vm.updated", Subject: vm.ID, Data: fmt.Appendf(nil, "%d", n), At: time.Now()})
		})
		if err != nil {
			return err
		}
		var ack [8]byte
		binary.LittleEndian.PutUint64(ack[:], uint64(n))
		if _, err := os.Stdout.Write(ack[:]); err != nil {
			return err
		}
	}
}

// A process that is killed at any moment loses no commit it acknowledged,
// keeps rows and events together, and leaves a sound file.
func TestKilledWhileCommitting(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	path := filepath.Join(t.TempDir(), "a.db")
	project := domain.NewID()
	s := open(t, path)
	if err := s.Update(ctx, func(tx storage.Tx) error {
		if err := tx.Projects().Insert(ctx, &domain.Project{ID: project, Name: "p"}); err != nil {
			return err
		}
		return tx.VMs().Insert(ctx, &domain.VM{ID: domain.NewID(), ProjectID: project, Desired: domain.WantRunning, Observed: domain.Running})
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	rounds := 12
	if testing.Short() {
		rounds = 3
	}
	total := int64(0)
	for round := range rounds {
		acked := killAfter(t, path, 1+rand.IntN(400), time.Duration(rand.IntN(2000))*time.Microsecond)
		check(t, path, round, max(acked, total), &total)
	}
	t.Logf("%d commits in %d processes that were killed", total, rounds)
}

// killAfter starts a process, kills it once it has acknowledged so many
// commits and a moment has passed, and returns the last acknowledged one.
func killAfter(t *testing.T, path string, commits int, moment time.Duration) int64 {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0]) // this very binary, see TestMain
	cmd.Env = append(os.Environ(), crashEnv+"="+path)
	var complaint strings.Builder
	cmd.Stderr = &complaint
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(out)
	var last int64
	for n := 0; ; n++ {
		var ack [8]byte
		if _, err := io.ReadFull(r, ack[:]); err != nil {
			break // all that it said before it died has been read
		}
		last = int64(binary.LittleEndian.Uint64(ack[:]))
		if n == commits {
			time.AfterFunc(moment, func() { _ = cmd.Process.Kill() })
		}
	}
	err = cmd.Wait()
	if cmd.ProcessState.ExitCode() != -1 { // -1: ended by a signal
		t.Fatalf("the process ended by itself: %v, %s", err, complaint.String())
	}
	return last
}

func check(t *testing.T, path string, round int, acked int64, total *int64) {
	t.Helper()
	ctx := t.Context()
	raw, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = raw.Close() }()
	for pragma, want := range map[string]string{"integrity_check": "ok", "foreign_key_check": ""} {
		var got string
		if err := raw.QueryRowContext(t.Context(), "PRAGMA "+pragma).Scan(&got); err != nil && want != "" || got != want {
			t.Fatalf("round %d: %s: %q, %v", round, pragma, got, err)
		}
	}
	s, err := sqlite.Open(ctx, path, sqlite.Options{})
	if err != nil {
		t.Fatalf("round %d: %v", round, err)
	}
	defer func() { _ = s.Close() }()
	if err := s.View(ctx, func(tx storage.Tx) error {
		list, err := tx.VMs().List(ctx, storage.VMFilter{})
		if err != nil {
			return err
		}
		*total = list.Items[0].Epoch
		if *total < acked {
			t.Errorf("round %d: commit %d was acknowledged, the newest there is %d", round, acked, *total)
		}
		_, newest, err := tx.Outbox().Bounds(ctx)
		if newest != *total {
			t.Errorf("round %d: %d events of %d changes", round, newest, *total)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}
