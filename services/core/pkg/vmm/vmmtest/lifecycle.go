package vmmtest

import (
	"context"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

var lifecycleTests = []behaviour{
	{"every call twice", nil, testTwice},
	{"what is absent", nil, testAbsent},
	{"a machine that does not run", nil, testNotRunning},
	{"stop and start keep the disk", nil, testStopStart},
	{"wait tells the end", nil, testWait},
	{"delete a machine that runs", nil, testDeleteRunning},
	{"delete while creating", nil, testDeleteWhileCreating},
	{"the list", nil, testList},
}

func (b *bed) status(t *testing.T, id string) vmm.Status {
	t.Helper()
	states, err := b.Driver.List(timeout(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range states {
		if s.MachineID == id {
			return s.Status
		}
	}
	return ""
}

func testTwice(t *testing.T, b *bed) {
	s := b.spec()
	b.create(t, s)
	first, err := b.Driver.Create(timeout(t), s)
	if err != nil || len(first) == 0 {
		t.Fatalf("the second create: %q, %v", first, err)
	}
	if got := b.status(t, s.MachineID); got != vmm.StatusCreated {
		t.Errorf("created: %s", got)
	}
	b.start(t, s.MachineID)
	x := b.attach(t, s.MachineID, t.TempDir())
	id := x.start(t, shell("echo up; exec sleep 1000"))
	b.start(t, s.MachineID)
	if got := b.status(t, s.MachineID); got != vmm.StatusRunning {
		t.Errorf("started: %s", got)
	}
	// The second start disturbed nobody.
	f := x.follow(t, id)
	f.until("up")
	if err := x.session.Signal(timeout(t), id, 9); err != nil {
		t.Error(err)
	}
	f.rest()
	x.detach()
	for range 2 {
		if err := b.Driver.Stop(timeout(t), s.MachineID, time.Second); err != nil {
			t.Fatal(err)
		}
		if got := b.status(t, s.MachineID); got != vmm.StatusCreated {
			t.Errorf("stopped: %s", got)
		}
	}
	for range 2 {
		if err := b.Driver.Delete(timeout(t), s.MachineID); err != nil {
			t.Fatal(err)
		}
		if got := b.status(t, s.MachineID); got != "" {
			t.Errorf("deleted: %s", got)
		}
	}
}

func testAbsent(t *testing.T, b *bed) {
	id := string(domain.NewID())
	ctx := timeout(t)
	if err := b.Driver.Start(ctx, id); !errors.HasCode(err, errors.NotFound) {
		t.Errorf("start: %v", err)
	}
	if err := b.Driver.Stop(ctx, id, time.Second); err != nil {
		t.Errorf("stop: %v", err)
	}
	if err := b.Driver.Delete(ctx, id); err != nil {
		t.Errorf("delete: %v", err)
	}
	if _, err := b.Driver.Wait(ctx, id); !errors.HasCode(err, errors.NotFound) {
		t.Errorf("wait: %v", err)
	}
	if _, err := b.Driver.Dial(ctx, id, vmm.AgentPort); !errors.HasCode(err, errors.NotFound) && !errors.HasCode(err, errors.Conflict) {
		t.Errorf("dial: %v", err)
	}
}

func testNotRunning(t *testing.T, b *bed) {
	s := b.spec()
	b.create(t, s)
	if _, err := b.Driver.Dial(timeout(t), s.MachineID, vmm.AgentPort); !errors.HasCode(err, errors.NotFound) && !errors.HasCode(err, errors.Conflict) {
		t.Errorf("dial: %v", err)
	}
	if err := b.Driver.Stop(timeout(t), s.MachineID, time.Second); err != nil {
		t.Errorf("stop: %v", err)
	}
}

func testStopStart(t *testing.T, b *bed) {
	s := b.spec()
	b.create(t, s)
	for i, want := range []string{"", "1", "11"} {
		b.start(t, s.MachineID)
		x := b.attach(t, s.MachineID, t.TempDir())
		if got := x.sh(t, "touch kept; cat kept; printf 1 >> kept"); got != want {
			t.Errorf("run %d: the disk has %q, want %q", i, got, want)
		}
		x.sh(t, "sleep 1000 >/dev/null 2>&1 &") // what is left running must not keep it from ending
		x.detach()
		if err := b.Driver.Stop(timeout(t), s.MachineID, 2*time.Second); err != nil {
			t.Fatal(err)
		}
	}
}

func testWait(t *testing.T, b *bed) {
	x := b.machine(t)
	type ending struct {
		exit vmm.Exit
		err  error
	}
	ended := make(chan ending, 2)
	for range cap(ended) {
		go func() {
			exit, err := b.Driver.Wait(timeout(t), x.id)
			ended <- ending{exit, err}
		}()
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Driver.Wait(ctx, x.id); !errors.HasCode(err, errors.Canceled) {
		t.Errorf("a wait that was canceled: %v", err)
	}
	x.sh(t, "true")
	select {
	case e := <-ended:
		t.Fatalf("it is said to have ended: %+v", e)
	default:
	}
	if err := b.Driver.Stop(timeout(t), x.id, time.Second); err != nil {
		t.Fatal(err)
	}
	for range cap(ended) {
		if e := <-ended; e.err != nil || e.exit.At.IsZero() {
			t.Errorf("%+v", e)
		}
	}
	// One that has stopped yields its end at once.
	if _, err := b.Driver.Wait(timeout(t), x.id); err != nil {
		t.Error(err)
	}
}

func testDeleteRunning(t *testing.T, b *bed) {
	x := b.machine(t)
	id := x.start(t, shell("trap '' TERM HUP INT; echo up; while :; do sleep 1; done"))
	x.follow(t, id).until("up")
	waited := make(chan struct{})
	go func() { defer close(waited); _, _ = b.Driver.Wait(timeout(t), x.id) }()
	if err := b.Driver.Delete(timeout(t), x.id); err != nil {
		t.Fatal(err)
	}
	<-waited
	x.session.Gone(timeout(t), "the machine was deleted")
	end, err := x.session.Wait(timeout(t), id)
	if err != nil || end.LostReason == "" && end.Signal != 9 {
		t.Errorf("its execution: %+v, %v", end, err)
	}
	if got := b.status(t, x.id); got != "" {
		t.Errorf("it is still there, %s", got)
	}
}

// testDeleteWhileCreating deletes at different moments of a creation.
func testDeleteWhileCreating(t *testing.T, b *bed) {
	for i := range 8 {
		s := b.spec()
		created := make(chan error, 1)
		begun := make(chan struct{})
		go func() {
			close(begun)
			_, err := b.Driver.Create(timeout(t), s)
			if err == nil {
				err = b.Driver.Start(timeout(t), s.MachineID)
			}
			created <- err
		}()
		<-begun
		time.Sleep(time.Duration(i*i) * time.Millisecond) // somewhere in it
		if err := b.Driver.Delete(timeout(t), s.MachineID); err != nil {
			t.Errorf("delete: %v", err)
		}
		if err := <-created; err != nil { // as good as a machine
			t.Logf("the creation ended with %v", err)
		}
		if err := b.Driver.Delete(timeout(t), s.MachineID); err != nil {
			t.Errorf("delete after the creation: %v", err)
		}
		if got := b.status(t, s.MachineID); got != "" {
			t.Errorf("it is still there, %s", got)
		}
	}
}

func testList(t *testing.T, b *bed) {
	running, created := b.machine(t), b.spec()
	b.create(t, created)
	states, err := b.Driver.List(timeout(t))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]vmm.Status{running.id: vmm.StatusRunning, created.MachineID: vmm.StatusCreated}
	for _, s := range states {
		if want[s.MachineID] != s.Status || len(s.Handle) == 0 || s.CreatedAt.IsZero() || (s.PID > 0) != (s.Status == vmm.StatusRunning) {
			t.Errorf("%+v, want %s", s, want[s.MachineID])
		}
		delete(want, s.MachineID)
	}
	if len(want) > 0 {
		t.Errorf("missing: %v", want)
	}
}
