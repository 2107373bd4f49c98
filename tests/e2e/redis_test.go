package e2e

import (
	"fmt"
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
	ctx := limited(t)
	r, setting := jobs(t)
	s := own(t, setting, "AETHERIUM_POOL_SIZE=0", "AETHERIUM_LOG_LEVEL=info")
	c, err := s.Client()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	db := r.Client(t)
	runs := func() int64 {
		t.Helper()
		sets, err := db.Keys(ctx, "aetherium:queue:*:running").Result()
		if err != nil {
			t.Fatal(err)
		}
		if len(sets) == 0 {
			return 0
		}
		n, err := db.ZCard(ctx, sets[0]).Result()
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	created := make(chan error, 1)
	var name string
	for left, i := int64(0), 0; left == 0; i++ { // until it dies before its job is done
		name = fmt.Sprintf("vm-%d", i)
		go func() {
			_, err := c.CreateVM(ctx, api.CreateVM{Name: name, Network: "none"})
			created <- err
		}()
		for runs() == 0 && len(created) == 0 && ctx.Err() == nil {
		}
		if err := s.Kill(); err != nil {
			t.Fatal(err)
		}
		left = runs()
		if err := s.Start(ctx); err != nil {
			t.Fatal(err)
		}
		if err := <-created; err != nil { // asked again by the client
			t.Fatal(err)
		}
	}
	vm, err := c.VM(ctx, name)
	if err != nil || vm.State != "running" {
		t.Errorf("%+v, %v", vm, err)
	}
	(&crashField{s: s, c: c}).checkHost(ctx, t, false)
	if !strings.Contains(s.Log(), "jobs of the process that was here before are put back") {
		t.Error("the VM came up, but not by the job of the server that was killed")
	}
}

// Redis goes away and comes back: VMs run on, come and go.
func TestRedisGoesAndComesBack(t *testing.T) {
	t.Parallel()
	ctx := limited(t)
	r, setting := jobs(t)
	s := own(t, setting, "AETHERIUM_POOL_SIZE=0")
	c, err := s.Client()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	create := func(name string) {
		t.Helper()
		vm, err := c.CreateVM(ctx, api.CreateVM{Name: name, Network: "none"})
		if err != nil || vm.State != "running" {
			t.Fatalf("%+v, %v", vm, err)
		}
	}
	check := func(names ...string) {
		t.Helper()
		for _, name := range names {
			res, err := c.Execute(ctx, name, api.Execute{Command: api.Command{Args: []string{"echo", "here"}}})
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
	if _, err := once.Queue(ctx); !errors.HasCode(err, errors.Unavailable) {
		t.Errorf("its jobs without Redis: %v", err)
	}
	if out, err := s.Standalone(ctx, "stop"); err != nil {
		t.Fatalf("without Redis: %s, %v", out, err)
	}
	if out, err := s.Standalone(ctx, "start"); err == nil || !strings.Contains(err.Error()+out, "Redis does not answer") {
		t.Errorf("started without Redis: %s, %v", out, err)
	}
	r.Restart(t)
	if err := s.Start(ctx); err != nil {
		t.Fatal(err)
	}
	check("before", "during")
	create("after")
	check("after")
	if q, err := c.Queue(ctx); err != nil || q.Dead != 0 {
		t.Errorf("%+v, %v", q, err)
	}
	for _, name := range []string{"before", "during", "after"} {
		if _, err := c.DeleteVM(ctx, name); err != nil {
			t.Error(err)
		}
	}
	(&crashField{s: s, c: c}).checkHost(ctx, t, false)
}
