package gateway_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

func TestVMLifecycle(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	timeout := int64(3_600_000)
	resp, _ := l.want(http.StatusCreated, req{method: "POST", path: "/vms?trace=true", body: wire.CreateVM{
		Name: "web", Env: map[string]string{"A": "b"}, Metadata: map[string]string{"team": "x"}, TimeoutMS: &timeout,
	}})
	vm := get[wire.VM](l, 200, req{method: "GET", path: "/vms/web?trace=true"})
	if vm.State != "running" || vm.Epoch != 1 || vm.Deadline == nil || vm.Metadata["team"] != "x" || len(vm.Phases) != 2 || vm.Phases[0].TookUS != 120 {
		t.Fatalf("vm %+v", vm)
	}
	if got := resp.Header.Get("Location"); got != wire.BasePath+"/vms/"+vm.ID {
		t.Fatalf("location %q", got)
	}
	if l.core.Env(domain.ID(vm.ID))["A"] != "b" {
		t.Fatal("the environment did not arrive")
	}
	for _, step := range []struct{ method, path, state string }{
		{"POST", "/vms/web/pause", "paused"},
		{"POST", "/vms/web/resume", "running"},
		{"POST", "/vms/web/stop", "stopped"},
		{"POST", "/vms/web/start", "running"},
		{"DELETE", "/vms/web", "deleted"},
		{"DELETE", "/vms/" + vm.ID, "deleted"},
	} {
		if got := get[wire.VM](l, 200, req{method: step.method, path: step.path}); got.State != step.state {
			t.Fatalf("%s %s: state %s, want %s", step.method, step.path, got.State, step.state)
		}
	}
	gone := get[wire.VM](l, 200, req{method: "GET", path: "/vms/" + vm.ID})
	if gone.Tombstone == nil || gone.Tombstone.Cause != "requested" || gone.EndedAt == nil || gone.Epoch != 2 {
		t.Fatalf("tombstone %+v", gone)
	}
}

func TestCreateWaitsAndAsync(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.core.Hold()
	// Asked not to wait: a task at once, with the VM as it stands.
	resp, _ := l.want(http.StatusAccepted, req{method: "POST", path: "/vms", body: wire.CreateVM{}, header: map[string]string{"Prefer": "handling=strict, respond-async"}})
	if resp.Header.Get("Preference-Applied") != "respond-async" || !strings.HasPrefix(resp.Header.Get("Location"), wire.BasePath+"/tasks/") {
		t.Fatalf("headers %v", resp.Header)
	}
	// The wait is over before the VM is ready: the same.
	got := get[wire.Accepted](l, http.StatusAccepted, req{method: "POST", path: "/vms?wait_ms=1", body: wire.CreateVM{}})
	if got.VM == nil || got.VM.State != "pending" || got.Task.Kind != "vm.create" || got.Task.Subject != got.VM.ID {
		t.Fatalf("accepted %+v", got)
	}
	// Not to wait at all is a wait of nothing, not the default one.
	get[wire.Accepted](l, http.StatusAccepted, req{method: "POST", path: "/vms?wait_ms=0", body: wire.CreateVM{}})
	pending := get[wire.Task](l, 200, req{method: "GET", path: "/tasks/" + got.Task.ID + "?wait_ms=1"})
	if pending.State != "running" {
		t.Fatalf("task %+v", pending)
	}
	// A change that is not waited for answers 202 with the VM.
	going := get[wire.VM](l, http.StatusAccepted, req{method: "DELETE", path: "/vms/" + got.VM.ID, header: map[string]string{"Prefer": "respond-async"}})
	if going.DesiredState != "deleted" {
		t.Fatalf("vm %+v", going)
	}
	// One that waits is answered when the VM is ready, and not before.
	type answer struct{ vm wire.VM }
	answered := make(chan answer, 1)
	go func() {
		answered <- answer{get[wire.VM](l, http.StatusCreated, req{method: "POST", path: "/vms", body: wire.CreateVM{Name: "late"}})}
	}()
	if err := l.core.AwaitCreates(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	select {
	case <-answered:
		t.Fatal("answered while the VM was pending")
	default:
	}
	l.core.Release()
	if a := <-answered; a.vm.State != "running" {
		t.Fatalf("vm %+v", a.vm)
	}
}

func TestCreateFailure(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.core.FailNext("its agent never answered")
	resp, _ := l.do(req{method: "POST", path: "/vms", body: "{}"})
	if !strings.HasPrefix(resp.Header.Get("Location"), wire.BasePath+"/vms/") {
		t.Fatalf("a failed VM's place is not told: %v", resp.Header)
	}
	l.core.FailNext("its agent never answered")
	p := l.problem(http.StatusBadGateway, errors.GuestFault, req{method: "POST", path: "/vms", body: "{}"})
	if !strings.Contains(p.Detail, "its agent never answered") {
		t.Fatalf("problem %+v", p)
	}
	vm := l.vm()
	get[wire.VM](l, 200, req{method: "POST", path: "/vms/" + vm.ID + "/stop"})
	l.problem(409, errors.Conflict, req{method: "POST", path: "/vms/" + vm.ID + "/forks"})
}

func TestListVMs(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		get[wire.VM](l, 201, req{method: "POST", path: "/vms", body: wire.CreateVM{Name: name, Metadata: map[string]string{"n": name, "url": "http://x:1"}}})
	}
	get[wire.VM](l, 200, req{method: "POST", path: "/vms/b/stop"})
	get[wire.VM](l, 200, req{method: "DELETE", path: "/vms/c"})
	names := func(path string) (out string, next string) {
		list := get[wire.List[wire.VM]](l, 200, req{method: "GET", path: path})
		for _, v := range list.Items {
			out += v.Name
		}
		return out, list.NextCursor
	}
	for _, tc := range []struct{ query, want string }{
		{"", "edba"},
		{"?order=asc", "abde"},
		{"?include_deleted=true", "edcba"},
		{"?state=stopped", "b"},
		{"?state=stopped&state=running", "edba"},
		{"?metadata=n:a", "a"},
		{"?metadata=n:a&metadata=url:http://x:1", "a"},
		{"?metadata=n:z", ""},
		{"?name=d", "d"},
	} {
		if got, _ := names("/vms" + tc.query); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.query, got, tc.want)
		}
	}
	first, next := names("/vms?limit=3&order=asc")
	second, end := names("/vms?limit=3&order=asc&cursor=" + next)
	if first+second != "abde" || next == "" || end != "" {
		t.Fatalf("pages %q %q, cursors %q %q", first, second, next, end)
	}
	if got := get[wire.List[wire.VM]](l, 200, req{method: "GET", path: "/vms", key: l.other}); got.Items == nil || len(got.Items) != 0 {
		t.Fatalf("another project sees %v", got)
	}
}

func TestPatchForkUsageSnapshots(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	vm := l.vm()
	patched := get[wire.VM](l, 200, req{method: "PATCH", path: "/vms/" + vm.ID, body: `{"name":"new","metadata":{},"timeout_ms":60000,"auto_resume":true}`})
	if patched.Name != "new" || patched.Deadline == nil || !patched.AutoResume || time.Until(*patched.Deadline) > time.Minute {
		t.Fatalf("patched %+v", patched)
	}
	forks := get[wire.List[wire.VM]](l, 201, req{method: "POST", path: "/vms/new/forks", body: `{"count":3,"metadata":{"fork":"yes"}}`})
	if len(forks.Items) != 3 || forks.Items[2].State != "running" || forks.Items[0].Metadata["fork"] != "yes" {
		t.Fatalf("forks %+v", forks)
	}
	if one := get[wire.List[wire.VM]](l, 201, req{method: "POST", path: "/vms/new/forks"}); len(one.Items) != 1 {
		t.Fatalf("a fork without a body: %+v", one)
	}
	if u := get[wire.Usage](l, 200, req{method: "GET", path: "/vms/new/usage"}); u.CPUTimeMS != 1500 || u.VMID != vm.ID {
		t.Fatalf("usage %+v", u)
	}
	snap := get[wire.Snapshot](l, 201, req{method: "POST", path: "/vms/new/snapshots", body: `{"name":"before"}`})
	if got := get[wire.Snapshot](l, 200, req{method: "GET", path: "/snapshots/" + snap.ID}); got != snap {
		t.Fatalf("snapshot %+v, want %+v", got, snap)
	}
	for _, path := range []string{"/snapshots", "/vms/new/snapshots"} {
		if list := get[wire.List[wire.Snapshot]](l, 200, req{method: "GET", path: path}); len(list.Items) != 1 {
			t.Fatalf("%s: %+v", path, list)
		}
	}
	from := get[wire.VM](l, 201, req{method: "POST", path: "/vms", body: wire.CreateVM{Template: snap.ID}})
	if from.Template != snap.ID {
		t.Fatalf("vm %+v", from)
	}
	l.want(204, req{method: "DELETE", path: "/snapshots/" + snap.ID})
	l.problem(404, errors.NotFound, req{method: "GET", path: "/snapshots/" + snap.ID})
}

// What is asked of a VM whose worker is away is taken down, and told as such.
func TestWishesWhileTheWorkerIsAway(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		wish, first string
		state       string // when the worker is back
	}{
		{"pause", "", "paused"}, {"stop", "", "stopped"}, {"resume", "pause", "running"}, {"start", "stop", "running"},
	} {
		l := newLab(t)
		vm := l.vm()
		if tc.first != "" {
			get[wire.VM](l, 200, req{method: "POST", path: "/vms/" + vm.ID + "/" + tc.first})
		}
		l.core.Away(domain.ID(vm.ID))
		get[wire.VM](l, 202, req{method: "POST", path: "/vms/" + vm.ID + "/" + tc.wish})
		l.core.Back(domain.ID(vm.ID))
		if got := get[wire.VM](l, 200, req{method: "GET", path: "/vms/" + vm.ID}).State; got != tc.state {
			t.Errorf("%s: it is %s", tc.wish, got)
		}
	}
	l := newLab(t)
	vm := l.vm()
	l.core.Away(domain.ID(vm.ID))
	get[wire.VM](l, 202, req{method: "DELETE", path: "/vms/" + vm.ID})
}
