package gateway_test

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	filesystempb "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/filesystem"
	processpb "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/process"
	"github.com/aetherium/aetherium/services/core/pkg/guest/signature"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/gateway/pkg/gateway"
)

// toAgent is a request to a sandbox's agent that shows its token.
func (l *lab) toAgent(s sandboxAnswer, method, path, body string) req {
	return req{method: method, path: "http://" + l.addr + path, key: "none", body: body, header: map[string]string{
		"E2b-Sandbox-Id": s.SandboxID, "E2b-Sandbox-Port": strconv.Itoa(vmm.AgentPort), "X-Access-Token": s.EnvdAccessToken,
		wire.HeaderRequestID: domain.NewID().String(),
	}}
}

// Whatever a client of an agent changes leaves one record, and what it looks at
// leaves none: each method that agents have is one or the other.
func TestChangesByAgentsClientsAreRecorded(t *testing.T) {
	t.Parallel()
	l := newLab(t, recorded(t))
	made := agentOf(t, l, http.HandlerFunc(echo))
	changes := map[string]string{
		"/process.Process/Start": "start-execution", "/process.Process/SendSignal": "signal-execution",
		"/process.Process/SendInput": "write-stdin", "/process.Process/StreamInput": "write-stdin",
		"/process.Process/CloseStdin": "close-stdin", "/process.Process/Update": "resize-execution",
		"/filesystem.Filesystem/MakeDir": "make-dir", "/filesystem.Filesystem/Move": "move-file", "/filesystem.Filesystem/Remove": "remove-file",
	}
	reading := []string{
		"/process.Process/List", "/process.Process/Connect", "/filesystem.Filesystem/Stat", "/filesystem.Filesystem/ListDir",
		"/filesystem.Filesystem/WatchDir", "/filesystem.Filesystem/CreateWatcher", "/filesystem.Filesystem/GetWatcherEvents", "/filesystem.Filesystem/RemoveWatcher",
	}
	want := map[string]string{} // operations by request ID
	inputs := map[string]bool{}
	for _, file := range []protoreflect.FileDescriptor{processpb.File_process_process_proto, filesystempb.File_filesystem_filesystem_proto} {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				path := "/" + string(service.FullName()) + "/" + string(service.Methods().Get(j).Name())
				operation, changes := changes[path]
				if changes == slices.Contains(reading, path) {
					t.Errorf("%s: changes something %v", path, changes)
				}
				q := l.toAgent(made, "POST", path, `{"process":{"cmd":"hunter2-cmd","envs":{"TOKEN":"hunter2-env"}},"path":"/hunter2-path"}`)
				l.want(200, q)
				if changes && !inputs[operation] { // of what a command is sent, the first
					want[q.header[wire.HeaderRequestID]] = operation
				}
				inputs[operation] = operation == "write-stdin"
			}
		}
	}
	for method, operation := range map[string]string{"GET": "", "POST": "write-file"} {
		q := l.toAgent(made, method, "/files?path=/hunter2-path", "hunter2-file")
		l.want(200, q)
		if operation != "" {
			want[q.header[wire.HeaderRequestID]] = operation
		}
	}
	l.want(200, l.toAgent(made, "GET", "/envs", ""))
	l.want(204, l.toAgent(made, "GET", "/health", ""))
	signed := l.toAgent(made, "POST", "/files?"+url.Values{"path": {"/a"}, "signature": {signature.Make("/a", signature.Write, "", made.EnvdAccessToken, "")}}.Encode(), "x")
	delete(signed.header, "X-Access-Token")
	l.want(200, signed)

	for _, r := range l.records("subject=" + made.SandboxID) {
		if r.Operation == "create-vm" {
			continue
		}
		actor, operation := "agent token", want[r.RequestID]
		if r.RequestID == signed.header[wire.HeaderRequestID] {
			actor, operation = "signed URL", "write-file"
		}
		if r.Operation != operation || r.Actor != actor || r.ProjectID != l.project.String() || r.SubjectKind != "vm" || r.SubjectID != made.SandboxID ||
			r.VMID != made.SandboxID || r.KeyID != "" || r.UserID != "" || r.Admin || r.Status != 200 || r.Result != "done" || r.Client != "127.0.0.1" || r.Agent == "" {
			t.Errorf("%+v, want %s by %s", r, operation, actor)
		}
		delete(want, r.RequestID)
		if actor == "signed URL" {
			signed.header[wire.HeaderRequestID] = ""
		}
	}
	if len(want) > 0 || signed.header[wire.HeaderRequestID] != "" {
		t.Errorf("without a record: %v, %v", want, signed.header)
	}
	_, all := l.want(200, req{method: "GET", path: "/audit"})
	for _, never := range []string{"hunter2", made.EnvdAccessToken, "signature"} {
		if strings.Contains(string(all), never) {
			t.Errorf("the log has %q", never)
		}
	}
	if theirs := get[wire.List[wire.AuditRecord]](l, 200, req{method: "GET", path: "/audit", key: l.other}); len(theirs.Items) != 0 {
		t.Errorf("another project sees %+v", theirs)
	}
}

// A command's start is in the log when its stream begins, not when it ends; and
// what failed or was refused is there, too.
func TestStartsByAgentsClientsAreRecordedAtOnce(t *testing.T) {
	t.Parallel()
	l := newLab(t, recorded(t))
	ended := make(chan struct{})
	made := agentOf(t, l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/process.Process/Start" {
			http.Error(w, `{"code":"not_found","message":"there is no such process"}`, http.StatusNotFound)
			return
		}
		_, _ = io.WriteString(w, "begun")
		_ = http.NewResponseController(w).Flush()
		select {
		case <-ended:
		case <-r.Context().Done():
		}
	}))
	resp, err := l.client.Do(l.request(l.toAgent(made, "POST", "/process.Process/Start", "{}")))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if _, err := bufio.NewReader(resp.Body).Peek(1); err != nil {
		t.Fatal(err)
	}
	if rs := l.records("operation=start-execution"); len(rs) != 1 || rs[0].Result != "done" {
		t.Errorf("while it runs: %+v", rs)
	}
	close(ended)
	l.want(404, l.toAgent(made, "POST", "/process.Process/SendSignal", "{}"))
	if rs := l.records("operation=signal-execution"); len(rs) != 1 || rs[0].Result != "failed" || rs[0].Status != 404 {
		t.Errorf("failed: %+v", rs)
	}
	gone := l.sandbox(`{"templateID":"base"}`)
	l.want(204, req{method: "DELETE", path: l.e2b("/sandboxes/" + gone.SandboxID), key: l.user})
	l.want(502, l.toAgent(gone, "POST", "/filesystem.Filesystem/Remove", "{}"))
	if rs := l.records("operation=remove-file"); len(rs) != 1 || rs[0].Result != "failed" {
		t.Errorf("in a VM that is gone: %+v", rs)
	}
	for range 50 {
		q := l.toAgent(made, "POST", "/process.Process/Start", "{}")
		q.header["X-Access-Token"] = "wrong"
		l.want(401, q)
	}
	rs := l.records("operation=start-execution&result=refused")
	if len(rs) == 0 || len(rs) >= 50 {
		t.Fatalf("%d refusals are recorded", len(rs))
	}
	if r := rs[0]; r.Actor != "" || r.ProjectID != "" || r.VMID != made.SandboxID || r.Code != "unauthenticated" {
		t.Errorf("refused: %+v", r)
	}
}

// Somebody who types leaves no record for each key.
func TestInputByAgentsClientsIsBounded(t *testing.T) {
	t.Parallel()
	l := newLab(t, recorded(t))
	made := agentOf(t, l, http.HandlerFunc(echo))
	const keys = 40
	for range keys {
		l.want(200, l.toAgent(made, "POST", "/process.Process/SendInput", "{}"))
	}
	if rs := l.records("operation=write-stdin"); len(rs) == 0 || len(rs) >= keys {
		t.Errorf("%d records", len(rs))
	}
}

// What cannot be recorded is not passed on, and says so as agents' clients know
// it; what was passed on and then could not be says that.
func TestNoChangeByAgentsClientsIsUnrecorded(t *testing.T) {
	t.Parallel()
	log := &fullLog{}
	l := newLab(t, func(_ *gateway.Config, d *gateway.Deps) { d.Audit = log })
	var asked atomic.Int32
	made := agentOf(t, l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		w.Header().Set("Content-Type", "application/connect+json")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	log.mu.Lock()
	log.reserve = errors.New(errors.NoSpace, "the audit log cannot be written")
	log.mu.Unlock()
	type failure struct {
		Code    any
		Message string
	}
	told := func(status int, path string) failure {
		t.Helper()
		resp, body := l.want(status, l.toAgent(made, "POST", path, "{}"))
		var f failure
		if err := json.Unmarshal(body, &f); err != nil || resp.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %v: %s", path, err, body)
		}
		return f
	}
	if f := told(507, "/process.Process/Start"); f.Code != "resource_exhausted" {
		t.Errorf("%+v", f)
	}
	if f := told(507, "/files?path=a"); f.Code != 507.0 {
		t.Errorf("%+v", f)
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("the agent was asked %d times", n)
	}
	log.mu.Lock()
	log.reserve, log.commit = nil, errors.New(errors.Unavailable, "input/output error")
	log.mu.Unlock()
	// The command goes on; the answer ends all the same.
	if f := told(503, "/process.Process/Start"); f.Code != "unavailable" || !strings.Contains(f.Message, "carried out") {
		t.Errorf("%+v", f)
	}
}
