package lifecycle_test

import (
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/lifecycle"
)

var (
	desired  = []domain.DesiredState{domain.WantRunning, domain.WantPaused, domain.WantStopped, domain.WantDeleted}
	observed = []domain.ObservedState{
		domain.Pending, domain.Creating, domain.Starting, domain.Running, domain.Pausing, domain.Paused,
		domain.Resuming, domain.Stopping, domain.Stopped, domain.Deleting, domain.Deleted, domain.Failed, domain.Unreachable,
	}
	machines = []lifecycle.MachineStatus{
		lifecycle.MachineAbsent, lifecycle.MachineCreated, lifecycle.MachineRunning, lifecycle.MachinePaused, lifecycle.MachineBroken,
	}
)

// apply plays the world: what a step makes of a view when it succeeds.
func apply(v lifecycle.View, s lifecycle.Step) lifecycle.View {
	switch s {
	case lifecycle.Create, lifecycle.Rebuild, lifecycle.Start, lifecycle.Attach:
		v.Machine, v.Observed, v.Attached, v.Launched = lifecycle.MachineRunning, domain.Running, true, true
	case lifecycle.Pause:
		v.Machine, v.Observed = lifecycle.MachinePaused, domain.Paused
	case lifecycle.Resume:
		v.Machine, v.Observed = lifecycle.MachineRunning, domain.Running
	case lifecycle.Stop:
		v.Machine, v.Observed, v.Attached = lifecycle.MachineCreated, domain.Stopped, false
	case lifecycle.Delete:
		v.Machine, v.Observed, v.Attached = lifecycle.MachineAbsent, domain.Deleted, false
	case lifecycle.Settle:
		v.Observed = lifecycle.Settled(v.Machine)
	case lifecycle.Ended:
		v.Desired, v.Observed = domain.WantStopped, domain.Stopped
	case lifecycle.Fail:
		v.Observed = domain.Failed
	}
	return v
}

// From every state that a crash can leave behind, successful steps lead to
// what is wanted, in few steps, and then nothing more is to be done.
func TestEveryStateConverges(t *testing.T) {
	t.Parallel()
	n := 0
	for _, d := range desired {
		for _, o := range observed {
			for _, m := range machines {
				for _, attached := range []bool{false, true} {
					for _, launched := range []bool{false, true} {
						v := lifecycle.View{Desired: d, Observed: o, Machine: m, Attached: attached, Launched: launched}
						start, steps := v, []lifecycle.Step(nil)
						for range 6 {
							s := lifecycle.Next(v)
							if s == lifecycle.None {
								break
							}
							steps = append(steps, s)
							v = apply(v, s)
						}
						n++
						if len(steps) > 4 {
							t.Fatalf("%+v does not settle: %v", start, steps)
						}
						if !lifecycle.Converged(v.Desired, v.Observed) {
							t.Errorf("%+v ends as %+v after %v", start, v, steps)
						}
					}
				}
			}
		}
	}
	if n != len(desired)*len(observed)*len(machines)*4 {
		t.Fatalf("only %d states tried", n)
	}
}

func TestNextNeverDestroysAUsersDisk(t *testing.T) {
	t.Parallel()
	for _, d := range []domain.DesiredState{domain.WantRunning, domain.WantPaused, domain.WantStopped} {
		for _, o := range observed {
			for _, m := range machines {
				s := lifecycle.Next(lifecycle.View{Desired: d, Observed: o, Machine: m, Launched: true})
				if s == lifecycle.Create || s == lifecycle.Rebuild || s == lifecycle.Delete {
					t.Errorf("want %s, observed %s, machine %s: %s loses data", d, o, m, s)
				}
			}
		}
	}
}

func TestNext(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		v    lifecycle.View
		want lifecycle.Step
	}{
		{"new", lifecycle.View{Desired: domain.WantRunning, Observed: domain.Pending, Machine: lifecycle.MachineAbsent}, lifecycle.Create},
		{"worker restarted", lifecycle.View{Desired: domain.WantRunning, Observed: domain.Running, Machine: lifecycle.MachineRunning, Launched: true}, lifecycle.Attach},
		{"as wanted", lifecycle.View{Desired: domain.WantRunning, Observed: domain.Running, Machine: lifecycle.MachineRunning, Attached: true, Launched: true}, lifecycle.None},
		{"guest ended by itself", lifecycle.View{Desired: domain.WantRunning, Observed: domain.Running, Machine: lifecycle.MachineCreated, Launched: true}, lifecycle.Ended},
		{"started again", lifecycle.View{Desired: domain.WantRunning, Observed: domain.Stopped, Machine: lifecycle.MachineCreated, Launched: true}, lifecycle.Start},
		{"crash while stopping", lifecycle.View{Desired: domain.WantStopped, Observed: domain.Stopping, Machine: lifecycle.MachineCreated, Launched: true}, lifecycle.Settle},
		{"paused, in the storage", lifecycle.View{Desired: domain.WantPaused, Observed: domain.Paused, Machine: lifecycle.MachineAbsent}, lifecycle.None},
		{"stopped there", lifecycle.View{Desired: domain.WantStopped, Observed: domain.Paused, Machine: lifecycle.MachineAbsent}, lifecycle.Settle},
		{"resumed from there", lifecycle.View{Desired: domain.WantRunning, Observed: domain.Paused, Machine: lifecycle.MachineAbsent}, lifecycle.Create},
		{"half made", lifecycle.View{Desired: domain.WantRunning, Observed: domain.Creating, Machine: lifecycle.MachineBroken}, lifecycle.Rebuild},
		{"disk gone", lifecycle.View{Desired: domain.WantRunning, Observed: domain.Stopped, Machine: lifecycle.MachineAbsent, Launched: true}, lifecycle.Fail},
		{"delete while creating", lifecycle.View{Desired: domain.WantDeleted, Observed: domain.Creating, Machine: lifecycle.MachineBroken}, lifecycle.Delete},
	} {
		if got := lifecycle.Next(tc.v); got != tc.want {
			t.Errorf("%s: got %s, want %s", tc.name, got, tc.want)
		}
	}
}

func TestAsk(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		vm      domain.VM
		want    domain.DesiredState
		changed bool
		code    errors.Code
	}{
		{"stop a running one", domain.VM{Desired: domain.WantRunning}, domain.WantStopped, true, ""},
		{"stop twice", domain.VM{Desired: domain.WantStopped}, domain.WantStopped, false, ""},
		{"delete twice", domain.VM{Desired: domain.WantDeleted}, domain.WantDeleted, false, ""},
		{"start a deleted one", domain.VM{Desired: domain.WantDeleted}, domain.WantRunning, false, errors.Gone},
		{"pause a stopped one", domain.VM{Desired: domain.WantStopped}, domain.WantPaused, false, errors.Conflict},
		{"start a failed one", domain.VM{Desired: domain.WantRunning, Observed: domain.Failed}, domain.WantRunning, false, errors.Conflict},
		{"delete a failed one", domain.VM{Desired: domain.WantRunning, Observed: domain.Failed}, domain.WantDeleted, true, ""},
	} {
		changed, err := lifecycle.Ask(&tc.vm, tc.want)
		if changed != tc.changed || errors.CodeOf(err) != tc.code {
			t.Errorf("%s: got %v, %v", tc.name, changed, err)
		}
	}
}

func TestTimeLeft(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	in := func(d time.Duration) *time.Time { at := now.Add(d); return &at }
	running := domain.VM{Desired: domain.WantRunning, Observed: domain.Running}
	with := func(f func(*domain.VM)) *domain.VM { vm := running; f(&vm); return &vm }
	for _, tc := range []struct {
		name  string
		vm    *domain.VM
		used  time.Duration // relative to now
		left  time.Duration
		cause domain.Cause
		ok    bool
	}{
		{"no limits", with(func(*domain.VM) {}), 0, 0, "", false},
		{"deadline ahead", with(func(vm *domain.VM) { vm.Deadline = in(time.Minute) }), 0, time.Minute, domain.CauseDeadline, true},
		{"deadline passed", with(func(vm *domain.VM) { vm.Deadline = in(-time.Second) }), 0, -time.Second, domain.CauseDeadline, true},
		{"idle first", with(func(vm *domain.VM) { vm.Deadline = in(time.Hour); vm.IdleTimeout = time.Minute }), -30 * time.Second, 30 * time.Second, domain.CauseIdle, true},
		{"never used counts from start", with(func(vm *domain.VM) { vm.StartedAt = in(-10 * time.Second); vm.IdleTimeout = time.Minute }), -time.Hour, 50 * time.Second, domain.CauseIdle, true},
		{"a paused VM is not idle", with(func(vm *domain.VM) {
			vm.Desired, vm.Observed, vm.IdleTimeout = domain.WantPaused, domain.Paused, time.Minute
		}), -time.Hour, 0, "", false},
		{"paused by its deadline stays", with(func(vm *domain.VM) {
			vm.Desired, vm.Observed, vm.OnTimeout, vm.Deadline = domain.WantPaused, domain.Paused, domain.TimeoutPause, in(-time.Hour)
		}), 0, 0, "", false},
		{"deleted", with(func(vm *domain.VM) { vm.Desired = domain.WantDeleted; vm.Deadline = in(-time.Hour) }), 0, 0, "", false},
	} {
		left, cause, ok := lifecycle.TimeLeft(now, tc.vm, now.Add(tc.used))
		if left != tc.left || cause != tc.cause || ok != tc.ok {
			t.Errorf("%s: got %v %q %v", tc.name, left, cause, ok)
		}
	}
}
