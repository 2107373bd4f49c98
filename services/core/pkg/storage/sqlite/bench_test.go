package sqlite_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/storage/sqlite"
)

// bench is a store with a thousand VMs on a worker.
type bench struct {
	*testing.B
	s       *sqlite.Store
	project domain.ID
	worker  domain.ID
	vms     []*domain.VM
}

func newBench(b *testing.B) *bench {
	b.Helper()
	x := &bench{B: b, s: open(b, filepath.Join(b.TempDir(), "a.db")), project: domain.NewID(), worker: domain.NewID()}
	x.update(func(tx storage.Tx) error {
		if err := tx.Projects().Insert(b.Context(), &domain.Project{ID: x.project, Name: "p"}); err != nil {
			return err
		}
		for i := range 1000 {
			vm := x.vm(i)
			x.vms = append(x.vms, vm)
			if err := tx.VMs().Insert(b.Context(), vm); err != nil {
				return err
			}
		}
		return nil
	})
	return x
}

func (x *bench) vm(i int) *domain.VM {
	now := time.Now()
	return &domain.VM{
		ID: domain.NewID(), ProjectID: x.project, Name: fmt.Sprintf("vm-%d", i), Metadata: map[string]string{"team": "red"}, WorkerID: x.worker,
		Spec: domain.VMSpec{
			Template: "base", TemplateID: domain.NewID(), BuildID: domain.NewID(), Driver: "oci", Platform: "linux/amd64", Network: domain.NetworkNAT,
			Resources: domain.Resources{MilliCPU: 1000, MemoryBytes: 1 << 30, DiskBytes: 4 << 30, PIDs: 1000},
		},
		Desired: domain.WantRunning, Observed: domain.Running, PauseMode: domain.PauseFreeze, OnTimeout: domain.TimeoutKill,
		EnvSealed: make([]byte, 200), TokenSealed: make([]byte, 120), Generation: 1, CreatedAt: now, UpdatedAt: now,
	}
}

func (x *bench) event(vm *domain.VM) *domain.Event {
	return &domain.Event{ProjectID: x.project, Type: "vm.running", Subject: vm.ID, VMID: vm.ID, Data: []byte(`{"state":"running","epoch":1}`), At: time.Now()}
}

func (x *bench) update(f func(tx storage.Tx) error) {
	if err := x.s.Update(x.Context(), f); err != nil {
		x.Fatal(err)
	}
}

func (x *bench) view(f func(tx storage.Tx) error) {
	if err := x.s.View(x.Context(), f); err != nil {
		x.Fatal(err)
	}
}

// A step of the life cycle: read the row, change it, write it with its event.
func BenchmarkCommitVMAndEvent(b *testing.B) {
	x := newBench(b)
	i := 0
	for b.Loop() {
		i++
		x.update(func(tx storage.Tx) error {
			vm, err := tx.VMs().Get(b.Context(), x.project, x.vms[i%1000].ID)
			if err != nil {
				return err
			}
			vm.Observed = []domain.ObservedState{domain.Running, domain.Stopping}[i/1000%2]
			if err := tx.VMs().Update(b.Context(), vm); err != nil {
				return err
			}
			return tx.Outbox().Append(b.Context(), x.event(vm))
		})
	}
}

// What POST /vms writes: admission, the row and its event.
func BenchmarkCreateVM(b *testing.B) {
	x := newBench(b)
	i := 1000
	for b.Loop() {
		i++
		x.update(func(tx storage.Tx) error {
			if _, err := tx.Workers().Count(b.Context(), &domain.Worker{ID: x.worker}); err != nil {
				return err
			}
			vm := x.vm(i)
			vm.WorkerID = "elsewhere" // keeps the sum at a thousand VMs
			if err := tx.VMs().Insert(b.Context(), vm); err != nil {
				return err
			}
			return tx.Outbox().Append(b.Context(), x.event(vm))
		})
	}
}

func BenchmarkGetVM(b *testing.B) {
	x := newBench(b)
	i := 0
	for b.Loop() {
		i++
		x.view(func(tx storage.Tx) error {
			_, err := tx.VMs().Get(b.Context(), x.project, x.vms[i%1000].ID)
			return err
		})
	}
}

func BenchmarkListVMs100(b *testing.B) {
	x := newBench(b)
	for b.Loop() {
		x.view(func(tx storage.Tx) error {
			_, err := tx.VMs().List(b.Context(), storage.VMFilter{ProjectID: x.project})
			return err
		})
	}
}

func BenchmarkUnconvergedSweep(b *testing.B) {
	x := newBench(b)
	for b.Loop() {
		x.view(func(tx storage.Tx) error {
			_, err := tx.VMs().Unconverged(b.Context(), x.worker, 100)
			return err
		})
	}
}

func BenchmarkReservedOf1000VMs(b *testing.B) {
	x := newBench(b)
	for b.Loop() {
		x.view(func(tx storage.Tx) error {
			_, err := tx.Workers().Count(b.Context(), &domain.Worker{ID: x.worker})
			return err
		})
	}
}

// A batch of 100 executions that have ended, each with its event.
func BenchmarkUpsert100Executions(b *testing.B) {
	x := newBench(b)
	code := 0
	for b.Loop() {
		x.update(func(tx storage.Tx) error {
			for i := range 100 {
				now := time.Now()
				e := &domain.Execution{
					ID: domain.NewID(), ProjectID: x.project, VMID: x.vms[i].ID, Epoch: 1, CommandSealed: make([]byte, 200),
					State: domain.ExecutionExited, ExitCode: &code, CreatedAt: now, StartedAt: &now, EndedAt: &now,
				}
				if err := tx.Executions().Upsert(b.Context(), e); err != nil {
					return err
				}
				if err := tx.Outbox().Append(b.Context(), x.event(x.vms[i])); err != nil {
					return err
				}
			}
			return nil
		})
	}
}

func BenchmarkOpen(b *testing.B) {
	path := filepath.Join(b.TempDir(), "a.db")
	if err := open(b, path).Close(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		s, err := sqlite.Open(b.Context(), path, sqlite.Options{})
		if err != nil {
			b.Fatal(err)
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
