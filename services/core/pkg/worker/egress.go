package worker

import (
	"context"
	"sync"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/lifecycle"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// enforceEgress puts what a VM may reach in force before its machine runs, or
// before the VM gets one that does. A VM that never asked for anything has the
// driver's default, and costs nothing here.
func (w *Worker) enforceEgress(ctx context.Context, vm *domain.VM) error {
	if vm.EgressGen == 0 {
		return nil
	}
	return w.ApplyEgress(ctx, vm.ID)
}

// ApplyEgress implements service.Node: it puts in force what a VM's row says,
// and acknowledges it. A VM without a machine has it from its start on.
func (w *Worker) ApplyEgress(ctx context.Context, id domain.ID) error {
	defer w.egress.lock(id)()
	// Read under the lock: of two changes at a time the newer one is in force in the end.
	vm, err := w.load(ctx, id)
	if err != nil {
		return err
	}
	if vm.MachineID != "" && vm.Observed != domain.Deleted {
		if err := w.trustForRules(ctx, vm); err != nil {
			return err
		}
		if err := w.setEgress(ctx, vm); err != nil {
			return err
		}
	}
	if vm.EgressAck == vm.EgressGen {
		return nil
	}
	err = w.Store.Update(ctx, func(tx storage.Tx) error {
		row, err := tx.VMs().Get(ctx, storage.System, id)
		if err != nil {
			return err
		}
		row.EgressAck = vm.EgressGen
		vm = row
		return tx.VMs().Update(ctx, row)
	})
	if err == nil {
		w.vms.refresh(vm)
		w.Changes.Notify(id)
	}
	return err
}

// trustForRules has a running VM trust what its requests meet by rules that
// are new to it; one that starts is made to before.
func (w *Worker) trustForRules(ctx context.Context, vm *domain.VM) error {
	if len(vm.Spec.Egress.Rules) == 0 || vm.EgressAck == vm.EgressGen || vm.Observed != domain.Running {
		return nil
	}
	driver, err := w.driver(vm.Spec.Driver)
	if err != nil {
		return err
	}
	client := w.client(driver, vm.MachineID)
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, w.config.ReadyTimeout)
	defer cancel()
	if _, err := client.Handshake(ctx); err != nil {
		return err
	}
	return w.configure(ctx, vm, client)
}

func (w *Worker) setEgress(ctx context.Context, vm *domain.VM) error {
	driver, err := w.driver(vm.Spec.Driver)
	if err != nil {
		return err
	}
	c, ok := driver.(vmm.EgressController)
	if !ok {
		return errors.New(errors.Unsupported, "the driver %s cannot restrict what a VM reaches", vm.Spec.Driver)
	}
	e, err := service.OpenEgress(ctx, w.Sealer, vm)
	if err != nil {
		return err
	}
	for _, use := range vm.Spec.Secrets {
		if len(use.Hosts) == 0 {
			continue
		}
		value, err := service.SecretValue(ctx, w.Store, w.Sealer, vm.ProjectID, use.Name)
		if errors.HasCode(err, errors.NotFound) {
			w.Log.Warn("a secret is gone; requests leave with its placeholder", "vm", vm.ID, "secret", use.Name)
			value = use.Placeholder
		} else if err != nil {
			return err
		}
		e.Secrets = append(e.Secrets, domain.BoundSecret{Placeholder: use.Placeholder, Value: value, Hosts: use.Hosts})
	}
	return c.SetEgress(ctx, string(vm.MachineID), e)
}

// recoverEgress says again what running VMs may reach: what enforces it knows
// the policies, but secrets are nowhere but in its memory and, sealed, in the store.
func (w *Worker) recoverEgress(ctx context.Context, vms []*domain.VM) {
	for _, vm := range vms {
		if vm.EgressGen == 0 {
			continue
		}
		switch w.machines.status(vm.MachineID) {
		case lifecycle.MachineRunning, lifecycle.MachinePaused:
			if err := w.ApplyEgress(ctx, vm.ID); err != nil {
				w.Log.Error("egress policy not renewed; secrets may be missing in the VM's requests", "vm", vm.ID, "error", err)
			}
		}
	}
}

// EgressLog implements service.Node.
func (w *Worker) EgressLog(ctx context.Context, vm *domain.VM, q vmm.EgressLogQuery) ([]domain.EgressEntry, error) {
	c, machine, err := w.egressController(vm)
	if err != nil || machine == "" {
		return nil, err
	}
	return c.EgressLog(ctx, string(machine), q)
}

func (w *Worker) egressController(vm *domain.VM) (vmm.EgressController, domain.ID, error) {
	driver, err := w.driver(vm.Spec.Driver)
	if err != nil {
		return nil, "", err
	}
	c, ok := driver.(vmm.EgressController)
	if !ok {
		return nil, "", errors.New(errors.Unsupported, "the driver %s keeps no egress log", vm.Spec.Driver)
	}
	machine := vm.MachineID
	if machine == "" && vm.Tombstone != nil {
		machine = vm.Tombstone.MachineID
	}
	return c, machine, nil
}

// forgetEgressLogs removes the logs of VMs whose tombstones are gone.
func (w *Worker) forgetEgressLogs(ctx context.Context, vms []*domain.VM) {
	for _, vm := range vms {
		c, machine, err := w.egressController(vm)
		if err != nil || machine == "" {
			continue
		}
		if err := c.ForgetEgressLog(ctx, string(machine)); err != nil {
			w.Log.Warn("egress log not removed", "vm", vm.ID, "error", err)
		}
	}
}

// keyed is a lock for each key.
type keyed[K comparable] struct {
	mu    sync.Mutex
	locks map[K]*keyLock
}

type keyLock struct {
	mu   sync.Mutex
	uses int
}

// lock waits for a key's lock and returns what unlocks it.
func (k *keyed[K]) lock(key K) (unlock func()) {
	k.mu.Lock()
	if k.locks == nil {
		k.locks = map[K]*keyLock{}
	}
	l := k.locks[key]
	if l == nil {
		l = &keyLock{}
		k.locks[key] = l
	}
	l.uses++
	k.mu.Unlock()
	l.mu.Lock()
	return func() {
		l.mu.Unlock()
		k.mu.Lock()
		defer k.mu.Unlock()
		if l.uses--; l.uses == 0 {
			delete(k.locks, key)
		}
	}
}
