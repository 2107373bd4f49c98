package worker_test

import (
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/access"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/fake"
)

// A project that goes leaves nothing on the node: no snapshot, no template, no
// output. Another's stay.
func TestAProjectGoesFromTheNode(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	keep := b.by
	admin := vmm.Caller{ProjectID: keep.ProjectID, Name: "root", Scopes: domain.Scopes{domain.ScopeAdmin}, Admin: true}
	who := access.New(access.Deps{Store: b.store, Sealer: b.sealer, Emptier: b.Service})
	p, err := who.CreateProject(b.ctx, admin, "doomed")
	must(t, err)
	kept := b.running(vmm.CreateVM{})
	b.sh(kept.ID, "echo kept")

	b.by = vmm.Caller{ProjectID: p.ID, Name: "tenant"}
	b.template("theirs", "/")
	vm := b.running(vmm.CreateVM{Template: "theirs", Network: domain.NetworkNAT})
	b.node.LogEgress(string(vm.MachineID), domain.EgressEntry{Verdict: domain.EgressAllow, Via: "dns", Proto: "dns", Name: "asked.com"})
	b.sh(vm.ID, "echo gone")
	snap, err := b.CreateSnapshot(b.ctx, b.by, vm.ID, vmm.CreateSnapshot{Name: "frozen"})
	must(t, err)
	if err := who.DeleteProject(b.ctx, admin, "doomed"); !errors.HasCode(err, errors.Conflict) {
		t.Fatalf("with a VM: %v", err)
	}
	_, err = b.DeleteVM(b.ctx, b.by, vm.ID)
	must(t, err)
	_, err = b.WaitVM(b.ctx, b.by, vm.ID)
	must(t, err)
	must(t, b.worker.FlushExecutions(b.ctx))
	must(t, who.DeleteProject(b.ctx, admin, "doomed"))

	for _, j := range b.journals.List() {
		x, err := b.GetExecution(b.ctx, keep, j.Key.Execution)
		if err != nil || x.VMID != kept.ID {
			t.Errorf("output of %+v is left: %v", j.Key, err)
		}
	}
	b.images.mu.Lock()
	if len(b.images.built) != 1 {
		t.Errorf("builds %v are left", b.images.built)
	}
	b.images.mu.Unlock()
	if err := b.store.View(b.ctx, func(tx storage.Tx) error {
		_, err := tx.Snapshots().Get(b.ctx, storage.System, snap.ID)
		return err
	}); !errors.HasCode(err, errors.NotFound) {
		t.Errorf("the snapshot is left: %v", err)
	}
	b.by = keep
	if out, _ := b.sh(kept.ID, "echo still"); out != "still\n" {
		t.Errorf("the other project's VM says %q", out)
	}
	b.running(vmm.CreateVM{})
	b.down() // another driver on the node takes its machines over
	logs, ok := vmm.Driver(fake.New(b.node)).(vmm.EgressController)
	if !ok {
		t.Fatal("no log")
	}
	if left, err := logs.EgressLog(b.ctx, string(vm.MachineID), vmm.EgressLogQuery{}); err == nil && len(left) > 0 {
		t.Errorf("the log of a VM that is gone: %+v", left)
	}
}
