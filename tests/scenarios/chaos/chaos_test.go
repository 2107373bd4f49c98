package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/pkg/client"
	"github.com/aetherium/aetherium/tests/internal/wallclock"
	"github.com/aetherium/aetherium/tests/scenarios/chaos/history"
)

// What templates are made from, how long, and from which seed: the same seed
// makes the same faults in the same order, though users meet them in another
// state each time. Only those are made whose name has a given text in it, such
// as "is cut".
const (
	rootfsEnv   = "AETHERIUM_CHAOS_ROOTFS"
	durationEnv = "AETHERIUM_CHAOS_FOR"
	seedEnv     = "AETHERIUM_CHAOS_SEED"
	onlyEnv     = "AETHERIUM_CHAOS_ONLY"
)

const (
	users = 4
	// aftermath is how long what was begun may take to come to its end. It only ends
	// what hangs: who takes over from a gateway that is gone may wait for two minutes,
	// a lease, what clocks may differ by, and until it looks.
	aftermath = 5 * time.Minute
)

// TestMain starts processes that have clocks of their own, too.
func TestMain(m *testing.M) {
	wallclock.Main()
	os.Exit(m.Run())
}

func TestNothingIsLost(t *testing.T) {
	rootfs := os.Getenv(rootfsEnv)
	switch {
	case os.Geteuid() != 0:
		t.Skip("it needs root")
	case rootfs == "":
		t.Skip(rootfsEnv + " names no root filesystem")
	}
	duration, seed := 3*time.Minute, uint64(1)
	if text := os.Getenv(durationEnv); text != "" {
		var err error
		duration, err = time.ParseDuration(text)
		must(t, err)
	}
	if text := os.Getenv(seedEnv); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		must(t, err)
	}
	t.Logf("seed %d, for %s", seed, duration)

	f := newField(t, t.Context())
	f.start(rootfs)

	// The time begins when all is there, however long that took.
	ctx, cancel := context.WithTimeout(t.Context(), duration+aftermath+10*time.Minute)
	defer cancel()
	f.ctx = ctx
	h := new(history.History)
	during, stop := context.WithTimeout(ctx, duration)
	defer stop()
	end, stopAll := context.WithTimeout(ctx, duration+aftermath)
	defer stopAll()
	looking, stopLooking := context.WithCancel(end)
	defer stopLooking()
	looks := f.watch(looking)
	once, steady := f.clients(time.Millisecond), f.clients(aftermath)
	var working sync.WaitGroup
	for i := range users {
		u := &user{
			Rand: rand.New(rand.NewPCG(seed, uint64(i))), name: fmt.Sprintf("user%d", i), h: h, //nolint:gosec // repeatable
			once: once, steady: steady, templates: f.templates,
		}
		working.Go(func() { u.work(during, end) })
	}
	c := &commissioner{user: user{
		Rand: rand.New(rand.NewPCG(seed, users+1)), name: "commissioner", h: h, //nolint:gosec // repeatable
		once: once, steady: steady, templates: f.templates,
	}}
	working.Go(func() { c.work(during, end) })
	err := f.spoil(during, os.Getenv(onlyEnv), rand.New(rand.NewPCG(seed, users))) //nolint:gosec // repeatable
	// Whoever still waits then shows by what: a Go program writes its stacks.
	stuck := time.AfterFunc(aftermath-20*time.Second, func() {
		for _, s := range f.servers() {
			if pid, err := s.PID(); err == nil {
				_ = syscall.Kill(pid, syscall.SIGQUIT)
			}
		}
	})
	working.Wait()
	stopLooking()
	if !stuck.Stop() {
		f.keepLogs()
		t.Fatal("what was begun did not come to its end: the logs have everybody's stacks")
	}
	must(t, err)
	f.settle()
	t.Log(h.Summary())
	f.tellFaults()

	patient := f.clients(time.Minute)[0]
	var rows []history.Row
	for vm, err := range patient.VMs(ctx, client.VMFilter{IncludeDeleted: true}) {
		must(t, err)
		rows = append(rows, history.Row{
			ID: vm.ID, Name: vm.Name, State: vm.State, Task: vm.Metadata[taskLabel], Drained: drained(vm),
		})
	}
	var told []history.Event
	for e, err := range patient.Events(ctx, 0) {
		must(t, err)
		told = append(told, history.Event{Seq: e.Seq, Type: e.Type, VM: e.VMID})
	}
	seen := looks()
	t.Logf("looked at the hosts %d times, %d machines ran there", len(seen), ran(seen))
	wrong := slices.Concat(h.Check(rows), h.CheckEvents(told, rows), history.CheckOwners(seen))
	for _, w := range wrong {
		t.Error(w)
	}
	f.tellOf(wrong)

	f.summed()
	for vm, err := range patient.VMs(ctx, client.VMFilter{}) {
		must(t, err)
		if _, err := patient.DeleteVM(ctx, vm.ID); err != nil {
			t.Errorf("%s cannot be deleted: %v", vm.Name, err)
		}
	}
	settling, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for i, w := range f.workers {
		for _, stray := range f.stray(settling, w) {
			t.Errorf("worker-%d: %s", i+1, stray)
		}
	}
	var left []api.VM
	for vm, err := range patient.VMs(ctx, client.VMFilter{}) {
		must(t, err)
		left = append(left, vm)
	}
	if len(left) > 0 {
		t.Errorf("after all were deleted there are %d VMs: %+v", len(left), left)
	}
	f.summed()
}
