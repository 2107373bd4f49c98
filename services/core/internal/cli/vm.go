package cli

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/internal/cli/render"
	"github.com/aetherium/aetherium/services/core/internal/cli/units"
	"github.com/aetherium/aetherium/services/core/pkg/client"
)

func (a *app) vmCommand() *cobra.Command {
	return group("vm", "Create and manage VMs",
		a.vmCreateCommand(), a.vmListCommand(), a.vmGetCommand(), a.vmRemoveCommand(),
		a.vmDo("start", "Start VMs that are stopped or paused", (*client.Client).StartVM, "stopped", "paused"),
		a.vmDo("stop", "Stop VMs; their disks are kept", (*client.Client).StopVM, "running", "paused"),
		a.vmPauseCommand(),
		a.vmDo("resume", "Resume paused VMs", (*client.Client).ResumeVM, "paused"),
		a.vmForkCommand(), a.vmUpdateCommand(), a.vmSnapshotCommand())
}

// vmName is how a VM is called: by its name, where it has one.
func vmName(vm api.VM) string {
	if vm.Name != "" {
		return vm.Name
	}
	return vm.ID
}

func vmID(vm api.VM) string { return vm.ID }

func (a *app) vmCreateCommand() *cobra.Command {
	var vm vmFlags
	var life lifeFlags
	cmd := &cobra.Command{
		Use:     "create",
		Aliases: []string{"new"},
		Short:   "Create a VM and wait until it is ready",
		Example: `  aetherium vm create --name web --memory 1GiB --timeout 2h
  aetherium vm create --from my-snapshot --secret TOKEN
  aetherium vm create --volume data:/mnt/data`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			req, err := vm.request(cmd)
			if err != nil {
				return err
			}
			if err := life.apply(a, cmd, &req); err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			made, err := c.CreateVM(cmd.Context(), req)
			if err != nil {
				return err
			}
			return showDone(a, []api.VM{made}, vmID)
		},
	}
	vm.register(a, cmd)
	life.register(cmd)
	return cmd
}

func (a *app) vms() listing[api.VM] {
	now := a.Now()
	return listing[api.VM]{
		titles: []string{"ID", "NAME", "STATE", "TEMPLATE", "CPU", "MEMORY", "NETWORK", "AGE", "ENDS"},
		name:   vmID,
		row: func(vm api.VM) []render.Cell {
			ends := render.Until(vm.Deadline, now)
			if vm.EndedAt != nil {
				ends = render.Text("")
			}
			return []render.Cell{
				render.Text(vm.ID), render.Text(vm.Name), render.Text(vm.State), render.Text(vm.Template),
				render.Text(units.CPUs(vm.Resources.MilliCPU)), render.Bytes(vm.Resources.MemoryBytes),
				render.Text(vm.Network), render.Since(vm.CreatedAt, now), ends,
			}
		},
	}
}

func (a *app) vmListCommand() *cobra.Command {
	var f client.VMFilter
	var all bool
	var metadata []string
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list", "ps"},
		Short:   "List VMs",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if f.Metadata, err = pairs(cmd, "metadata", metadata); err != nil {
				return err
			}
			if err := checkFirst(checkLimit(cmd, f.Limit), checkChoices(cmd, "state", f.States, vmStates)); err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			f.IncludeDeleted = all
			items, err := client.Collect(c.VMs(cmd.Context(), f))
			if err != nil {
				return err
			}
			return showAll(a, items, a.vms())
		},
	}
	fl := cmd.Flags()
	fl.BoolVarP(&all, "all", "a", false, "those that have ended too")
	fl.StringSliceVar(&f.States, "state", nil, "only these states")
	fl.StringVar(&f.Name, "name", "", "only this name")
	fl.StringVar(&f.Template, "template", "", "only from this template")
	fl.StringArrayVar(&metadata, "metadata", nil, "only with this label K=V (repeatable)")
	fl.IntVar(&f.Limit, "limit", 0, "so many at most")
	fl.BoolVar(&f.OldestFirst, "oldest-first", false, "begin with the oldest")
	must(cmd.RegisterFlagCompletionFunc("state", fixed(vmStates...)))
	return cmd
}

func (a *app) vmGetCommand() *cobra.Command {
	var trace bool
	cmd := &cobra.Command{
		Use:     "get VM",
		Aliases: []string{"show", "inspect"},
		Short:   "Show a VM, and what became of it",
		Args:    exactly("VM"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			get := c.VM
			if trace {
				get = c.VMTrace
			}
			vm, err := get(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return showOne(a, vm, vm.ID, a.describeVM(vm))
		},
		ValidArgsFunction: a.firstArg(a.completeVMs()),
	}
	cmd.Flags().BoolVar(&trace, "trace", false, "with the timed steps of its last start")
	return cmd
}

func (a *app) describeVM(vm api.VM) [][2]string {
	now := a.Now()
	value := func(c render.Cell) string {
		if a.human {
			return c.Human
		}
		return c.Plain
	}
	ago := func(t *time.Time) string {
		switch {
		case t == nil:
			return ""
		case a.human:
			return value(render.Since(*t, now)) + " ago"
		}
		return value(render.Since(*t, now))
	}
	p := [][2]string{
		{"ID", vm.ID}, {"Name", vm.Name}, {"State", vm.State}, {"Unreachable since", at(vm.UnreachableSince)}, {"Reason", vm.Reason}, {"Disk", stored(vm)},
		{"Template", vm.Template}, {"Snapshot", vm.SnapshotID}, {"Driver", vm.Driver}, {"Isolation", vm.Isolation},
		{"Platform", vm.Platform}, {"Resources", resources(vm.Resources)}, {"Network", vm.Network},
		{"Hostname", vm.Hostname}, {"User", vm.DefaultUser}, {"Tools", strings.Join(vm.Tools, " ")}, {"Created", ago(&vm.CreatedAt)}, {"Started", ago(vm.StartedAt)},
	}
	if vm.State == "paused" {
		p = append(p, [2]string{"Paused by", vm.PauseMode})
	}
	if vm.DesiredState != vm.State && vm.EndedAt == nil {
		p = append(p, [2]string{"Wanted", vm.DesiredState})
	}
	if vm.EndedAt == nil {
		p = append(p, [2]string{"Ends", value(render.Until(vm.Deadline, now))})
		if vm.Deadline != nil || vm.IdleTimeoutMS > 0 {
			p = append(p, [2]string{"At its end", vm.OnTimeout})
		}
	}
	if vm.IdleTimeoutMS > 0 {
		p = append(p, [2]string{"Idle timeout", units.Duration(time.Duration(vm.IdleTimeoutMS) * time.Millisecond)})
	}
	for _, v := range vm.Volumes {
		p = append(p, [2]string{"Volume", mountText(v.VolumeMount)})
	}
	for _, k := range slices.Sorted(maps.Keys(vm.Metadata)) {
		p = append(p, [2]string{"Metadata", k + "=" + vm.Metadata[k]})
	}
	if t := vm.Tombstone; t != nil {
		cause := t.Cause
		if t.By != "" {
			cause += " by " + t.By
		}
		p = append(p, [2]string{"Ended", ago(&t.At)}, [2]string{"Cause", cause}, [2]string{"Detail", t.Detail}, [2]string{"Last output", t.LastOutput})
	}
	for _, ph := range vm.Phases {
		p = append(p, [2]string{"Phase", ph.Name + " " + (time.Duration(ph.TookUS) * time.Microsecond).String()})
	}
	return p
}

func (a *app) vmRemoveCommand() *cobra.Command {
	var async bool
	cmd := &cobra.Command{
		Use:     "rm VM…",
		Aliases: []string{"delete", "remove"},
		Short:   "Remove VMs with all that is in them",
		Args:    atLeastOne("VM"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return eachVM(cmd.Context(), a, args, func(ctx context.Context, c *client.Client, name string) (api.VM, error) {
				if async {
					return a.dropVM(ctx, c, name)
				}
				return c.DeleteVM(ctx, name)
			})
		},
		ValidArgsFunction: a.completeVMs(),
	}
	cmd.Flags().BoolVar(&async, "no-wait", false, "do not wait until they are gone")
	return cmd
}

// dropVM has a VM removed and does not wait for it. The one request that it
// takes answers with no VM: only who wants to see one pays for more.
func (a *app) dropVM(ctx context.Context, c *client.Client, name string) (api.VM, error) {
	if !a.asJSON() {
		return api.VM{ID: name}, c.DropVM(ctx, name)
	}
	vm, err := c.VM(ctx, name)
	if err == nil {
		err = c.DropVM(ctx, vm.ID)
	}
	if err != nil {
		return vm, err
	}
	return c.VM(ctx, vm.ID)
}

func (a *app) vmDo(use, short string, do func(*client.Client, context.Context, string) (api.VM, error), from ...string) *cobra.Command {
	return &cobra.Command{
		Use: use + " VM…", Short: short, Args: atLeastOne("VM"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return eachVM(cmd.Context(), a, args, func(ctx context.Context, c *client.Client, name string) (api.VM, error) {
				return do(c, ctx, name)
			})
		},
		ValidArgsFunction: a.completeVMs(from...),
	}
}

func (a *app) vmPauseCommand() *cobra.Command {
	var mode string
	cmd := a.vmDo("pause", "Pause VMs; where the driver can, their memory is saved and freed", func(c *client.Client, ctx context.Context, name string) (api.VM, error) {
		return c.PauseVM(ctx, name, mode)
	}, "running")
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		return flagged(cmd, "mode", domain.PauseMode(mode).Validate("mode"))
	}
	cmd.Flags().StringVar(&mode, "mode", "", "what happens to memory: freeze, memory or disk (default: the driver's best)")
	must(cmd.RegisterFlagCompletionFunc("mode", fixed("freeze", "memory", "disk")))
	return cmd
}

// atOnce is how many VMs one command works on at a time.
const atOnce = 8

// eachVM does a thing to several VMs side by side, shows those that it was
// done to in the order they were named, and fails when one has failed.
func eachVM(ctx context.Context, a *app, names []string, do func(context.Context, *client.Client, string) (api.VM, error)) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	vms, errs := make([]api.VM, len(names)), make([]error, len(names))
	slots := make(chan struct{}, atOnce)
	var wg sync.WaitGroup
	for i, name := range names {
		slots <- struct{}{}
		wg.Go(func() {
			vms[i], errs[i] = do(ctx, c, name)
			<-slots
		})
	}
	wg.Wait()
	var done []api.VM
	var failed []error
	for i := range names {
		if errs[i] != nil {
			failed = append(failed, errs[i])
			continue
		}
		done = append(done, vms[i])
	}
	if len(done) > 0 {
		if err := showDone(a, done, vmID); err != nil {
			return err
		}
	}
	if len(failed) == 0 {
		return nil
	}
	for _, err := range failed[:len(failed)-1] {
		a.tell(a.explain(err))
	}
	return failed[len(failed)-1]
}

func (a *app) vmForkCommand() *cobra.Command {
	var vm vmFlags
	var life lifeFlags
	var count int
	cmd := &cobra.Command{
		Use:   "fork VM",
		Short: "Make VMs that continue from a VM's memory and disk",
		Example: `  aetherium vm fork web -n 8
  aetherium vm fork web --cold --memory 2GiB`,
		Args: exactly("VM"),
		RunE: func(cmd *cobra.Command, args []string) error {
			req, err := vm.request(cmd)
			if err != nil {
				return err
			}
			if err := life.apply(a, cmd, &req); err != nil {
				return err
			}
			switch {
			case count < 1 || count > 100:
				return usagef(cmd, "--count: %d is out of range (1 to 100)", count)
			case count > 1 && req.Name != "":
				return usagef(cmd, "--name: %d forks cannot have one name", count)
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			forks, err := c.ForkVM(cmd.Context(), args[0], api.ForkVM{Count: count, CreateVM: req})
			if err != nil {
				return err
			}
			return showDone(a, forks, vmID)
		},
		ValidArgsFunction: a.firstArg(a.completeVMs("running", "paused", "stopped")),
	}
	vm.register(a, cmd)
	life.register(cmd)
	must(cmd.Flags().MarkHidden("template"))
	must(cmd.Flags().MarkHidden("from"))
	cmd.Flags().IntVarP(&count, "count", "n", 1, "how many")
	return cmd
}

func (a *app) vmUpdateCommand() *cobra.Command {
	var timeout, idle optionalDuration
	var name, onTimeout string
	var metadata []string
	var autoResume bool
	cmd := &cobra.Command{
		Use:   "update VM",
		Short: "Change a VM's name, labels and how long it lives",
		Args:  exactly("VM"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p := api.PatchVM{TimeoutMS: timeout.ms(), IdleTimeoutMS: idle.ms()}
			changed := cmd.Flags().Changed
			if changed("name") {
				p.Name = &name
			}
			if changed("on-timeout") {
				p.OnTimeout = &onTimeout
			}
			if changed("auto-resume") {
				p.AutoResume = &autoResume
			}
			if changed("metadata") {
				m, err := pairs(cmd, "metadata", slices.DeleteFunc(metadata, func(s string) bool { return strings.TrimSpace(s) == "" }))
				if err != nil {
					return err
				}
				if m == nil {
					m = map[string]string{}
				}
				p.Metadata = &m
			}
			if p == (api.PatchVM{}) {
				return usage(cmd, errors.New(errors.InvalidArgument, "there is nothing to change"))
			}
			if err := checkFirst(
				flagged(cmd, "name", domain.ValidateName("name", name)),
				flagged(cmd, "on-timeout", domain.OnTimeout(onTimeout).Validate("on-timeout")),
			); err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			vm, err := c.PatchVM(cmd.Context(), args[0], p)
			if err != nil {
				return err
			}
			return showDone(a, []api.VM{vm}, vmID)
		},
		ValidArgsFunction: a.firstArg(a.completeVMs()),
	}
	f := cmd.Flags()
	f.Var(&timeout, "timeout", "live so long from now; 0s: no end")
	f.Var(&idle, "idle-timeout", "end after so long without use; 0s: never")
	f.StringVar(&name, "name", "", "new name")
	f.StringVar(&onTimeout, "on-timeout", "", "what happens at the end: kill, pause or stop")
	f.BoolVar(&autoResume, "auto-resume", false, "traffic resumes it when paused")
	f.StringArrayVar(&metadata, "metadata", nil, "labels K=V in place of all there are (repeatable)")
	return cmd
}

// stored says where a VM's disk is that is on no worker.
func stored(vm api.VM) string {
	if vm.InStorage {
		return "in the storage; its next start may be on another worker"
	}
	return ""
}
