package microvm_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/microvm"
	"golang.org/x/sys/unix"
)

// standing has a driver keep monitors for paused machines.
func standing(most int) func(*microvm.Config) {
	return func(c *microvm.Config) { c.Standby = microvm.Standby{Max: most, For: time.Hour} }
}

// monitors are the processes of a machine, by its control groups.
func (l *lab) monitors(id string) []int {
	l.t.Helper()
	var pids []int
	for _, pattern := range []string{"/sys/fs/cgroup/*/aetherium-", "/sys/fs/cgroup/aetherium-"} {
		files, _ := filepath.Glob(pattern + l.instance() + ".standin/" + id + "/cgroup.procs")
		for _, file := range files {
			raw, err := os.ReadFile(file)
			must(l.t, err)
			for _, word := range strings.Fields(string(raw)) {
				pid, err := strconv.Atoi(word)
				must(l.t, err)
				pids = append(pids, pid)
			}
		}
	}
	slices.Sort(pids)
	return slices.Compact(pids)
}

// used counts how often machines went on from a memory.
func (l *lab) used() (times int) {
	for _, line := range l.lines("ledger") {
		if strings.HasPrefix(line, "used") {
			times++
		}
	}
	return times
}

// sleep pauses a machine, and waits until it stands by if it is to.
func (l *lab) sleep(id string) {
	l.t.Helper()
	must(l.t, l.Pause(l.t.Context(), id, domain.PauseMemory))
	l.Settle()
}

// stands checks whether a paused machine has a monitor again.
func (l *lab) stands(when, id string, want bool) {
	l.t.Helper()
	if has := len(l.monitors(id)) > 0; has != want {
		l.t.Errorf("%s: has a monitor: %t", when, has)
	}
	if got := l.status(id); got != vmm.StatusPaused {
		l.t.Errorf("%s: it is %s", when, got)
	}
}

// phases are those of a machine's last start.
func (l *lab) phases(id string) (names []string) {
	trace, err := l.Trace(l.t.Context(), id)
	must(l.t, err)
	for _, p := range trace {
		names = append(names, p.Name)
	}
	return names
}

// goesOn resumes a machine, which lives the life of its boot.
func (l *lab) goesOn(when, id string, stood bool) {
	l.t.Helper()
	must(l.t, l.Resume(l.t.Context(), id))
	if l.life(id) != l.born(id) {
		l.t.Errorf("%s: it lives another life", when)
	}
	if names := l.phases(id); slices.Contains(names, "standby") != stood || slices.Contains(names, "restore") == stood {
		l.t.Errorf("%s: its resumption was %q", when, names)
	}
	l.noTorn()
}

// A machine that is paused has a monitor again soon, and uses it when it goes on.
// Until then its memory is not used up, and all can be done with it that can be
// done with a machine that has none.
func TestStandby(t *testing.T) {
	t.Parallel()
	l := newLab(t, standing(1))
	ctx := t.Context()
	l.boot(spec("one"))
	l.sleep("one")
	l.stands("paused", "one", true)
	monitor := l.monitors("one")
	for _, mode := range []domain.PauseMode{domain.PauseMemory, domain.PauseFreeze} {
		must(t, l.Pause(ctx, "one", mode))
		l.Settle()
	}
	_, err := l.Snapshot(ctx, "one", "memory", domain.SnapshotMemory)
	must(t, err)
	_, err = l.Snapshot(ctx, "one", "disk", domain.SnapshotDisk)
	must(t, err)
	code(t, l.Start(ctx, "one"), errors.Conflict)
	if now := l.monitors("one"); !slices.Equal(now, monitor) {
		t.Errorf("its monitor was %v, and is %v", monitor, now)
	}
	if n := l.used(); n != 0 {
		t.Errorf("its memory was used %d times while it was paused", n)
	}
	l.goesOn("resumed", "one", true)
	if now := l.monitors("one"); !slices.Equal(now, monitor) {
		t.Errorf("its monitor was %v, and is %v", monitor, now)
	}
	l.sleep("one")
	l.goesOn("resumed again", "one", true)

	// Its memory is given up, so that its agent has nobody to end.
	l.sleep("one")
	must(t, l.Stop(ctx, "one", time.Minute))
	if left := l.monitors("one"); len(left) > 0 {
		t.Errorf("stopped, it has %v", left)
	}
	if told := l.lines("ledger"); contains(told, "asked one") || l.used() != 2 {
		t.Errorf("stopped while it was paused, it went on: %q", told)
	}
	must(t, l.Start(ctx, "one"))
	l.sleep("one")
	l.stands("booted anew", "one", true)
	l.sweep("paused")
}

// Those that were paused last have monitors, for a while.
func TestStandbyIsBounded(t *testing.T) {
	t.Parallel()
	l := newLab(t, standing(2))
	all := []string{"one", "two", "three", "four"}
	for _, id := range all {
		l.boot(spec(id))
	}
	for _, id := range all[:3] {
		l.sleep(id)
	}
	l.stands("the first", "one", false)
	l.stands("the second", "two", true)
	l.stands("the third", "three", true)
	// What is used, ended or removed counts no longer.
	l.goesOn("the third", "three", true)
	l.sleep("four")
	l.stands("the second, after the third was resumed", "two", true)
	must(t, l.Delete(t.Context(), "four"))
	l.sleep("three")
	l.stands("the second, after the fourth was deleted", "two", true)
	l.goesOn("the first", "one", false)
}

// A monitor does not stand by for ever.
func TestStandbyIsBrief(t *testing.T) {
	t.Parallel()
	l, e := newHookedLab(t, func(c *microvm.Config) { c.Standby = microvm.Standby{Max: 2, For: 50 * time.Millisecond} })
	stands := make(chan struct{})
	e.restored = func() { close(stands) }
	l.boot(spec("one"))
	must(t, l.Pause(t.Context(), "one", domain.PauseMemory))
	<-stands
	e.restored = nil
	for len(l.monitors("one")) > 0 {
		time.Sleep(10 * time.Millisecond)
	}
	l.goesOn("long after its pause", "one", false)
}

// A driver that is closed has no monitors of paused machines; nor has the one after
// one that was killed, see TestKilledAnywhere.
func TestStandbyEndsWithItsDriver(t *testing.T) {
	t.Parallel()
	l := newLab(t, standing(2))
	for _, id := range []string{"one", "two"} {
		l.boot(spec(id))
		l.sleep(id)
	}
	l.close()
	for _, id := range []string{"one", "two"} {
		if left := l.monitors(id); len(left) > 0 {
			t.Errorf("%s has %v", id, left)
		}
	}
	l.open()
	l.goesOn("reopened", "one", false)
	l.sleep("one")
	l.stands("paused anew", "one", true) // the lab's end finds nothing of it
}

// A machine whose monitor has ended meanwhile, or says nothing, is given another.
func TestStandbyThatIsOfNoUse(t *testing.T) {
	t.Parallel()
	l, e := newHookedLab(t, standing(1))
	l.boot(spec("one"))
	l.sleep("one")
	for _, pid := range l.monitors("one") {
		must(t, unix.Kill(pid, unix.SIGKILL))
	}
	for len(l.monitors("one")) > 0 {
		time.Sleep(time.Millisecond)
	}
	l.stands("killed", "one", false)
	l.goesOn("killed", "one", false)
	l.sleep("one")
	e.freeze = func() error { return errors.New(errors.Internal, "it says nothing") }
	l.goesOn("without an answer", "one", false)
	e.freeze = nil
	// One that could not be made is no hindrance.
	e.restore = func(context.Context) error { return errors.New(errors.Internal, "there is none") }
	l.sleep("one")
	l.stands("not made", "one", false)
	e.restore = nil
	l.goesOn("not made", "one", false)
}

// Nobody waits for a monitor that is being made: a Delete ends that.
func TestDeleteWhileItComesToStandBy(t *testing.T) {
	t.Parallel()
	l, e := newHookedLab(t, standing(1))
	l.boot(spec("one"))
	making := make(chan struct{})
	e.restore = func(ctx context.Context) error {
		close(making)
		<-ctx.Done()
		return ctx.Err()
	}
	must(t, l.Pause(t.Context(), "one", domain.PauseMemory))
	<-making
	must(t, l.Delete(t.Context(), "one"))
	l.Settle()
	l.sweep("deleted")
}
