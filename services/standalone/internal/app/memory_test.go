package app

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/fake"
)

// Memory as users of the API have it: pauses that free it, forks and snapshots
// that go on from it, templates that end with it.
func TestMemoryByTheAPI(t *testing.T) {
	t.Parallel()
	var machines *fake.Node
	h := newHouse(t, func(n *fake.Node) { machines = n; n.KeepMemory() })
	c := h.tenant("alice", domain.ScopeAdmin)
	c.template()
	vm := ok[wire.VM](c, ask{method: "POST", path: "/vms", body: wire.CreateVM{Name: "web"}})
	x := ok[wire.Execution](c, ask{method: "POST", path: "/vms/web/executions", body: `{"args":["sh","-c","echo ready; cat; exit 7"],"stdin":true}`})

	paused := ok[wire.VM](c, ask{method: "POST", path: "/vms/web/pause"})
	if paused.State != "paused" || paused.PauseMode != "memory" {
		t.Errorf("%s by %s", paused.State, paused.PauseMode)
	}
	if got := c.do(ask{method: "GET", path: "/vms/web/usage"}); got.status != http.StatusConflict {
		t.Errorf("what a paused VM uses: %d %s", got.status, got.body)
	}
	machines.FailNext(fake.OpResume, errors.New(errors.Unsupported, "saved by another version"))
	if got := c.do(ask{method: "POST", path: "/vms/web/resume"}); got.status != http.StatusConflict || !strings.Contains(got.body, "saved by another version") {
		t.Errorf("a resumption that fails: %d %s", got.status, got.body)
	}
	if got := ok[wire.VM](c, ask{method: "POST", path: "/vms/web/resume"}); got.State != "running" || got.Epoch != vm.Epoch {
		t.Errorf("%+v", got)
	}
	phases := ok[wire.VM](c, ask{method: "GET", path: "/vms/web?trace=true"}).Phases
	if len(phases) == 0 || phases[0].Name != "resume" {
		t.Errorf("%+v", phases)
	}

	forks := ok[wire.List[wire.VM]](c, ask{method: "POST", path: "/vms/web/forks", body: `{"count":3}`}).Items
	for _, f := range forks {
		list := ok[wire.List[wire.Execution]](c, ask{method: "GET", path: "/vms/" + f.ID + "/executions"}).Items
		if len(list) != 1 || list[0].OriginID != x.ID || list[0].ID == x.ID || list[0].State != "running" || !f.Memory {
			t.Fatalf("%+v", list)
		}
		c.must(c.says(list[0].ID, "fork", "ready\nfork"))
	}
	refused := c.do(ask{method: "POST", path: "/vms/web/forks", body: `{"resources":{"milli_cpu":500}}`})
	if refused.status != http.StatusBadRequest || !strings.Contains(refused.body, "memory false") {
		t.Errorf("another shape: %d %s", refused.status, refused.body)
	}
	cold := ok[wire.List[wire.VM]](c, ask{method: "POST", path: "/vms/web/forks", body: `{"memory":false,"resources":{"milli_cpu":500}}`}).Items[0]
	if list := ok[wire.List[wire.Execution]](c, ask{method: "GET", path: "/vms/" + cold.ID + "/executions"}).Items; len(list) > 0 || cold.Memory {
		t.Errorf("%+v", list)
	}

	snap := ok[wire.Snapshot](c, ask{method: "POST", path: "/vms/web/snapshots", body: `{"name":"warm","memory":true}`})
	if snap.Kind != "memory" || snap.Version == "" {
		t.Errorf("%+v", snap)
	}
	c.must(c.says(x.ID, "origin", "ready\norigin"))
	from := ok[wire.VM](c, ask{method: "POST", path: "/vms", body: `{"template":"warm"}`})
	list := ok[wire.List[wire.Execution]](c, ask{method: "GET", path: "/vms/" + from.ID + "/executions"}).Items
	if len(list) != 1 || list[0].OriginID != x.ID {
		t.Fatalf("%+v", list)
	}
	c.must(c.says(list[0].ID, "snapshot", "ready\nsnapshot"))
	if got := c.do(ask{method: "POST", path: "/vms", body: `{"template":"base","memory":true}`}); got.status != http.StatusUnprocessableEntity {
		t.Errorf("a template without a memory: %d %s", got.status, got.body)
	}

	built := ok[wire.Accepted](c, ask{method: "POST", path: "/templates", body: `{"name":"served","source":{"dir":"/rootfs"},"memory":true,"start":"echo up; touch up; exec sleep 1000","ready":"test -e up"}`})
	c.ended(built.Task.ID)
	b := ok[wire.Template](c, ask{method: "GET", path: "/templates/served"}).Builds[0]
	if b.Memory == nil || b.Memory.Driver != "fake" || b.Memory.Network != "none" || b.Memory.Ready != "test -e up" || b.Start == "" {
		t.Errorf("%+v", b)
	}
	served := ok[wire.VM](c, ask{method: "POST", path: "/vms", body: `{"template":"served","memory":true}`})
	if list := ok[wire.List[wire.Execution]](c, ask{method: "GET", path: "/vms/" + served.ID + "/executions"}).Items; len(list) != 1 || list[0].State != "running" || !served.Memory {
		t.Errorf("%+v", list)
	}
	metrics := c.do(ask{method: "GET", path: "/metrics"}).body
	for _, want := range []string{
		`aetherium_vm_start_duration_seconds_count{driver="fake",kind="memory"} 5`,
		`aetherium_vm_start_duration_seconds_count{driver="fake",kind="resume"} 1`,
		`aetherium_vm_start_phase_duration_seconds_count{driver="fake",kind="memory",phase="start.restore"} 5`,
	} {
		if !strings.Contains(metrics, want+"\n") {
			t.Errorf("the metrics lack %s", want)
		}
	}
}

// says tells an execution something, ends its input, and checks what it printed
// and that it exits with 7.
func (c *tenant) says(execution, text, want string) error {
	c.t.Helper()
	for _, q := range []ask{
		{method: "POST", path: "/executions/" + execution + "/stdin", body: []byte(text)},
		{method: "POST", path: "/executions/" + execution + "/stdin/close"},
	} {
		if got := c.do(q); got.status/100 != 2 {
			return fmt.Errorf("%s %s: %d %s", q.method, q.path, got.status, got.body)
		}
	}
	out, from := "", int64(0)
	for line := range strings.Lines(c.do(ask{method: "GET", path: "/executions/" + execution + "/output?follow=true"}).body) {
		var e wire.OutputEvent
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			return err
		}
		if e.Gap != nil { // what the origin's execution has
			from = e.Gap.To
		}
		out += string(e.Data)
	}
	if out != want[from:] {
		return fmt.Errorf("it said %q from %d on, want %q", out, from, want)
	}
	ended := ok[wire.Execution](c, ask{method: "GET", path: "/executions/" + execution})
	if ended.ExitCode == nil || *ended.ExitCode != 7 {
		return fmt.Errorf("it ended with %+v", ended)
	}
	return nil
}
