package service

import (
	"context"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

// place chooses the worker for vm in the transaction that inserts it, so that
// two requests never take the same room. A VM that is bound to a worker (its
// snapshot is there) gets that one or none.
// Returns CapacityExhausted, Unsupported, InvalidArgument when no worker would
// have room even if it were empty.
func (s *Service) place(ctx context.Context, tx storage.Tx, vm *domain.VM) error {
	workers, err := tx.Workers().All(ctx)
	if err != nil {
		return err
	}
	var best, largest *domain.Worker
	var bestFree float64
	var chosen domain.DriverInfo
	var unsupported error
	possible := false
	for _, w := range workers {
		if _, fits := s.room(&domain.Worker{Capacity: w.Capacity}, vm.Spec.Resources); fits {
			possible = true
		}
		if largest == nil || w.Capacity.MemoryBytes > largest.Capacity.MemoryBytes {
			largest = w
		}
		if w.State != domain.WorkerReady || vm.WorkerID != "" && vm.WorkerID != w.ID {
			continue
		}
		driver, err := s.choose(w, vm.Spec)
		if err != nil {
			unsupported = err
			continue
		}
		if free, fits := s.room(w, vm.Spec.Resources); fits && (best == nil || free > bestFree) {
			best, bestFree, chosen = w, free, driver
		}
	}
	switch {
	case best != nil:
		vm.WorkerID, vm.Spec.Driver, vm.Isolation = best.ID, chosen.Name, chosen.Isolation
		return nil
	case unsupported != nil:
		return unsupported
	case largest != nil && !possible:
		c := largest.Capacity
		return errors.New(errors.InvalidArgument, "no worker is large enough for this VM").WithField("resources").
			WithHint("the largest has %d milli_cpu, %d memory_bytes and %d disk_bytes", c.MilliCPU, c.MemoryBytes, c.DiskBytes)
	}
	return errors.New(errors.CapacityExhausted, "no worker has room for this VM").
		WithRetryAfter(5 * time.Second).WithHint("ask for less, delete VMs, or raise the overcommit in the configuration")
}

// room reports whether r fits a worker, and how much of its memory is free.
func (s *Service) room(w *domain.Worker, r domain.Resources) (free float64, fits bool) {
	within := func(reserved, more, capacity int64, times float64) bool {
		return times == 0 || float64(reserved+more) <= float64(capacity)*times
	}
	o := s.config.Overcommit
	fits = r.MilliCPU <= w.Capacity.MilliCPU && r.MemoryBytes <= w.Capacity.MemoryBytes &&
		within(w.Reserved.MilliCPU, r.MilliCPU, w.Capacity.MilliCPU, o.CPU) &&
		within(w.Reserved.MemoryBytes, r.MemoryBytes, w.Capacity.MemoryBytes, o.Memory) &&
		within(w.Reserved.DiskBytes, r.DiskBytes, w.Capacity.DiskBytes, o.Disk)
	return 1 - float64(w.Reserved.MemoryBytes)/float64(max(1, w.Capacity.MemoryBytes)), fits
}
