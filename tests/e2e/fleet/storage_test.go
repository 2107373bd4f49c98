package fleet

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/pkg/client"
)

// packed lists what is in the storage that workers share.
func (f *field) packed() (files []string) {
	f.t.Helper()
	must(f.t, filepath.WalkDir(f.storage, func(name string, e fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(name, "-output") {
			return fs.SkipDir // output is there for as long as its rows
		}
		if err == nil && !e.IsDir() {
			files = append(files, name)
		}
		return err
	}))
	return files
}

// A template that one worker has built, and a snapshot that it took, make VMs on
// another, also when the first is gone, and are fetched once. Deleted, they are gone
// from all disks.
func TestTemplatesGoToOtherWorkers(t *testing.T) {
	f, gateway, first := newSharing(t)
	ctx, c := f.ctx, f.client(gateway)
	if n := len(f.packed()); n != 1 {
		t.Fatalf("%d builds are in the storage", n)
	}
	create := func() (api.VM, error) {
		return c.CreateVM(ctx, api.CreateVM{Template: "shared", Network: "none", Resources: &api.Resources{MemoryBytes: 256 << 20}})
	}
	near, err := create()
	must(t, err)
	built, err := c.Execute(ctx, near.ID, shell(told))
	if err != nil || len(built.Stdout) < 64 {
		t.Fatalf("%+v, %v", built, err)
	}

	f.says(c, near.ID, "cd && echo kept > kept && mkdir own && ln kept own/again", "")
	snap, err := c.CreateSnapshot(ctx, near.ID, api.CreateSnapshot{Name: "kept"})
	must(t, err)

	second := f.worker("worker-2", gateway)
	held, err := create()
	must(t, err)
	if held.WorkerID != near.WorkerID {
		t.Error("a VM is not where its template is, though there is room")
	}
	for snap.Stored == 0 {
		must(t, ctx.Err())
		time.Sleep(10 * time.Millisecond) // it is no event
		snap, err = c.Snapshot(ctx, snap.ID)
		must(t, err)
	}
	if out, err := gateway.CLI(ctx, "snapshot", "ls", "-o", "json"); err != nil || !strings.Contains(out, `"stored_bytes"`) {
		t.Errorf("%s, %v", out, err)
	}
	must(t, first.Kill())
	for !f.isAway(c, near.WorkerID) {
		must(t, ctx.Err())
		time.Sleep(100 * time.Millisecond) // nobody is told of it here
	}
	var all sync.WaitGroup
	vms := make([]string, 3)
	for i := range vms {
		all.Go(func() {
			vm, err := create()
			if err != nil {
				t.Error(err)
				return
			}
			vms[i] = vm.ID
			if vm.WorkerID == near.WorkerID {
				t.Error("a VM is on the worker that is gone")
			}
		})
	}
	all.Wait()
	if t.Failed() {
		return
	}
	for _, vm := range vms {
		f.says(c, vm, told, built.Stdout)
	}
	if n := strings.Count(second.Log(), "a build was fetched"); n != 1 {
		t.Errorf("it was fetched %d times", n)
	}
	from, err := c.CreateVM(ctx, api.CreateVM{Template: "kept", Network: "none"})
	must(t, err)
	f.says(c, from.ID, "cd && cat own/again && stat -c %h kept", "kept\n2\n")
	f.says(c, from.ID, told, built.Stdout)
	if n := strings.Count(second.Log(), "a snapshot was fetched"); n != 1 {
		t.Errorf("it was fetched %d times", n)
	}
	must(t, c.DeleteSnapshot(ctx, snap.ID))
	must(t, first.Run(ctx))
	for _, vm := range append(vms, near.ID, held.ID, from.ID) {
		if _, err := c.DeleteVM(ctx, vm); err != nil {
			t.Error(err)
		}
	}
	_, err = gateway.CLI(ctx, "template", "rm", "shared")
	must(t, err)
	for len(f.packed()) > 0 || f.builds(first.DataDir)+f.builds(second.DataDir) > 0 {
		must(t, ctx.Err())
		time.Sleep(100 * time.Millisecond) // machines that wait ready are removed first, by nobody's order
	}
	if _, err := c.CreateVM(ctx, api.CreateVM{Template: "shared"}); !errors.HasCode(err, errors.NotFound) {
		t.Errorf("of a template that is deleted: %v", err)
	}
}

// told is what tells one root filesystem from another.
const told = `cd / && export LC_ALL=C && { find bin usr -printf '%p %y %m %U %G %l\n' | sort; find usr/bin -type f | sort | xargs sha256sum; } | sha256sum`

func (f *field) isAway(c *client.Client, worker string) bool {
	f.t.Helper()
	all, err := c.Workers(f.ctx)
	must(f.t, err)
	return slices.ContainsFunc(all, func(w api.Worker) bool { return w.ID == worker && w.State == "away" })
}

// builds counts those on a worker's disk.
func (f *field) builds(data string) int {
	f.t.Helper()
	names, err := os.ReadDir(filepath.Join(data, "images"))
	must(f.t, err)
	n := 0
	for _, e := range names {
		if !strings.HasPrefix(e.Name(), ".") {
			n++
		}
	}
	return n
}
