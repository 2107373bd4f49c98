package gateway_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// retried reports whether an SDK sends a request again after a status: Python's
// after each of these, JavaScript's after the first.
func retried(status int) bool {
	switch status {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// insist sends a request as Python's SDK does: three times more where it may.
func (l *lab) insist(q req) int {
	l.t.Helper()
	status := 0
	for range 4 {
		resp, _ := l.do(q)
		if status = resp.StatusCode; !retried(status) {
			break
		}
	}
	return status
}

// A sandbox that its template cannot start is made once, and its client told why.
func TestE2BSandboxesThatFail(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	const why = "its template's ready command did not succeed in 3m0s: no"
	create := req{method: "POST", path: l.e2b("/v2/sandboxes"), key: l.user, body: `{"templateID":"base"}`}
	l.core.FailNext(why)
	if status := l.insist(create); status != http.StatusInternalServerError || l.core.Creates() != 1 {
		t.Errorf("%d VMs were made, the last was answered %d", l.core.Creates(), status)
	}
	l.core.FailNext(why)
	if f := l.fails(http.StatusInternalServerError, create); !strings.Contains(f.Message, why) || f.ErrorCode != string(errors.GuestFault) {
		t.Errorf("%+v", f)
	}
	if list := get[[]sandboxDetail](l, 200, req{method: "GET", path: l.e2b("/v2/sandboxes"), key: l.user}); len(list) != 0 {
		t.Errorf("left: %+v", list)
	}
	// So is one that ran before and is started anew.
	made := l.sandbox(`{"templateID":"base"}`)
	l.want(204, req{method: "POST", path: l.e2b("/sandboxes/" + made.SandboxID + "/pause"), key: l.user, body: `{"memory":false}`})
	connect := req{method: "POST", path: l.e2b("/v2/sandboxes/" + made.SandboxID + "/connect"), key: l.user, body: `{}`}
	l.core.FailNextStart(why)
	if f := l.fails(http.StatusInternalServerError, connect); !strings.Contains(f.Message, why) {
		t.Errorf("%+v", f)
	}
	get[sandboxAnswer](l, 201, connect)
}

// What is kept of a sandbox as it pauses is what its client asks for, as far as
// its driver goes.
func TestE2BMemory(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name     string
		keeps    bool // the driver keeps memory
		body     string
		mode     domain.PauseMode
		pausedAs domain.DesiredState
		snapshot domain.SnapshotKind // of the paused sandbox
	}{
		{"memory", true, `{}`, domain.PauseMemory, domain.WantPaused, domain.SnapshotMemory},
		{"memory, said", true, `{"memory":true}`, domain.PauseMemory, domain.WantPaused, domain.SnapshotMemory},
		{"the disk", true, `{"memory":false}`, domain.PauseDisk, domain.WantPaused, domain.SnapshotDisk},
		{"frozen", false, `{}`, domain.PauseFreeze, domain.WantPaused, domain.SnapshotDisk},
		{"the disk, where none is kept", false, `{"memory":false}`, "", domain.WantStopped, domain.SnapshotDisk},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			if tc.keeps {
				l.core.KeepMemory()
			}
			made := l.sandbox(`{"templateID":"base"}`)
			path := l.e2b("/sandboxes/" + made.SandboxID)
			row := func() *domain.VM {
				vm, err := l.core.GetVM(t.Context(), vmm.Caller{ProjectID: l.project}, domain.ID(made.SandboxID))
				if err != nil {
					t.Fatal(err)
				}
				return vm
			}
			l.want(204, req{method: "POST", path: path + "/pause", key: l.user, body: tc.body})
			if vm := row(); vm.Desired != tc.pausedAs || vm.PauseMode != tc.mode {
				t.Fatalf("paused it is %s by %q", vm.Desired, vm.PauseMode)
			}
			if info := get[sandboxDetail](l, 200, req{method: "GET", path: path, key: l.user}); info.State != "paused" {
				t.Errorf("%+v", info)
			}
			l.fails(409, req{method: "POST", path: path + "/pause", key: l.user, body: tc.body})
			if kind := l.snapshotKind(made.SandboxID, `{}`); kind != tc.snapshot {
				t.Errorf("a snapshot of it is of its %s", kind)
			}
			epoch := row().Epoch
			get[sandboxAnswer](l, 201, req{method: "POST", path: l.e2b("/v2/sandboxes/" + made.SandboxID + "/connect"), key: l.user, body: `{}`})
			if goesOn := row().Epoch == epoch; goesOn != (tc.pausedAs == domain.WantPaused) {
				t.Errorf("it goes on from where it was: %v", goesOn)
			}
		})
	}
}

// snapshotKind takes a snapshot and tells of what it is.
func (l *lab) snapshotKind(sandbox, body string) domain.SnapshotKind {
	l.t.Helper()
	made := get[struct {
		SnapshotID string   `json:"snapshotID"`
		Names      []string `json:"names"`
	}](l, 201, req{method: "POST", path: l.e2b("/sandboxes/" + sandbox + "/snapshots"), key: l.user, body: body})
	s, err := l.core.GetSnapshot(l.t.Context(), vmm.Caller{ProjectID: l.project}, domain.ID(made.SnapshotID))
	if err != nil {
		l.t.Fatal(err)
	}
	return s.Kind
}

// A client that wants no memory gets a sandbox that was started anew, however it
// was paused.
func TestE2BReboots(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.core.KeepMemory()
	made := l.sandbox(`{"templateID":"base"}`)
	by := vmm.Caller{ProjectID: l.project}
	before, err := l.core.GetVM(t.Context(), by, domain.ID(made.SandboxID))
	if err != nil {
		t.Fatal(err)
	}
	connect := req{method: "POST", path: l.e2b("/v2/sandboxes/" + made.SandboxID + "/connect"), key: l.user, body: `{"memory":false}`}
	get[sandboxAnswer](l, 200, connect) // it runs: nothing is to be done
	l.want(204, req{method: "POST", path: l.e2b("/sandboxes/" + made.SandboxID + "/pause"), key: l.user})
	get[sandboxAnswer](l, 201, connect)
	after, err := l.core.GetVM(t.Context(), by, domain.ID(made.SandboxID))
	if err != nil || after.Observed != domain.Running || after.Epoch != before.Epoch+1 {
		t.Errorf("%+v, %v", after, err)
	}
}

// What is done at the end of a sandbox's time is as it was made for.
func TestE2BAutoPause(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	for body, want := range map[string]domain.OnTimeout{
		`{"templateID":"base"}`:                                          domain.TimeoutKill,
		`{"templateID":"base","autoPauseMemory":false}`:                  domain.TimeoutKill,
		`{"templateID":"base","autoPause":true}`:                         domain.TimeoutPause,
		`{"templateID":"base","autoPause":true,"autoPauseMemory":true}`:  domain.TimeoutPause,
		`{"templateID":"base","autoPause":true,"autoPauseMemory":false}`: domain.TimeoutStop,
	} {
		made := l.sandbox(body)
		vm, err := l.core.GetVM(t.Context(), vmm.Caller{ProjectID: l.project}, domain.ID(made.SandboxID))
		if err != nil || vm.OnTimeout != want {
			t.Errorf("%s: %+v, %v", body, vm, err)
		}
		shown := "pause"
		if want == domain.TimeoutKill {
			shown = "kill"
		}
		if info := get[sandboxDetail](l, 200, req{method: "GET", path: l.e2b("/sandboxes/" + made.SandboxID), key: l.user}); info.Lifecycle["onTimeout"] != shown {
			t.Errorf("%s: shown as %v", body, info.Lifecycle)
		}
	}
}

// A snapshot is of the disk alone where that is asked for, or the driver keeps no
// memory; what else is in the way of one with memory is told.
func TestE2BSnapshotMemory(t *testing.T) {
	t.Parallel()
	plain := newLab(t)
	if kind := plain.snapshotKind(plain.sandbox(`{"templateID":"base"}`).SandboxID, `{}`); kind != domain.SnapshotDisk {
		t.Errorf("where no memory is kept it is of the %s", kind)
	}
	l := newLab(t)
	l.core.KeepMemory()
	made := l.sandbox(`{"templateID":"base"}`)
	for body, want := range map[string]domain.SnapshotKind{
		``: domain.SnapshotMemory, `{}`: domain.SnapshotMemory, `{"memory":true}`: domain.SnapshotMemory, `{"memory":false}`: domain.SnapshotDisk,
	} {
		if kind := l.snapshotKind(made.SandboxID, body); kind != want {
			t.Errorf("%s: of the %s", body, kind)
		}
	}
	take := req{method: "POST", path: l.e2b("/sandboxes/" + made.SandboxID + "/snapshots"), key: l.user, body: `{}`}
	for code, status := range map[errors.Code]int{errors.Conflict: 409, errors.Unavailable: 503, errors.NoSpace: 507} {
		l.core.RefuseSnapshots(domain.SnapshotMemory, errors.New(code, "not now"))
		if f := l.fails(status, take); !strings.Contains(f.Message, "not now") {
			t.Errorf("%s: %+v", code, f)
		}
	}
	l.core.RefuseSnapshots(domain.SnapshotMemory, errors.New(errors.Unsupported, "not with this device"))
	if kind := l.snapshotKind(made.SandboxID, `{}`); kind != domain.SnapshotDisk {
		t.Errorf("where the driver cannot it is of the %s", kind)
	}
}

// A strict pause is for a sandbox whose agent answers; others run on.
func TestE2BStrictPause(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	well := agentOf(t, l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/health" || r.Method != http.MethodGet {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	}))
	ill := agentOf(t, l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }))
	gone := agentOf(t, l, http.NotFoundHandler())
	dead := httptest.NewServer(http.NotFoundHandler())
	l.core.Expose(domain.ID(gone.SandboxID), vmm.AgentPort, dead.Listener.Addr().String())
	dead.Close()
	pause := func(s sandboxAnswer, body string) req {
		return req{method: "POST", path: l.e2b("/sandboxes/" + s.SandboxID + "/pause"), key: l.user, body: body}
	}
	l.want(204, pause(well, `{"requireHealthyGuest":true}`))
	for _, s := range []sandboxAnswer{ill, gone} {
		for _, body := range []string{`{"requireHealthyGuest":true}`, `{"requireHealthyGuest":true,"memory":false}`} {
			l.fails(503, pause(s, body))
		}
		if info := get[sandboxDetail](l, 200, req{method: "GET", path: l.e2b("/sandboxes/" + s.SandboxID), key: l.user}); info.State != "running" {
			t.Errorf("%+v", info)
		}
		l.want(204, pause(s, `{"requireHealthyGuest":false}`))
	}
}

// A client that is told that its request was not done finds nothing of it done
// later, when the sandbox's worker is back.
func TestE2BWhileTheWorkerIsAway(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	made := l.sandbox(`{"templateID":"base"}`)
	id := domain.ID(made.SandboxID)
	path := l.e2b("/sandboxes/" + made.SandboxID)
	state := func() string {
		return get[sandboxDetail](l, 200, req{method: "GET", path: path, key: l.user}).State
	}
	pause := req{method: "POST", path: path + "/pause", key: l.user, body: `{}`}
	connect := req{method: "POST", path: l.e2b("/v2/sandboxes/" + made.SandboxID + "/connect"), key: l.user, body: `{}`}
	// goesAway asks while the worker is about to go away, without having done it.
	goesAway := func(q req) {
		t.Helper()
		l.core.Hold()
		before := l.wanted(id)
		answered := make(chan int)
		go func() {
			resp, _ := l.do(q)
			answered <- resp.StatusCode
		}()
		if err := l.core.AwaitWish(t.Context(), id, before); err != nil {
			t.Fatal(err)
		}
		l.core.Away(id)
		if status := <-answered; status != http.StatusServiceUnavailable {
			t.Errorf("%s: %d", q.path, status)
		}
		l.core.Release()
	}

	l.core.Away(id)
	l.fails(503, pause)
	l.core.Back(id)
	if got := state(); got != "running" {
		t.Errorf("a pause that was refused left it %s", got)
	}
	goesAway(pause)
	l.core.Back(id)
	if got := state(); got != "running" {
		t.Errorf("a pause that was given up left it %s", got)
	}
	l.want(204, pause)
	l.core.Away(id)
	l.fails(503, connect)
	l.core.Back(id)
	if got := state(); got != "paused" {
		t.Errorf("a connect that was refused left it %s", got)
	}
	goesAway(connect)
	l.core.Back(id)
	if got := state(); got != "paused" {
		t.Errorf("a connect that was given up left it %s", got)
	}
	get[sandboxAnswer](l, 201, connect)
	l.core.Away(id)
	get[sandboxAnswer](l, 200, connect) // it runs, as far as is known, and nothing is to be done
	l.want(204, req{method: "DELETE", path: path, key: l.user})
	l.core.Back(id)
	l.fails(404, req{method: "GET", path: path, key: l.user})

	// Of a sandbox that is not made its client hears nothing: it is made later for who can ask again.
	for left, key := range []string{"", "k"} { // by how many are left
		q := req{method: "POST", path: l.e2b("/v2/sandboxes"), key: l.user, body: `{"templateID":"base"}`}
		if key != "" {
			q.header = map[string]string{"Idempotency-Key": key}
		}
		l.core.Hold()
		answered := make(chan int)
		go func() {
			resp, _ := l.do(q)
			answered <- resp.StatusCode
		}()
		if err := l.core.AwaitCreates(t.Context(), 2+left); err != nil {
			t.Fatal(err)
		}
		made := l.newest()
		l.core.Away(made)
		if status := <-answered; status != http.StatusServiceUnavailable {
			t.Errorf("create: %d", status)
		}
		l.core.Release()
		l.core.Back(made)
		if list := get[[]sandboxDetail](l, 200, req{method: "GET", path: l.e2b("/v2/sandboxes"), key: l.user}); len(list) != left {
			t.Errorf("with the key %q: %+v", key, list)
		}
	}
}

// newest is the VM that was made last.
func (l *lab) newest() domain.ID {
	l.t.Helper()
	list, err := l.core.ListVMs(l.t.Context(), vmm.Caller{ProjectID: l.project}, vmm.VMFilter{})
	if err != nil || len(list.Items) == 0 {
		l.t.Fatal(err)
	}
	return list.Items[0].ID
}

// wanted is what is wanted of a VM.
func (l *lab) wanted(id domain.ID) domain.DesiredState {
	l.t.Helper()
	vm, err := l.core.GetVM(l.t.Context(), vmm.Caller{ProjectID: l.project}, id)
	if err != nil {
		l.t.Fatal(err)
	}
	return vm.Desired
}
