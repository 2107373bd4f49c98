package guest_test

import (
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/guest"
	guestv1 "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1"
	"github.com/aetherium/aetherium/services/core/pkg/journal"
)

// What runs in a machine can be given new IDs, and is taken up under them by a
// session that never started it; what was acknowledged before is told as a gap.
func TestInherit(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	origin := newHost(t, m.dial, newJournals(t), domain.NewID())
	c := sh("echo before; cat; exit 5")
	c.Stdin = true
	id := origin.start(t, c)
	over := origin.start(t, sh("exit 1"))
	if _, err := origin.Wait(t.Context(), over); err != nil {
		t.Fatal(err)
	}
	origin.Close()

	client := guest.New(m.dial, guest.Options{})
	defer client.Close()
	all, err := client.Remembered(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var r *guest.Remembered
	for i := range all {
		if all[i].ID == id {
			r = &all[i]
		} else if !all[i].Ended {
			t.Errorf("it also runs %+v", all[i])
		}
	}
	if r == nil || r.Ended || r.Foreign || r.PID < 1 || !r.Command.Stdin || r.Command.Args[2] != c.Args[2] {
		t.Fatalf("%+v", all)
	}
	journals, vm := newJournals(t), domain.NewID()
	own := guest.InheritedID(vm, 1, id)
	if own != guest.InheritedID(vm, 1, id) || own == guest.InheritedID(domain.NewID(), 1, id) || own == guest.InheritedID(vm, 2, id) || !domain.IsID(string(own)) {
		t.Errorf("the new ID is %s", own)
	}
	key := journal.Key{VM: vm, Epoch: 1, Execution: own}
	if _, ok := guest.OriginOf(journals, key); ok {
		t.Error("it has an origin before it has a journal")
	}
	for range 2 {
		if err := guest.BeginInherited(journals, key, *r); err != nil {
			t.Fatal(err)
		}
		if err := client.Rename(t.Context(), map[domain.ID]domain.ID{id: own}); err != nil {
			t.Fatal(err)
		}
	}
	if got, ok := guest.OriginOf(journals, key); !ok || got != id {
		t.Errorf("its origin is %q", got)
	}
	if err := client.Rename(t.Context(), map[domain.ID]domain.ID{domain.NewID(): domain.NewID()}); !errors.HasCode(err, errors.NotFound) {
		t.Errorf("renaming what is not there: %v", err)
	}
	if err := client.Forget(t.Context(), over, own); err != nil { // what runs is not forgotten
		t.Fatal(err)
	}
	fork := newHost(t, m.dial, journals, vm, own)
	if err := fork.WriteStdin(t.Context(), own, -1, []byte("after")); err != nil {
		t.Fatal(err)
	}
	if err := fork.CloseStdin(t.Context(), own); err != nil {
		t.Fatal(err)
	}
	end, err := fork.Wait(t.Context(), own)
	if err != nil || end.ExitCode != 5 {
		t.Errorf("%+v, %v", end, err)
	}
	tail, err := journals.Tail(key, 100)
	if want := "before\nafter"[r.Acked:]; err != nil || string(tail) != want {
		t.Errorf("its output is %q, want %q: %v", tail, want, err)
	}
}

// A list of executions is from whoever is in the machine.
func TestRememberedByALiar(t *testing.T) {
	t.Parallel()
	id := string(domain.NewID())
	good := &guestv1.ExecutionInfo{ExecutionId: id, Pid: 1}
	many := make([]*guestv1.ExecutionInfo, 5000)
	for i := range many {
		many[i] = &guestv1.ExecutionInfo{ExecutionId: string(domain.NewID()), Pid: 1}
	}
	for name, list := range map[string][]*guestv1.ExecutionInfo{
		"no ID":                 {{ExecutionId: "../../etc", Pid: 1}},
		"no process":            {{ExecutionId: id}},
		"a negative offset":     {{ExecutionId: id, Pid: 1, AckedOffset: -1}},
		"more taken than there": {{ExecutionId: id, Pid: 1, AckedOffset: 2, OutputBytes: 1}},
		"the same twice":        {good, good},
		"too many":              many,
	} {
		c := guest.New((&liar{list: list}).dial(t), guest.Options{})
		if got, err := c.Remembered(t.Context()); !errors.HasCode(err, errors.GuestFault) {
			t.Errorf("%s: %d, %v", name, len(got), err)
		}
		c.Close()
	}
	// An offset that no output has is refused where it would be written.
	j := newJournals(t)
	huge := guest.Remembered{ID: domain.ID(id), PID: 1, Acked: 1<<63 - 1}
	if err := guest.BeginInherited(j, journal.Key{VM: domain.NewID(), Epoch: 1, Execution: domain.ID(id)}, huge); !errors.HasCode(err, errors.OutOfRange) {
		t.Errorf("an offset out of range: %v", err)
	}
}
