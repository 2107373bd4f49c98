package worker_test

import (
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// A fork has of its origin what it was not told otherwise.
func TestAForkIsOfItsOriginsKind(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	timeout := time.Hour
	vm := b.running(vmm.CreateVM{Timeout: &timeout, OnTimeout: domain.TimeoutStop, IdleTimeout: time.Minute, Metadata: map[string]string{"a": "b"}})
	forks, err := b.ForkVM(b.ctx, b.by, vm.ID, 1, vmm.CreateVM{})
	must(t, err)
	fork := forks[0]
	if fork.Spec.Template != "base" || fork.OnTimeout != domain.TimeoutStop || fork.IdleTimeout != time.Minute || fork.Metadata["a"] != "b" {
		t.Errorf("%+v", fork)
	}
	if fork.Deadline == nil || !fork.Deadline.Equal(*vm.Deadline) {
		t.Errorf("deadline %v, the origin's is %v", fork.Deadline, vm.Deadline)
	}
	none := time.Duration(0)
	other, err := b.ForkVM(b.ctx, b.by, vm.ID, 1, vmm.CreateVM{Timeout: &none, OnTimeout: domain.TimeoutKill})
	must(t, err)
	if other[0].Deadline != nil || other[0].OnTimeout != domain.TimeoutKill {
		t.Errorf("%+v", other[0])
	}
}

func TestSnapshotsAreNamedLikeTemplates(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	vm := b.running(vmm.CreateVM{})
	for _, name := range []string{"Snap", "a:b", "-a"} {
		if _, err := b.CreateSnapshot(b.ctx, b.by, vm.ID, vmm.CreateSnapshot{Name: name}); !errors.HasCode(err, errors.InvalidArgument) {
			t.Errorf("%q: %v", name, err)
		}
	}
	_, err := b.CreateSnapshot(b.ctx, b.by, vm.ID, vmm.CreateSnapshot{Name: "snap-1"})
	must(t, err)
	b.running(vmm.CreateVM{Template: "snap-1"})
}
