package main

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// askers is how many ask at once where as much is asked as is answered.
const askers = 32

// tally is what a measurement takes down.
type tally struct {
	mu      sync.Mutex
	took    []time.Duration
	failed  []error
	late    int
	started time.Time
}

func (t *tally) note(took time.Duration, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil {
		t.failed = append(t.failed, err)
		return
	}
	t.took = append(t.took, took)
}

func (t *tally) row(name string, vms int) Row {
	over := time.Since(t.started)
	slices.Sort(t.took)
	at := func(p float64) float64 {
		if len(t.took) == 0 {
			return 0
		}
		return float64(t.took[min(len(t.took)-1, int(p*float64(len(t.took))))]) / float64(time.Millisecond)
	}
	r := Row{
		Name: name, VMs: vms, Creates: len(t.took), PerSec: float64(len(t.took)) / over.Seconds(),
		Median: at(0.5), P95: at(0.95), P99: at(0.99), Most: at(1), Errors: len(t.failed), Late: t.late,
	}
	if len(t.failed) > 0 {
		r.Example = t.failed[0].Error()
	}
	return r
}

// create makes a VM and waits until it is told to run.
func (f *fleet) create(ctx context.Context, n int64) (time.Duration, error) {
	by := f.callers[n%int64(len(f.callers))]
	begun := time.Now()
	vm, err := f.CreateVM(ctx, by, vmm.CreateVM{})
	if err != nil {
		return 0, err
	}
	_, err = f.WaitVM(ctx, by, vm.ID)
	took := time.Since(begun)
	f.mu.Lock()
	f.vms = append(f.vms, made{by, vm.ID})
	f.mu.Unlock()
	return took, err
}

// remove deletes the oldest VM, and waits until it is gone.
func (f *fleet) remove(ctx context.Context) error {
	f.mu.Lock()
	oldest := f.vms[0]
	f.vms = f.vms[1:]
	f.mu.Unlock()
	if _, err := f.DeleteVM(ctx, oldest.by, oldest.id); err != nil {
		return err
	}
	_, err := f.WaitVM(ctx, oldest.by, oldest.id)
	return err
}

func (f *fleet) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.vms)
}

// fill makes VMs until there are as many as that.
func (f *fleet) fill(ctx context.Context, vms int) (Row, error) {
	t := &tally{started: time.Now()}
	var next atomic.Int64
	next.Store(int64(f.count()))
	var all sync.WaitGroup
	for range askers {
		all.Go(func() {
			for n := next.Add(1); n <= int64(vms) && ctx.Err() == nil; n = next.Add(1) {
				t.note(f.create(ctx, n))
			}
		})
	}
	all.Wait()
	return t.row("made, as fast as it goes", vms), ctx.Err()
}

// saturate makes as many VMs as it can, and removes one for each that it was given.
func (f *fleet) saturate(ctx context.Context, d time.Duration) (Row, error) {
	t := &tally{started: time.Now()}
	end := t.started.Add(d)
	var n atomic.Int64
	var all sync.WaitGroup
	for range askers {
		all.Go(func() {
			for time.Now().Before(end) && ctx.Err() == nil {
				took, err := f.create(ctx, n.Add(1))
				if err == nil {
					err = f.remove(ctx)
				}
				t.note(took, err)
			}
		})
	}
	all.Wait()
	return t.row("made and removed, as fast as it goes", f.count()), ctx.Err()
}

// hold makes VMs at a rate, whether or not those before are answered. With
// replace it removes one for each that it was given, which is as much again to do.
func (f *fleet) hold(ctx context.Context, rate float64, d time.Duration, replace bool) (Row, error) {
	name := "made at a given rate"
	if replace {
		name = "made and removed at a given rate"
	}
	t := &tally{started: time.Now()}
	var all sync.WaitGroup
	for n := range int64(rate * d.Seconds()) {
		due := t.started.Add(time.Duration(float64(n) / rate * float64(time.Second)))
		select {
		case <-time.After(time.Until(due)):
		case <-ctx.Done():
			return t.row(name, f.count()), ctx.Err()
		}
		if time.Since(due) > 100*time.Millisecond {
			t.late++
		}
		all.Go(func() {
			took, err := f.create(ctx, n)
			if err == nil && replace {
				err = f.remove(ctx)
			}
			t.note(took, err)
		})
	}
	all.Wait()
	return t.row(name, f.count()), ctx.Err()
}
