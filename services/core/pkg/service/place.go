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
	possible, short := false, ""
	for _, w := range workers {
		if s.lacks(&domain.Worker{Capacity: w.Capacity}, vm.Spec.Resources) == "" {
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
		if lacks := s.lacks(w, vm.Spec.Resources); lacks != "" {
			short = lacks
			continue
		}
		if free := freeMemory(w); best == nil || free > bestFree {
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
	none := errors.New(errors.CapacityExhausted, "no worker has room for this VM").WithRetryAfter(5 * time.Second)
	if short == "" {
		return none.WithHint("no worker is ready")
	}
	return none.WithHint("too little %s is left: ask for less, delete VMs, or raise the overcommit in the configuration", short)
}

// lacks names what a worker has too little of for r. Empty: r fits.
func (s *Service) lacks(w *domain.Worker, r domain.Resources) string {
	o := s.config.Overcommit
	for _, part := range []struct {
		name                       string
		wanted, reserved, capacity int64
		times                      float64
	}{
		{"milli_cpu", r.MilliCPU, w.Reserved.MilliCPU, w.Capacity.MilliCPU, o.CPU},
		{"memory_bytes", r.MemoryBytes, w.Reserved.MemoryBytes, w.Capacity.MemoryBytes, o.Memory},
		{"disk_bytes", r.DiskBytes, w.Reserved.DiskBytes, w.Capacity.DiskBytes, o.Disk},
	} {
		if part.wanted > part.capacity || part.times != 0 && float64(part.reserved+part.wanted) > float64(part.capacity)*part.times {
			return part.name
		}
	}
	return ""
}

// freeMemory is the part of a worker's memory that is not reserved, of 1.
func freeMemory(w *domain.Worker) float64 {
	return 1 - float64(w.Reserved.MemoryBytes)/float64(max(1, w.Capacity.MemoryBytes))
}
