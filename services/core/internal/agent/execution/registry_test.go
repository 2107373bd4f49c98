package execution_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/agent/execution"
	"github.com/aetherium/aetherium/services/core/internal/agent/osuser"
	"github.com/aetherium/aetherium/services/core/internal/agent/reap"
	"github.com/aetherium/aetherium/services/core/internal/agent/settings"
	"github.com/aetherium/aetherium/services/core/internal/agent/spawn"
)

func newRegistry(t *testing.T, most int) *execution.Registry {
	t.Helper()
	etc := t.TempDir()
	passwd := fmt.Sprintf("user:x:%d:%d::/:/bin/sh\n", os.Geteuid(), os.Getegid())
	if err := os.WriteFile(etc+"/passwd", []byte(passwd), 0o644); err != nil {
		t.Fatal(err)
	}
	r := &execution.Registry{
		Starter: &spawn.Starter{Reaper: reap.Start(false)}, Users: osuser.NewDB(etc), Settings: &settings.Store{}, Max: most,
	}
	t.Cleanup(func() {
		for _, ex := range r.Running() {
			_ = ex.Signal(9)
			<-ex.Ended()
		}
		r.Starter.Reaper.Close()
	})
	return r
}

func id(n int) string { return fmt.Sprintf("%020d", n) }

// start runs a command; an ended one has ended when start returns.
func start(t *testing.T, r *execution.Registry, n int, args ...string) *execution.Execution {
	t.Helper()
	ex, _, err := r.Start(t.Context(), id(n), execution.Command{Args: args})
	if err != nil {
		t.Fatal(err)
	}
	if args[0] != "sleep" {
		<-ex.Ended()
	}
	return ex
}

func known(r *execution.Registry) (ids []string) {
	list, _, _ := r.After(0)
	for _, ex := range list {
		ids = append(ids, ex.ID())
	}
	return ids
}

// The registry is bounded: acknowledged executions that ended go first, what
// runs or holds output of the host's stays, and then no more can be started.
func TestRegistryIsBounded(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, 3)
	start(t, r, 1, "sleep", "1000")
	unread := start(t, r, 2, "echo", "unread")
	start(t, r, 3, "true") // nothing to acknowledge
	start(t, r, 4, "echo", "unread too")
	if got, want := fmt.Sprint(known(r)), fmt.Sprint([]string{id(1), id(2), id(4)}); got != want {
		t.Errorf("known: %s, want %s", got, want)
	}
	_, _, err := r.Start(context.Background(), id(5), execution.Command{Args: []string{"true"}})
	if !errors.HasCode(err, errors.CapacityExhausted) {
		t.Errorf("a fourth: %v", err)
	}
	hold, err := unread.Hold(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	_, end := unread.Offsets()
	if err := hold.Ack(end); err != nil {
		t.Fatal(err)
	}
	hold.Release()
	start(t, r, 5, "true")
	if got, want := fmt.Sprint(known(r)), fmt.Sprint([]string{id(1), id(4), id(5)}); got != want {
		t.Errorf("known: %s, want %s", got, want)
	}
	// A foreign one that ended gives way although nobody read it.
	foreign := newRegistry(t, 1)
	ex, reader, err := foreign.StartForeign(t.Context(), execution.Command{Args: []string{"echo", "x"}})
	if err != nil {
		t.Fatal(err)
	}
	reader.Close()
	<-ex.Ended()
	start(t, foreign, 1, "true")
}

// What the host has forgotten is still found by process ID for a while.
func TestForgottenIsFoundLate(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, 0)
	ex, _, err := r.Start(t.Context(), id(1), execution.Command{Args: []string{"true"}, Tag: "tag"})
	if err != nil {
		t.Fatal(err)
	}
	<-ex.Ended()
	r.Forget([]string{id(1)})
	if _, err := r.Get(id(1)); !errors.HasCode(err, errors.NotFound) {
		t.Errorf("by ID: %v", err)
	}
	if got, err := r.ByPID(ex.PID); got != ex {
		t.Errorf("by PID: %v", err)
	}
	if got, err := r.ByTag("tag"); got != ex {
		t.Errorf("by tag: %v", err)
	}
	r.Stop()
	if _, _, err := r.Start(t.Context(), id(2), execution.Command{Args: []string{"true"}}); !errors.HasCode(err, errors.Unavailable) {
		t.Errorf("while stopping: %v", err)
	}
}

// The attachment that another took the execution from may still be at its last
// look at the output: that does not hold up what the command writes for the other.
func TestOlderHoldLooksOnceMore(t *testing.T) {
	t.Parallel()
	const each = 400_000
	script := fmt.Sprintf("head -c %[1]d /dev/zero; read a; head -c %[1]d /dev/zero", each)
	ex, _, err := newRegistry(t, 1).Start(t.Context(), id(1), execution.Command{Args: []string{"/bin/sh", "-c", script}, Stdin: true})
	if err != nil {
		t.Fatal(err)
	}
	older, err := ex.Hold(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	newer, err := ex.Hold(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer newer.Release()
	buf := make([]byte, 64<<10)
	take := func(to int64) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		for at := int64(0); at < to; {
			c, changed, err := newer.Poll(buf)
			if err != nil {
				t.Fatal(err)
			}
			if at = c.Offset + int64(len(c.Data)); len(c.Data) > 0 {
				continue
			}
			select {
			case <-changed:
			case <-ctx.Done():
				t.Fatalf("the output stopped at %d bytes of %d", at, to)
			}
		}
	}
	take(each)
	if _, _, err := older.Poll(buf[:1]); err != nil {
		t.Fatal(err)
	}
	if err := ex.PutInput(0, []byte("go\n")); err != nil {
		t.Fatal(err)
	}
	take(2 * each)
}
