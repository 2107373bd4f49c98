package fleet

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/pkg/client"
)

// unreachable has gateways look for the workers where nobody is, until the returned
// function is called: what they write down they tell nobody of.
func (f *field) unreachable() (back func()) {
	f.t.Helper()
	db, err := pgx.Connect(f.ctx, f.database)
	must(f.t, err)
	f.t.Cleanup(func() { must(f.t, db.Close(context.WithoutCancel(f.ctx))) })
	move := func(sql string) {
		f.t.Helper()
		_, err := db.Exec(f.ctx, sql)
		must(f.t, err)
	}
	move("CREATE TABLE was AS SELECT id, address FROM workers")
	move("UPDATE workers SET address = '127.0.0.1:1', revision = revision + 1")
	return func() {
		f.t.Helper()
		move("UPDATE workers SET address = (SELECT address FROM was WHERE was.id = workers.id), revision = revision + 1")
	}
}

// lost waits until a gateway does not reach a VM's worker.
func (f *field) lost(c *client.Client, vm string) {
	f.t.Helper()
	for {
		_, err := c.Execute(f.ctx, vm, shell("true"))
		if errors.HasCode(err, errors.Unavailable) {
			return
		}
		must(f.t, err)
		time.Sleep(10 * time.Millisecond) // it looks at the rows every other second
	}
}

// What a gateway wrote down and, being killed, told nobody of is done by the worker
// all the same, once: a VM is made, stopped and removed.
func TestGatewayIsKilledBeforeItCalls(t *testing.T) {
	f := newField(t)
	ctx := f.ctx
	one, other := f.gateway("gateway-1"), f.gateway("gateway-2")
	f.worker("worker-1", one)
	if out, err := one.CLI(ctx, "template", "build", "base", "--dir", f.rootfs); err != nil {
		t.Fatal(err, out)
	}
	second := f.client(other)
	first, err := client.New(client.Options{URL: one.URL, Key: one.Key, Patience: time.Millisecond})
	must(t, err)
	defer first.Close()
	near, err := client.New(client.Options{URL: other.URL, Key: other.Key, Patience: time.Millisecond})
	must(t, err)
	defer near.Close()
	known, err := first.CreateVM(ctx, api.CreateVM{Name: "known", Network: "none"})
	must(t, err)
	f.says(first, known.ID, "echo kept >/var/tmp/kept && echo written", "written\n")

	back := f.unreachable()
	f.lost(first, known.ID)
	f.lost(near, known.ID)
	asked := make(chan error, 2)
	go func() {
		_, err := first.CreateVM(ctx, api.CreateVM{Name: "untold", Network: "none"})
		asked <- err
	}()
	go func() {
		_, err := first.StopVM(ctx, known.ID)
		asked <- err
	}()
	written := func(name string, is func(api.VM) bool) (vm api.VM) {
		t.Helper()
		for {
			if vm, err = second.VM(ctx, name); err == nil && is(vm) {
				return vm
			}
			if err != nil && !errors.HasCode(err, errors.NotFound) {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Millisecond) // nothing tells of it by name
		}
	}
	written("untold", func(api.VM) bool { return true })
	written("known", func(vm api.VM) bool { return vm.DesiredState == "stopped" })
	must(t, one.Kill())
	for range 2 {
		<-asked // whatever it was told as its gateway died
	}
	made := written("untold", func(vm api.VM) bool { return vm.State == "running" })
	written("known", func(vm api.VM) bool { return vm.State == "stopped" })
	gone, err := second.CreateVM(ctx, api.CreateVM{Name: "gone", Network: "none"})
	must(t, err)
	if _, err := second.DeleteVM(ctx, gone.ID); err != nil {
		t.Error(err)
	}

	back()
	must(t, one.Run(ctx))
	c := f.client(one)
	f.says(c, made.ID, "echo here", "here\n")
	if made, err = c.VM(ctx, made.ID); err != nil || made.Epoch != 1 {
		t.Errorf("%+v, %v", made, err)
	}
	_, err = c.StartVM(ctx, known.ID)
	must(t, err)
	f.says(c, known.ID, "cat /var/tmp/kept", "kept\n")
	events, err := client.Collect(c.Events(ctx, 0))
	must(t, err)
	began := slices.DeleteFunc(events, func(e api.Event) bool { return e.Type != "vm.running" || e.Subject != made.ID })
	if len(began) != 1 {
		t.Errorf("it began %d times", len(began))
	}
}
