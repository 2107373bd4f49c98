package cli

import (
	"cmp"
	"context"
	"io"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/internal/cli/render"
	"github.com/aetherium/aetherium/services/core/internal/cli/units"
	"github.com/aetherium/aetherium/services/core/pkg/client"
)

// load is what a VM uses, with its share of CPU since the sample before.
type load struct {
	api.Usage
	Name       string   `json:"name,omitempty"`
	CPUPercent *float64 `json:"cpu_percent,omitempty"` // of one core; absent in a first sample
}

func (a *app) topCommand() *cobra.Command {
	var once bool
	interval := 2 * time.Second
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Show what the running VMs use, live",
		Long: `Shows what the running VMs use, busiest first, and refreshes it until ctrl-C.
Where stdout is no terminal, and with --once, it shows two samples' difference once.`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if interval < 100*time.Millisecond {
				return usagef(cmd, "--interval: at least 100ms")
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			return a.top(cmd.Context(), c, interval, once || !a.human || a.flags.output != "table")
		},
	}
	cmd.Flags().Var((*durationFlag)(&interval), "interval", "time between samples")
	cmd.Flags().BoolVar(&once, "once", false, "show one table and end")
	return cmd
}

func (a *app) top(ctx context.Context, c *client.Client, interval time.Duration, once bool) error {
	before, err := sample(ctx, c, nil)
	if err != nil {
		return err
	}
	if !once {
		if err := a.showLoad(before, true); err != nil {
			return err
		}
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			if !once { // ctrl-C is how one leaves
				return nil
			}
			return errors.Public(ctx.Err())
		}
		now, err := sample(ctx, c, before)
		if err != nil {
			if ctx.Err() != nil {
				continue
			}
			return err
		}
		if err := a.showLoad(now, !once); err != nil || once {
			return err
		}
		before = now
	}
}

// sample reads every running VM's usage, side by side.
func sample(ctx context.Context, c *client.Client, before []load) ([]load, error) {
	vms, err := client.Collect(c.VMs(ctx, client.VMFilter{States: []string{"running"}}))
	if err != nil {
		return nil, err
	}
	earlier := map[string]api.Usage{}
	for _, l := range before {
		earlier[l.VMID] = l.Usage
	}
	found := make([]*load, len(vms))
	slots := make(chan struct{}, atOnce)
	var wg sync.WaitGroup
	for i, vm := range vms {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			u, err := c.VMUsage(ctx, vm.ID)
			if err != nil {
				return // it has just ended, or its worker is away: no row
			}
			u.VMID = vm.ID
			l := &load{Usage: u, Name: vm.Name}
			if old, ok := earlier[vm.ID]; ok && u.At.After(old.At) && u.CPUTimeMS >= old.CPUTimeMS {
				percent := 100 * float64(u.CPUTimeMS-old.CPUTimeMS) / float64(u.At.Sub(old.At).Milliseconds()+1)
				l.CPUPercent = &percent
			}
			found[i] = l
		})
	}
	wg.Wait()
	loads := []load{}
	for _, l := range found {
		if l != nil {
			loads = append(loads, *l)
		}
	}
	slices.SortStableFunc(loads, func(x, y load) int {
		return cmp.Or(cmp.Compare(percent(y), percent(x)), cmp.Compare(y.MemoryBytes, x.MemoryBytes))
	})
	return loads, ctx.Err()
}

func percent(l load) float64 {
	if l.CPUPercent == nil {
		return 0
	}
	return *l.CPUPercent
}

func (a *app) showLoad(loads []load, live bool) error {
	if live {
		// Home, and clear what is below: the table is drawn over the last one.
		if _, err := io.WriteString(a.Stdout, "\x1b[H\x1b[J"); err != nil {
			return err
		}
	}
	return showAll(a, loads, listing[load]{
		titles: []string{"ID", "NAME", "CPU%", "MEMORY", "LIMIT", "PIDS", "DISK", "RECEIVED", "SENT", "CPU TIME"},
		name:   func(l load) string { return l.VMID },
		row: func(l load) []render.Cell {
			cpu := ""
			if l.CPUPercent != nil {
				cpu = strconv.FormatFloat(*l.CPUPercent, 'f', 1, 64)
			}
			spent := time.Duration(l.CPUTimeMS) * time.Millisecond
			return []render.Cell{
				render.Text(l.VMID), render.Text(l.Name), render.Text(cpu), render.Bytes(l.MemoryBytes), render.Bytes(l.MemoryLimitBytes),
				render.Int(l.PIDs), render.Bytes(l.DiskBytes), render.Bytes(l.ReceivedBytes), render.Bytes(l.SentBytes),
				{Human: units.Duration(spent), Plain: strconv.FormatInt(l.CPUTimeMS, 10)},
			}
		},
	})
}
