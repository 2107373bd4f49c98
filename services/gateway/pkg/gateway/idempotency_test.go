package gateway_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/gateway/internal/fake"
	"github.com/aetherium/aetherium/services/gateway/pkg/api"
	"github.com/aetherium/aetherium/services/gateway/pkg/gateway"
)

func key(k string) map[string]string { return map[string]string{"Idempotency-Key": k} }

func TestIdempotentCreate(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	first := get[wire.VM](l, 201, req{method: "POST", path: "/vms", body: `{"metadata":{"a":"1","b":"2"}}`, header: key("k")})
	// The same request, written differently.
	again := get[wire.VM](l, 201, req{method: "POST", path: "/vms", body: ` {"metadata" : {"b":"2","a":"1"}}`, header: key("k")})
	if first.ID != again.ID || l.core.Creates() != 1 {
		t.Fatalf("%s and %s, %d created", first.ID, again.ID, l.core.Creates())
	}
	l.problem(422, errors.IdempotencyMismatch, req{method: "POST", path: "/vms", body: `{"metadata":{"a":"other"}}`, header: key("k")})
	other := get[wire.VM](l, 201, req{method: "POST", path: "/vms", body: `{"metadata":{"a":"other"}}`, header: key("k"), key: l.other})
	if other.ID == first.ID {
		t.Fatal("a key reaches across projects")
	}
	// Asked not to wait, the task is the same too.
	async := key("async")
	async["Prefer"] = "respond-async"
	one := get[wire.Accepted](l, 202, req{method: "POST", path: "/vms", body: "{}", header: async})
	resp, _ := l.want(202, req{method: "POST", path: "/vms", body: "{}", header: async})
	two := get[wire.Accepted](l, 202, req{method: "POST", path: "/vms", body: "{}", header: async})
	if one.Task.ID != two.Task.ID || one.VM.ID != two.VM.ID || resp.Header.Get(wire.HeaderReplayed) != "true" || !strings.HasSuffix(resp.Header.Get("Location"), one.Task.ID) {
		t.Fatalf("%+v and %+v, %v", one, two, resp.Header)
	}
}

func TestIdempotentPosts(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	vm := l.vm().ID
	x := l.start(vm, "wait").ID
	for _, tc := range []struct{ path, body, other string }{
		{"/vms/" + vm + "/forks", `{"count":2}`, `{"count":3}`},
		{"/vms/" + vm + "/snapshots", `{"name":"s"}`, `{"name":"t"}`},
		{"/vms/" + vm + "/ports/80/links", `{}`, `{"ttl_ms":1000}`},
		{"/templates", `{"name":"t","source":{"image":"a"}}`, `{"name":"t","source":{"image":"b"}}`},
		{"/vms/" + vm + "/files/mkdir", `{"path":"/new"}`, `{"path":"/newer"}`},
		{"/vms/" + vm + "/files/move", `{"from":"/new","to":"/moved"}`, `{"from":"/newer","to":"/moved"}`},
		{"/executions/" + x + "/signal", `{"signal":"USR1"}`, `{"signal":"USR2"}`},
		{"/vms/" + vm + "/pause", `{"mode":"freeze"}`, `{}`},
		{"/vms/" + vm + "/resume", ``, `{}`},
	} {
		h := key("key:" + tc.path)
		r1, b1 := l.do(req{method: "POST", path: tc.path, body: tc.body, header: h})
		r2, b2 := l.do(req{method: "POST", path: tc.path, body: tc.body, header: h})
		if r1.StatusCode/100 != 2 || r1.StatusCode != r2.StatusCode || string(b1) != string(b2) || r2.Header.Get(wire.HeaderReplayed) != "true" || r1.Header.Get(wire.HeaderReplayed) != "" {
			t.Errorf("%s: %d %s, then %d %s %v", tc.path, r1.StatusCode, b1, r2.StatusCode, b2, r2.Header)
		}
		if r1.Header.Get("Location") != r2.Header.Get("Location") || r1.Header.Get("Content-Type") != r2.Header.Get("Content-Type") {
			t.Errorf("%s: headers %v, then %v", tc.path, r1.Header, r2.Header)
		}
		l.problem(422, errors.IdempotencyMismatch, req{method: "POST", path: tc.path, body: tc.other, header: h})
		if r3, b3 := l.do(req{method: "POST", path: tc.path, body: tc.body}); len(b1) > 0 && r3.StatusCode/100 == 2 && r3.Header.Get(wire.HeaderReplayed) != "" {
			t.Errorf("%s: without a key the answer is the old one: %s", tc.path, b3)
		}
	}
	for name, bad := range map[string]string{"too long": strings.Repeat("k", 256), "spaces": "a b", "not ASCII": "ké"} {
		p := l.problem(400, errors.InvalidArgument, req{method: "POST", path: "/vms/" + vm + "/forks", header: key(bad)})
		if p.Field != "header.Idempotency-Key" {
			t.Errorf("%s: %+v", name, p)
		}
	}
	// A failure is not kept: the next try may succeed.
	l.core.RefuseSnapshots(domain.SnapshotDisk, errors.New(errors.Conflict, "not now"))
	l.problem(409, errors.Conflict, req{method: "POST", path: "/vms/" + vm + "/snapshots", header: key("later")})
	l.core.RefuseSnapshots(domain.SnapshotDisk, nil)
	get[wire.Snapshot](l, 201, req{method: "POST", path: "/vms/" + vm + "/snapshots", header: key("later")})
}

// Executions are recognised by their IDs: nothing is kept for their requests.
func TestIdempotentExecutions(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	vm := l.vm().ID
	for _, tc := range []struct{ path, body, other string }{
		{"execute", `{"args":["cat"],"stdin":"a"}`, `{"args":["cat"],"stdin":"b"}`},
		{"executions?wait=true", `{"args":["echo","a"]}`, `{"args":["echo","b"]}`},
	} {
		q := req{method: "POST", path: "/vms/" + vm + "/" + tc.path, body: tc.body, header: key("key:" + tc.path)}
		r1, b1 := l.do(q)
		r2, b2 := l.do(q)
		x1, out1 := executed(t, b1)
		x2, out2 := executed(t, b2)
		if r1.StatusCode/100 != 2 || r1.StatusCode != r2.StatusCode || x1 != x2 || out1 != out2 {
			t.Errorf("%s: %d %s, then %d %s", tc.path, r1.StatusCode, b1, r2.StatusCode, b2)
		}
		q.body = tc.other
		l.problem(422, errors.IdempotencyMismatch, q)
		q.body, q.header = tc.body, nil
		_, b3 := l.do(q)
		if x3, _ := executed(t, b3); x3 == x1 {
			t.Errorf("%s: without a key the execution is the old one: %s", tc.path, b3)
		}
		err := l.ring.store.View(t.Context(), func(tx storage.Tx) error {
			_, err := tx.Answers().Get(t.Context(), l.project, storage.AnswerID("key:"+tc.path), time.Now())
			return err
		})
		if !errors.HasCode(err, errors.NotFound) {
			t.Errorf("%s: an answer is kept (%v)", tc.path, err)
		}
	}
}

// executed reads which execution an answer is about, alone or with its output.
func executed(t *testing.T, body []byte) (id, stdout string) {
	t.Helper()
	var x struct {
		wire.Execution
		With   wire.Execution `json:"execution"`
		Stdout string         `json:"stdout"`
	}
	if err := json.Unmarshal(body, &x); err != nil || x.ID+x.With.ID == "" {
		t.Fatalf("%s: %v", body, err)
	}
	return x.ID + x.With.ID, x.Stdout
}

// asks has a client ask, who leaves before the answer.
func (l *lab) asks(q req) (leave func()) {
	ctx, cancel := context.WithCancel(l.t.Context())
	gone := make(chan error, 1)
	go func() {
		resp, err := l.client.Do(l.request(q).WithContext(ctx))
		if err == nil {
			_ = resp.Body.Close()
		}
		gone <- err
	}()
	return func() {
		l.t.Helper()
		cancel()
		if err := <-gone; err == nil {
			l.t.Fatal("the client did not leave")
		}
	}
}

func TestIdempotentExecuteWhileItRunsAndAfterAClientLeft(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	vm := l.vm().ID
	started, release := make(chan struct{}, 2), make(chan struct{})
	l.core.Program("slow", func(p *fake.Process) int {
		started <- struct{}{}
		<-release
		_, _ = fmt.Fprint(p.Stdout, "done")
		return 0
	})
	q := req{method: "POST", path: "/vms/" + vm + "/execute", body: `{"args":["slow"]}`, header: key("k")}
	leave := l.asks(q)
	<-started
	leave()
	again := make(chan wire.ExecuteResult, 1)
	go func() { again <- get[wire.ExecuteResult](l, 200, q) }() // waits with it
	close(release)
	if r := <-again; r.Stdout != "done" || len(started) > 0 {
		t.Fatalf("result %+v after %d more runs", r, len(started))
	}
}

// pausing is an orchestrator whose pauses take until they are let go.
type pausing struct {
	vmm.VMOrchestrator
	begun chan struct{}
	end   chan struct{}
}

func (p *pausing) PauseVM(ctx context.Context, by vmm.Caller, id domain.ID, mode domain.PauseMode) (*domain.VM, error) {
	p.begun <- struct{}{}
	<-p.end
	return p.VMOrchestrator.PauseVM(ctx, by, id, mode)
}

func TestIdempotentWhileInFlightAndAfterAClientLeft(t *testing.T) {
	t.Parallel()
	finished := make(chan struct{})
	slow := &pausing{begun: make(chan struct{}, 2), end: make(chan struct{})}
	l := newLab(t, func(_ *gateway.Config, d *gateway.Deps) {
		slow.VMOrchestrator = d.VMs
		d.VMs, d.Idempotency = slow, &signalling{IdempotencyStore: d.Idempotency, finished: finished}
	})
	vm := l.vm().ID
	q := req{method: "POST", path: "/vms/" + vm + "/pause", body: `{"mode":"freeze"}`, header: key("k")}
	leave := l.asks(q)
	<-slow.begun
	resp, _ := l.do(q)
	if resp.StatusCode != http.StatusConflict || resp.Header.Get("Retry-After") != "1" {
		t.Fatalf("while it runs: %d %v", resp.StatusCode, resp.Header)
	}
	leave()
	close(slow.end)
	<-finished // the work went on without its client, and its answer was kept
	if r := get[wire.VM](l, 200, q); r.ID != vm || len(slow.begun) > 0 {
		t.Fatalf("result %+v after %d more runs", r, len(slow.begun))
	}
}

// signalling tells when an answer was kept.
type signalling struct {
	api.IdempotencyStore
	finished chan struct{}
}

func (s *signalling) Begin(ctx context.Context, project domain.ID, key, digest string) (*api.StoredResponse, api.Claim, error) {
	stored, claim, err := s.IdempotencyStore.Begin(ctx, project, key, digest)
	if claim != nil {
		claim = signallingClaim{claim, s.finished}
	}
	return stored, claim, err
}

type signallingClaim struct {
	api.Claim
	finished chan struct{}
}

func (c signallingClaim) Finish(ctx context.Context, r *api.StoredResponse) error {
	err := c.Claim.Finish(ctx, r)
	if r != nil {
		close(c.finished)
	}
	return err
}
