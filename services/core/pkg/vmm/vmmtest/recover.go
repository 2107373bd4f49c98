package vmmtest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

var recoverTests = []behaviour{
	{"output resumes without loss", nil, testResume},
	{"a command that ended meanwhile", nil, testEndedMeanwhile},
	{"a machine that ended is told of", nil, testWaitAfterReopen},
	{"orphans show", nil, testOrphans},
}

// reopen does what a worker's restart does to the box.
func (b *bed) reopen(t *testing.T, x *box, known ...domain.ID) *box {
	t.Helper()
	x.detach()
	b.Driver = b.Reopen(t)
	return b.attach(t, x.id, x.dir, known...)
}

func testResume(t *testing.T, b *bed) {
	x := b.machine(t)
	const last = 60_000
	c := shell(fmt.Sprintf("i=0; while [ $i -le %d ]; do echo line $i; i=$((i+1)); done; cat; exit 7", last))
	c.Stdin = true
	id := x.start(t, c)
	x.follow(t, id).until("line 1000\n")
	for range 3 {
		x = b.reopen(t, x, id)
	}
	f := x.follow(t, id)
	f.until(fmt.Sprintf("line %d\n", last))
	for i, line := range strings.Split(strings.TrimSpace(f.text.String()), "\n") {
		if line != fmt.Sprintf("line %d", i) {
			t.Fatalf("line %d is %q", i, line)
		}
	}
	// Its input can be written to as well, and its end is told.
	if err := x.session.WriteStdin(timeout(t), id, -1, []byte("the end")); err != nil {
		t.Fatal(err)
	}
	if err := x.session.CloseStdin(timeout(t), id); err != nil {
		t.Fatal(err)
	}
	if got := f.rest(); got.stdout != "the end" || got.end.ExitCode != 7 {
		t.Errorf("%+v", got)
	}
	x.sh(t, "true")
}

func testEndedMeanwhile(t *testing.T, b *bed) {
	x := b.machine(t)
	id := x.start(t, shell("echo before; while test ! -e go; do sleep 0.02; done; echo after; touch ended; exit 3"))
	x.follow(t, id).until("before")
	x.write(t, "go", "")
	// The channel is let go of, and only then, or just before, does it end.
	x = b.reopen(t, x, id)
	if got := x.follow(t, id).rest(); got.stdout != "before\nafter\n" || got.end.ExitCode != 3 {
		t.Errorf("%+v", got)
	}
}

func testWaitAfterReopen(t *testing.T, b *bed) {
	x := b.machine(t)
	x.detach()
	b.Driver = b.Reopen(t)
	ended := make(chan error, 1)
	go func() {
		_, err := b.Driver.Wait(timeout(t), x.id)
		ended <- err
	}()
	if got := b.status(t, x.id); got != vmm.StatusRunning {
		t.Errorf("after the restart: %s", got)
	}
	if err := b.Driver.Stop(timeout(t), x.id, time.Second); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	b.start(t, x.id)
	b.attach(t, x.id, t.TempDir()).sh(t, "true")
}

func testOrphans(t *testing.T, b *bed) {
	running, created := b.machine(t), b.spec()
	b.create(t, created)
	running.detach()
	b.Driver = b.Reopen(t)
	for id, want := range map[string]vmm.Status{running.id: vmm.StatusRunning, created.MachineID: vmm.StatusCreated} {
		if got := b.status(t, id); got != want {
			t.Errorf("%s: %q, want %s", id, got, want)
		}
		if err := b.Driver.Delete(timeout(t), id); err != nil {
			t.Error(err)
		}
	}
}
