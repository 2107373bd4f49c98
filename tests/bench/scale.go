package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/pkg/client"
)

// crowds are how many VMs are there when something is measured; the last is
// what the others are compared with.
var crowds = []int{10, 100, 500}

// scale measures creating, running and listing while more and more VMs run.
func (b *bench) scale(ctx context.Context, _ string) (results []Result, err error) {
	var vms []string
	defer func() { err = errors.Join(err, b.cold.remove(context.WithoutCancel(ctx), vms)) }()
	measures := []struct {
		name string
		once func(context.Context) (time.Duration, error)
	}{
		{"create to first output, cold", b.cold.ours("none").once},
		{"exec true", func(ctx context.Context) (time.Duration, error) { return b.cold.execTrue(ctx, vms[0]) }},
		{"list 10 VMs", b.cold.list},
	}
	taken := map[string]map[int]Sample{}
	for _, n := range crowds {
		if vms, err = b.cold.crowd(ctx, vms, n); err != nil {
			return nil, err
		}
		for _, m := range measures {
			ds := make([]time.Duration, b.rounds)
			for i := range ds {
				if ds[i], err = m.once(ctx); err != nil {
					return nil, err
				}
			}
			if taken[m.name] == nil {
				taken[m.name] = map[int]Sample{}
			}
			taken[m.name][n] = sample(ds)
		}
	}
	most := crowds[len(crowds)-1]
	for _, m := range measures {
		r := newResult(fmt.Sprintf("%s, with %d VMs running", m.name, most), "ms", taken[m.name][most])
		for _, n := range crowds[:len(crowds)-1] {
			r.against(fmt.Sprintf("with %d VMs", n), taken[m.name][n])
		}
		results = append(results, r)
	}
	return results, nil
}

func (s *site) list(ctx context.Context) (time.Duration, error) {
	start := time.Now()
	for _, err := range s.c.VMs(ctx, client.VMFilter{Page: client.Page{Limit: 10}}) {
		if err != nil {
			return 0, err
		}
		break // the first page is here
	}
	return time.Since(start), nil
}

// crowd makes VMs until there are n.
func (s *site) crowd(ctx context.Context, vms []string, n int) ([]string, error) {
	const together = 4
	var mu sync.Mutex
	var all sync.WaitGroup
	var failed error
	missing := make(chan struct{}, n)
	for range n - len(vms) {
		missing <- struct{}{}
	}
	close(missing)
	for range together {
		all.Go(func() {
			for range missing {
				vm, err := s.c.CreateVM(ctx, api.CreateVM{Template: "base", Network: "none", Resources: &api.Resources{MemoryBytes: 64 << 20, DiskBytes: 64 << 20}})
				mu.Lock()
				if err == nil {
					vms = append(vms, vm.ID)
				}
				failed = errors.Join(failed, err)
				mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	all.Wait()
	return vms, failed
}

func (s *site) remove(ctx context.Context, vms []string) error {
	var err error
	for _, vm := range vms {
		_, derr := s.c.DeleteVM(ctx, vm)
		err = errors.Join(err, derr)
	}
	return err
}
