package gateway_test

import (
	"encoding/json"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/audit"
	"github.com/aetherium/aetherium/services/core/pkg/storage/sqlite"
	"github.com/aetherium/aetherium/services/core/pkg/storage/sqlitetest"
	"github.com/aetherium/aetherium/services/gateway/pkg/gateway"
	"github.com/aetherium/aetherium/services/gateway/pkg/limit"
)

// recorded gives a lab an audit log over a real store.
func recorded(t testing.TB) func(*gateway.Config, *gateway.Deps) {
	t.Helper()
	s, err := sqlitetest.Open(t.Context(), filepath.Join(t.TempDir(), "db"), sqlite.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	log, err := audit.Open(t.Context(), audit.Options{Dir: filepath.Join(t.TempDir(), "audit"), Store: s, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = errors.Join(log.Close(), s.Close()) })
	return func(_ *gateway.Config, d *gateway.Deps) { d.Audit = log }
}

// records lists what was recorded, oldest first.
func (l *lab) records(query string) []wire.AuditRecord {
	l.t.Helper()
	return get[wire.List[wire.AuditRecord]](l, 200, req{method: "GET", path: "/audit?order=asc&limit=1000&" + query}).Items
}

// Every operation that is no reading one leaves exactly one record for each
// request: one that is done or fails, one without credentials and one without
// the right to it. Reading ones leave none.
func TestEveryChangeIsRecordedOnce(t *testing.T) {
	t.Parallel()
	l := newLab(t, recorded(t))
	_, raw := l.want(200, req{method: "GET", path: "/openapi.json"})
	var doc document
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	type asked struct{ operation, scope, how string }
	want := map[string]asked{} // by request ID
	mutations := 0
	for _, path := range slices.Sorted(maps.Keys(doc.Paths)) {
		for _, method := range slices.Sorted(maps.Keys(doc.Paths[path])) {
			var op struct {
				operation
				Scope string `json:"x-required-scope"`
			}
			if err := json.Unmarshal(doc.Paths[path][method], &op); err != nil {
				t.Fatal(err)
			}
			if op.OperationID == "forward-port" {
				continue // whatever goes there is the VM's own
			}
			at := regexp.MustCompile(`\{id\}`).ReplaceAllString(path, "aaaaaaaaaaaaaaaaaaaa")
			at = regexp.MustCompile(`\{port\}`).ReplaceAllString(at, "80")
			at = regexp.MustCompile(`\{\w+\}`).ReplaceAllString(at, "some-name")
			for how, key := range map[string]string{"admin": "", "none": "none", "user": l.user} {
				if how == "none" && mutations >= 15 || keyless[op.OperationID] {
					continue // those of one client are bounded
				}
				id := domain.NewID().String()
				l.do(req{method: strings.ToUpper(method), path: at, key: key, body: "{}", header: map[string]string{wire.HeaderRequestID: id}})
				if method == "get" || method == "head" {
					want[id] = asked{how: "reading"}
				} else {
					want[id] = asked{op.OperationID, op.Scope, how}
				}
			}
			if method != "get" && method != "head" {
				mutations++
			}
		}
	}
	if mutations < 30 {
		t.Fatalf("only %d operations change something", mutations)
	}
	seen := map[string]int{}
	for _, r := range l.records("") {
		seen[r.RequestID]++
		a := want[r.RequestID]
		if a.operation != r.Operation || r.Client != "127.0.0.1" || r.Agent == "" || r.At.IsZero() {
			t.Errorf("%+v, asked was %+v", r, a)
		}
		switch {
		case a.how == "none" && (r.Result != "refused" || r.Code != "unauthenticated" || r.Status != 401 || r.ProjectID != "" || r.Actor != ""):
			t.Errorf("without a key: %+v", r)
		case a.how == "user" && a.scope == "admin" && (r.Result != "refused" || r.Code != "permission_denied" || r.Actor != "alice" || r.Admin):
			t.Errorf("no administrator: %+v", r)
		case a.how == "admin" && (r.Actor != "root" || !r.Admin || r.ProjectID != l.project.String() || r.KeyID == ""):
			t.Errorf("an administrator: %+v", r)
		case (r.Status >= 400) != (r.Code != ""):
			t.Errorf("%+v", r)
		}
	}
	for id, a := range want {
		n := 1
		if a.how == "reading" {
			n = 0
		}
		if seen[id] != n {
			t.Errorf("%+v: %d records, want %d", a, seen[id], n)
		}
	}
}

func TestWhatIsRecorded(t *testing.T) {
	t.Parallel()
	l := newLab(t, recorded(t))
	secret := "hunter2-in-the-body"
	vm := get[wire.VM](l, 201, req{method: "POST", path: "/vms", key: l.user, body: wire.CreateVM{Name: "web", Env: map[string]string{"TOKEN": secret}}})
	x := get[wire.ExecuteResult](l, 200, req{method: "POST", path: "/vms/web/execute", body: wire.Execute{Command: wire.Command{Args: []string{"echo", secret}}}})
	l.do(req{method: "PUT", path: "/secrets/TOKEN", body: `{"value":"` + secret + `"}`})
	snap := get[wire.Snapshot](l, 201, req{method: "POST", path: "/vms/" + vm.ID + "/snapshots"})
	l.want(204, req{method: "DELETE", path: "/snapshots/" + snap.ID})
	l.problem(404, errors.NotFound, req{method: "DELETE", path: "/vms/absent"})
	l.want(200, req{method: "DELETE", path: "/vms/web", header: map[string]string{"User-Agent": strings.Repeat("x", 500) + "\x80"}})
	var got []string
	for _, r := range l.records("") {
		got = append(got, strings.Join([]string{r.Actor, r.Operation, r.SubjectKind, r.SubjectID, r.VMID, r.Result, r.Code}, " "))
		if len(r.Agent) > 128 {
			t.Errorf("an agent of %d bytes", len(r.Agent))
		}
	}
	want := []string{
		"alice create-vm vm " + vm.ID + " " + vm.ID + " done ",
		"root execute execution " + x.Execution.ID + " " + vm.ID + " done ",
		"root set-secret secret TOKEN  done ",
		"root create-snapshot snapshot " + snap.ID + " " + vm.ID + " done ",
		"root delete-snapshot snapshot " + snap.ID + "  done ",
		"root delete-vm vm absent  failed not_found",
		"root delete-vm vm " + vm.ID + " " + vm.ID + " done ",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	_, all := l.want(200, req{method: "GET", path: "/audit"})
	if strings.Contains(string(all), "hunter2") {
		t.Error("a secret is in the log")
	}
	for query, n := range map[string]int{
		"actor=alice": 1, "operation=delete-vm": 2, "subject=" + vm.ID: 4, "result=failed": 1, "result=done": 6, "result=refused": 0,
		"project=" + l.project.String(): 7, "since=2020-01-01T00:00:00Z": 7, "until=2020-01-01T00:00:00Z": 0,
	} {
		if rs := l.records(query); len(rs) != n {
			t.Errorf("%s: %d records, want %d", query, len(rs), n)
		}
	}
	l.problem(403, errors.PermissionDenied, req{method: "GET", path: "/audit", key: l.ring.mint(l.project, "bob", domain.ScopeRun)})
	if theirs := get[wire.List[wire.AuditRecord]](l, 200, req{method: "GET", path: "/audit", key: l.other}); len(theirs.Items) != 0 {
		t.Errorf("another project sees %+v", theirs)
	}
	if ours := get[wire.List[wire.AuditRecord]](l, 200, req{method: "GET", path: "/audit", key: l.user}); len(ours.Items) != 7 {
		t.Errorf("a maintainer sees %d records", len(ours.Items))
	}
	l.problem(400, errors.InvalidArgument, req{method: "GET", path: "/audit?since=yesterday"})
	l.problem(400, errors.InvalidArgument, req{method: "GET", path: "/audit?since="})
	l.problem(404, errors.NotFound, req{method: "GET", path: "/audit?project=absent"})
	first := get[wire.List[wire.AuditRecord]](l, 200, req{method: "GET", path: "/audit?limit=4"})
	rest := get[wire.List[wire.AuditRecord]](l, 200, req{method: "GET", path: "/audit?limit=4&cursor=" + first.NextCursor})
	if len(first.Items) != 4 || len(rest.Items) != 3 || first.Items[0].SubjectID != vm.ID {
		t.Errorf("%d and %d", len(first.Items), len(rest.Items))
	}
}

// What is done over a stream is recorded: the start, each signal, and once
// that input was sent, that it was ended, that the terminal was resized.
func TestStreamsAreRecorded(t *testing.T) {
	t.Parallel()
	l := newLab(t, recorded(t))
	vm := l.vm().ID
	s := l.mustDial("/vms/" + vm + "/stream")
	s.send(start("cat"))
	started, _ := s.until(wire.ControlStarted)
	for i := range 3 {
		s.stdin(int64(i), "x")
		s.send(wire.ClientControl{Type: wire.ControlSignal, Signal: "USR1"})
	}
	s.send(wire.ClientControl{Type: wire.ControlCloseStdin})
	s.until(wire.ControlExit)
	terminal := start("wait")
	terminal.PTY = &wire.PTYSize{Cols: 1, Rows: 1}
	sized := l.mustDial("/vms/" + vm + "/stream")
	sized.send(terminal)
	second, _ := sized.until(wire.ControlStarted)
	for range 3 {
		sized.send(wire.ClientControl{Type: wire.ControlResize, Cols: 80, Rows: 24})
	}
	sized.send(wire.ClientControl{Type: wire.ControlSignal, Signal: "TERM"})
	sized.until(wire.ControlExit)
	bad := l.mustDial("/vms/" + vm + "/stream")
	bad.send(start("no-such-program"))
	bad.closeCode()
	counts := map[string]int{}
	for _, r := range l.records("subject=" + vm) {
		counts[r.Operation+" "+r.Code]++
		if r.Operation != "create-vm" && (r.VMID != vm || r.Actor != "root" || r.RequestID == "" || r.SubjectKind != "execution") {
			t.Errorf("%+v", r)
		}
		if r.Operation != "create-vm" && r.Code == "" && r.SubjectID != started.ExecutionID && r.SubjectID != second.ExecutionID {
			t.Errorf("%+v is not of %s", r, started.ExecutionID)
		}
	}
	for op, n := range map[string]int{"create-vm ": 1, "run-stream ": 2, "signal-execution ": 4, "write-stdin ": 1, "close-stdin ": 1, "resize-execution ": 1} {
		if counts[op] != n {
			t.Errorf("%s: %d records, want %d: %v", op, counts[op], n, counts)
		}
	}
}

// Floods of refusals are counted, not each recorded.
func TestFloodsOfRefusalsAreBounded(t *testing.T) {
	t.Parallel()
	l := newLab(t, recorded(t), limited(limit.Config{Key: limit.Rate{PerSecond: never, Burst: 5}}))
	for range 200 {
		l.do(req{method: "POST", path: "/vms", key: "none"})
		l.do(req{method: "POST", path: "/vms", key: l.user, body: "{}"})
	}
	byCode := map[string]int{}
	for _, r := range l.records("") {
		byCode[r.Code]++
	}
	if byCode[""] != 5 || byCode["rate_limited"] < 20 || byCode["rate_limited"] > 100 || byCode["unauthenticated"] < 20 || byCode["unauthenticated"] > 100 {
		t.Errorf("%v", byCode)
	}
}

// fullLog is an audit log without room, or one that breaks after it promised some.
type fullLog struct {
	*audit.Log
	mu      sync.Mutex
	reserve error
	commit  error
}

func (f *fullLog) Reserve() (func(*domain.AuditRecord) error, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	commit := f.commit
	return func(*domain.AuditRecord) error { return commit }, f.reserve
}

func (f *fullLog) Append(*domain.AuditRecord) error {
	return errors.New(errors.NoSpace, "the audit log cannot be written")
}

// A change that cannot be recorded is refused and not made; reading goes on.
func TestNothingIsDoneUnrecorded(t *testing.T) {
	t.Parallel()
	log := &fullLog{reserve: errors.New(errors.NoSpace, "the audit log cannot be written")}
	l := newLab(t, func(_ *gateway.Config, d *gateway.Deps) { d.Audit = log })
	l.problem(507, errors.NoSpace, req{method: "POST", path: "/vms", body: "{}"})
	if l.core.Creates() != 0 {
		t.Error("the change was made")
	}
	l.want(200, req{method: "GET", path: "/vms"})
	log.mu.Lock()
	log.reserve, log.commit = nil, errors.New(errors.Unavailable, "input/output error")
	log.mu.Unlock()
	p := l.problem(503, errors.Unavailable, req{method: "POST", path: "/vms", body: "{}"})
	if !strings.Contains(p.Detail, "carried out") {
		t.Errorf("%+v", p)
	}
	log.mu.Lock()
	log.commit = nil
	log.mu.Unlock()
	vm := l.vm().ID
	log.mu.Lock()
	log.reserve = errors.New(errors.NoSpace, "the audit log cannot be written")
	log.mu.Unlock()
	s := l.mustDial("/vms/" + vm + "/stream")
	s.send(start("true"))
	if f, err := s.next(); err != nil || f.control == nil || f.control.Code != string(errors.NoSpace) {
		t.Errorf("over a stream: %+v, %v", f.control, err)
	}
}

// A handler that panics leaves its record, too.
func TestPanicsAreRecorded(t *testing.T) {
	t.Parallel()
	l := newLab(t, recorded(t))
	l.core.PanicOn("delete", "boom")
	vm := l.vm().ID
	l.problem(500, errors.Internal, req{method: "DELETE", path: "/vms/" + vm})
	rs := l.records("operation=delete-vm")
	if len(rs) != 1 || rs[0].Code != "internal" || rs[0].Status != http.StatusInternalServerError || rs[0].SubjectID != vm {
		t.Errorf("%+v", rs)
	}
}

// A client that goes away before its answer is recorded all the same.
func TestClientsThatGoAwayAreRecorded(t *testing.T) {
	t.Parallel()
	l := newLab(t, recorded(t))
	vm := l.vm().ID
	resp, _, c := l.raw("POST /api/v1/vms/" + vm + "/executions HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\nAuthorization: Bearer " + l.admin +
		"\r\nContent-Type: application/json\r\nContent-Length: 17\r\n\r\n{\"args\":[\"wait\"]}")
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(resp.Body)
		t.Fatalf("%s %s", resp.Status, body)
	}
	_ = c.Close()
	if rs := l.records("operation=start-execution"); len(rs) != 1 || rs[0].SubjectKind != "execution" || rs[0].Result != "done" {
		t.Errorf("%+v", rs)
	}
}

// Who asks for a project that is not theirs is recorded by name, in the project
// that is, and the request counts for their rate.
func TestReachingForAnotherProjectIsRecorded(t *testing.T) {
	t.Parallel()
	l := newLab(t, recorded(t), limited(limit.Config{Key: limit.Rate{PerSecond: never, Burst: 3}}))
	reach := req{method: "DELETE", path: "/vms/web", key: l.user, header: map[string]string{wire.HeaderProject: "theirs"}}
	for range 3 {
		l.problem(404, errors.NotFound, reach)
	}
	l.problem(429, errors.RateLimited, reach)
	rs := l.records("actor=alice")
	if len(rs) != 4 {
		t.Fatalf("%d records", len(rs))
	}
	for i, r := range rs {
		if r.ProjectID != l.project.String() || !r.Entered || r.Code != []string{"not_found", "not_found", "not_found", "rate_limited"}[i] {
			t.Errorf("%+v", r)
		}
	}
	// An administrator acts there, and the record is there.
	l.do(req{method: "DELETE", path: "/vms/web", header: map[string]string{wire.HeaderProject: "theirs"}})
	theirs := get[wire.List[wire.AuditRecord]](l, 200, req{method: "GET", path: "/audit", key: l.other})
	if len(theirs.Items) != 1 || theirs.Items[0].Actor != "root" || !theirs.Items[0].Admin || !theirs.Items[0].Entered {
		t.Errorf("%+v", theirs.Items)
	}
}
