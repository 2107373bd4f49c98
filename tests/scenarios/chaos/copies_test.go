package chaos

import (
	"context"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/client"
	"github.com/aetherium/aetherium/tests/scenarios/chaos/history"
)

// restart stops a VM, and starts it again.
func (u *user) restart(ctx context.Context, vm *history.VM) {
	err := u.inside(ctx, vm, "stop a VM", func(ctx context.Context, c *client.Client) error {
		now, err := c.StopVM(ctx, vm.ID)
		if err == nil && drained(now) {
			vm.Woken++ // it was stopped before, under its commands, and is about to be woken
		}
		return err
	})
	if err != nil {
		return
	}
	_ = u.until(ctx, "start a VM", func(ctx context.Context, c *client.Client) error {
		_, err := c.StartVM(ctx, vm.ID)
		return err
	})
}

// copyOf is a VM that is about to be made of another as it is now.
func (u *user) copyOf(vm *history.VM, of string) *history.VM {
	made := &history.VM{Name: vm.Name + history.CopySuffix, Of: of}
	for _, c := range vm.Commands {
		if c.State == "exited" {
			made.Had = append(made.Had, c.ID)
		}
	}
	u.h.Add(made)
	return made
}

// fork makes a copy of a VM, in which its commands have run, too, and runs
// another there.
func (u *user) fork(ctx, end context.Context, vm *history.VM) {
	made, key := u.copyOf(vm, vm.ID), domain.NewID().String()
	u.ask(ctx, end, made, "fork a VM", func(ctx context.Context, c *client.Client) (string, error) {
		forks, err := c.ForkVMOnce(ctx, key, vm.ID, api.ForkVM{Count: 1, CreateVM: api.CreateVM{Name: made.Name, OnTimeout: stopped}})
		if err != nil {
			return "", err
		}
		return forks[0].ID, nil
	})
	u.use(end, made)
}

// snapshot takes one of a VM, makes another of it, and removes it.
func (u *user) snapshot(ctx, end context.Context, vm *history.VM) {
	var taken api.Snapshot
	key := domain.NewID().String()
	if err := u.inside(end, vm, "take a snapshot", func(ctx context.Context, c *client.Client) (err error) {
		taken, err = c.CreateSnapshotOnce(ctx, key, vm.ID, api.CreateSnapshot{})
		return err
	}); err != nil {
		return
	}
	made, key := u.copyOf(vm, taken.ID), domain.NewID().String()
	u.ask(ctx, end, made, "create a VM from a snapshot", func(ctx context.Context, c *client.Client) (string, error) {
		vm, err := c.CreateVMOnce(ctx, key, api.CreateVM{Name: made.Name, Template: taken.ID, OnTimeout: stopped})
		return vm.ID, err
	})
	u.use(end, made)
	if made.Deleted {
		_ = u.until(end, "delete a snapshot", func(ctx context.Context, c *client.Client) error { return c.DeleteSnapshot(ctx, taken.ID) })
	}
}

// use runs one command in a copy, or in what was left, sees what has run there,
// and leaves it.
func (u *user) use(ctx context.Context, vm *history.VM) {
	if vm.ID == "" || !u.settled(ctx, vm) {
		return
	}
	cmd := u.command()
	vm.Commands = append(vm.Commands, cmd)
	u.run(ctx, vm, cmd)
	u.look(ctx, vm)
	u.leave(ctx, vm)
}
