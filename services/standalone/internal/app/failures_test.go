package app

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/fake"
)

// Who asks for a VM that a worker cannot give is told why by the worker's code
// and hint, whatever it is asked as.
func TestFailuresAreToldAsWhatTheyAre(t *testing.T) {
	t.Parallel()
	var machines *fake.Node
	h := newHouse(t, func(n *fake.Node) { machines = n })
	c := h.tenant("alice", domain.ScopeAdmin)
	c.template()
	ok[wire.VM](c, ask{method: "POST", path: "/vms", body: wire.CreateVM{Name: "web"}})
	full := func(op fake.Op) {
		machines.FailNext(op, errors.New(errors.NoSpace, "the disk is full: no space is left").WithHint("make room"))
	}
	refused := func(what string, status int, code errors.Code, q ask) {
		t.Helper()
		got := c.do(q)
		var p wire.Problem
		if err := json.Unmarshal([]byte(got.body), &p); err != nil {
			t.Errorf("%s: %d %s", what, got.status, got.body)
			return
		}
		if got.status != status || p.Code != string(code) || code == errors.NoSpace && (!strings.Contains(p.Detail, "no space is left") || p.Hint != "make room") {
			t.Errorf("%s: %d %+v", what, got.status, p)
		}
	}

	full(fake.OpCreate)
	refused("a VM", http.StatusInsufficientStorage, errors.NoSpace, ask{method: "POST", path: "/vms", body: "{}"})
	full(fake.OpStart)
	refused("a VM's first start", http.StatusInsufficientStorage, errors.NoSpace, ask{method: "POST", path: "/vms", body: `{"name":"failed"}`})
	// What is asked of it later is refused for what it is.
	refused("a failed VM's start", http.StatusConflict, errors.Conflict, ask{method: "POST", path: "/vms/failed/start"})
	full(fake.OpCreate)
	refused("a fork", http.StatusInsufficientStorage, errors.NoSpace, ask{method: "POST", path: "/vms/web/forks"})
	ok[wire.VM](c, ask{method: "POST", path: "/vms/web/stop"})
	full(fake.OpStart)
	refused("another start", http.StatusInsufficientStorage, errors.NoSpace, ask{method: "POST", path: "/vms/web/start"})
	if got := ok[wire.VM](c, ask{method: "POST", path: "/vms/web/start"}); got.State != "running" {
		t.Errorf("with room again: %s", got.State)
	}
	// What says nothing to callers stays a conflict.
	machines.FailNext(fake.OpCreate, errors.New(errors.NotFound, "no such machine"))
	refused("an inner fault", http.StatusConflict, errors.Conflict, ask{method: "POST", path: "/vms", body: "{}"})

	failed := func(what string, task wire.Task) {
		t.Helper()
		c.ended(task.ID)
		if got := ok[wire.Task](c, ask{method: "GET", path: "/tasks/" + task.ID}); got.Error == nil || got.Error.Code != string(errors.NoSpace) {
			t.Errorf("%s: %+v", what, got.Error)
		}
	}
	full(fake.OpCreate)
	failed("a creation", ok[wire.Accepted](c, ask{method: "POST", path: "/vms", body: "{}", header: map[string]string{wire.HeaderPrefer: "respond-async"}}).Task)
	full(fake.OpCreate)
	failed("a run", ok[wire.Task](c, ask{method: "POST", path: "/tasks", body: `{"args":["true"]}`}))
}
