package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/pkg/client"
	"github.com/aetherium/aetherium/services/core/pkg/redis/redistest"
)

// jobs is a Redis for one test, and what names it.
func jobs(t *testing.T) (*redistest.Server, string) {
	t.Helper()
	r := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	return r, "AETHERIUM_QUEUE=" + r.Address().Reveal()
}

// The server is killed as with jobs in memory, with fewer seeds.
func TestKillNineOnRedis(t *testing.T) {
	t.Parallel()
	_, setting := jobs(t)
	crash(t, 4, setting)
}

// The server is killed while it makes a VM, which leaves a job in Redis that
// nobody runs. The next one takes it back from the dead, and the VM runs.
func TestKilledWhileAJobRuns(t *testing.T) {
	t.Parallel()
	r, setting := jobs(t)
	runtime, held := heldRuntime(t)
	s := own(t, setting, "AETHERIUM_OCI_RUNTIME="+runtime, "AETHERIUM_POOL_SIZE=0", "AETHERIUM_LOG_LEVEL=info")
	c := patient(t, s)
	db := r.Client(t)
	runs := func(ctx context.Context) (n int64) {
		t.Helper()
		sets, err := db.Keys(ctx, "aetherium:queue:*:running").Result()
		if err == nil && len(sets) > 0 {
			n, err = db.ZCard(ctx, sets[0]).Result()
		}
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if _, err := c.CreateVM(limited(t), api.CreateVM{Name: "first", Network: "none"}); err != nil { // its driver has been tried out
		t.Fatal(err)
	}
	if err := os.WriteFile(held, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	created := make(chan error, 1)
	go func() {
		_, err := c.CreateVM(t.Context(), api.CreateVM{Name: "vm", Network: "none"})
		created <- err
	}()
	// Redis is told of what is not done at once, and the runtime does nothing yet.
	for ctx := limited(t); runs(ctx) == 0; time.Sleep(10 * time.Millisecond) {
		if len(created) > 0 {
			t.Fatalf("the VM was made without a runtime: %v", <-created)
		}
	}
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	if n := runs(limited(t)); n != 1 {
		t.Errorf("the server that was killed left %d running jobs", n)
	}
	if err := errors.Join(os.Remove(held), s.Start(limited(t))); err != nil {
		t.Fatal(err)
	}
	if err := <-created; err != nil { // asked again by the client
		t.Fatal(err)
	}
	vm, err := c.VM(limited(t), "vm")
	if err != nil || vm.State != "running" {
		t.Errorf("%+v, %v", vm, err)
	}
	(&crashField{s: s, c: c}).checkHost(limited(t), t, false)
	if !strings.Contains(s.Log(), "jobs of the process that was here before are put back") {
		t.Error("the VM came up, but not by the job of the server that was killed")
	}
}

// heldRuntime is an OCI runtime that does nothing for as long as the file held is there.
func heldRuntime(t *testing.T) (path, held string) {
	t.Helper()
	real, err := exec.LookPath("runc")
	if err != nil {
		t.Fatal(err)
	}
	path, held = filepath.Join(t.TempDir(), "runtime"), filepath.Join(t.TempDir(), "held")
	script := fmt.Sprintf("#!/bin/sh\n[ ! -e %s ] || exec sleep infinity\nexec %s \"$@\"\n", held, real)
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return path, held
}

// Redis goes away and comes back: VMs run on, come and go.
func TestRedisGoesAndComesBack(t *testing.T) {
	t.Parallel()
	r, setting := jobs(t)
	s := own(t, setting, "AETHERIUM_POOL_SIZE=0")
	c, err := s.Client()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	create := func(name string) {
		t.Helper()
		vm, err := c.CreateVM(limited(t), api.CreateVM{Name: name, Network: "none"})
		if err != nil || vm.State != "running" {
			t.Fatalf("%+v, %v", vm, err)
		}
	}
	check := func(names ...string) {
		t.Helper()
		for _, name := range names {
			res, err := c.Execute(limited(t), name, api.Execute{Command: api.Command{Args: []string{"echo", "here"}}})
			if err != nil || res.Stdout != "here\n" {
				t.Errorf("%s: %q, %v", name, res.Stdout, err)
			}
		}
	}
	create("before")
	r.Kill(t)
	create("during")
	check("before", "during")
	once, err := client.New(client.Options{URL: s.URL, Key: s.Key, Patience: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer once.Close()
	if _, err := once.Queue(limited(t)); !errors.HasCode(err, errors.Unavailable) {
		t.Errorf("its jobs without Redis: %v", err)
	}
	if out, err := s.Standalone(limited(t), "stop"); err != nil {
		t.Fatalf("without Redis: %s, %v", out, err)
	}
	if out, err := s.Standalone(limited(t), "start"); err == nil || !strings.Contains(err.Error()+out, "Redis does not answer") {
		t.Errorf("started without Redis: %s, %v", out, err)
	}
	r.Restart(t)
	if err := s.Start(limited(t)); err != nil {
		t.Fatal(err)
	}
	check("before", "during")
	create("after")
	check("after")
	if q, err := c.Queue(limited(t)); err != nil || q.Dead != 0 {
		t.Errorf("%+v, %v", q, err)
	}
	for _, name := range []string{"before", "during", "after"} {
		if _, err := c.DeleteVM(limited(t), name); err != nil {
			t.Error(err)
		}
	}
	(&crashField{s: s, c: c}).checkHost(limited(t), t, false)
}
