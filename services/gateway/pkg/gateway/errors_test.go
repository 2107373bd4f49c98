package gateway_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// TestRefusals sends every route something it must refuse.
func TestRefusals(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	vm := l.vm().ID
	none := domain.NewID().String()
	x := l.start(vm, "wait").ID
	for _, tc := range []struct {
		method, path, body string
		status             int
		code               errors.Code
		field              string
	}{
		// Nothing there.
		{"GET", "/nothing", "", 404, errors.NotFound, ""},
		{"GET", "/vms/" + none, "", 404, errors.NotFound, ""},
		{"GET", "/vms/no-such-name", "", 404, errors.NotFound, ""},
		{"PATCH", "/vms/" + none, "{}", 404, errors.NotFound, ""},
		{"DELETE", "/vms/" + none, "", 404, errors.NotFound, ""},
		{"POST", "/vms/" + none + "/start", "", 404, errors.NotFound, ""},
		{"POST", "/vms/" + none + "/stop", "", 404, errors.NotFound, ""},
		{"POST", "/vms/" + none + "/pause", "", 404, errors.NotFound, ""},
		{"POST", "/vms/" + none + "/resume", "", 404, errors.NotFound, ""},
		{"POST", "/vms/" + none + "/forks", "", 404, errors.NotFound, ""},
		{"POST", "/vms/" + none + "/snapshots", "", 404, errors.NotFound, ""},
		{"GET", "/vms/" + none + "/usage", "", 404, errors.NotFound, ""},
		{"GET", "/vms/" + none + "/executions", "", 404, errors.NotFound, ""},
		{"POST", "/vms/" + none + "/executions", `{"args":["true"]}`, 404, errors.NotFound, ""},
		{"POST", "/vms/" + none + "/execute", `{"args":["true"]}`, 404, errors.NotFound, ""},
		{"GET", "/executions/" + none, "", 404, errors.NotFound, ""},
		{"GET", "/executions/" + none + "/output", "", 404, errors.NotFound, ""},
		{"GET", "/executions/" + none + "/events", "", 404, errors.NotFound, ""},
		{"POST", "/executions/" + none + "/signal", `{"signal":"TERM"}`, 404, errors.NotFound, ""},
		{"POST", "/executions/" + none + "/stdin/close", "", 404, errors.NotFound, ""},
		{"GET", "/vms/" + none + "/files?path=/a", "", 404, errors.NotFound, ""},
		{"GET", "/vms/" + none + "/ports/80", "", 404, errors.NotFound, ""},
		{"POST", "/vms/" + none + "/ports/80/links", "", 404, errors.NotFound, ""},
		{"GET", "/vms/" + none + "/ports/80/", "", 404, errors.NotFound, ""},
		{"GET", "/snapshots/" + none, "", 404, errors.NotFound, ""},
		{"GET", "/templates/none", "", 404, errors.NotFound, ""},
		{"GET", "/templates/builds/" + none + "/log", "", 404, errors.NotFound, ""},
		{"GET", "/tasks/" + none, "", 404, errors.NotFound, ""},
		{"POST", "/tasks/" + none + "/cancel", "", 404, errors.NotFound, ""},
		{"POST", "/vms", `{"template":"none"}`, 404, errors.NotFound, "template"},
		// The wrong method.
		{"PUT", "/vms", "", 405, errors.MethodNotAllowed, ""},
		{"POST", "/vms/" + vm, "", 405, errors.MethodNotAllowed, ""},
		{"BREW", "/health", "", 405, errors.MethodNotAllowed, ""},
		// Bodies.
		{"POST", "/vms", `{"templte":"base"}`, 400, errors.InvalidArgument, "body.templte"},
		{"POST", "/vms", `{"resources":{"cpu":1}}`, 400, errors.InvalidArgument, "body.resources.cpu"},
		{"POST", "/vms", `{"name":`, 400, errors.InvalidArgument, "body"},
		{"POST", "/vms", `[]`, 400, errors.InvalidArgument, "body"},
		{"POST", "/vms", `null`, 400, errors.InvalidArgument, "body"},
		{"POST", "/vms", `{"name":7}`, 400, errors.InvalidArgument, "body.name"},
		{"POST", "/vms", `{"name":"-x"}`, 400, errors.InvalidArgument, "body.name"},
		{"POST", "/vms", `{"name":"` + strings.Repeat("x", 64) + `"}`, 400, errors.InvalidArgument, "body.name"},
		{"POST", "/vms", `{"name":"` + none + `"}`, 400, errors.InvalidArgument, "name"},
		{"POST", "/vms", `{"network":"host"}`, 400, errors.InvalidArgument, "body.network"},
		{"POST", "/vms", `{"timeout_ms":-1}`, 400, errors.InvalidArgument, "body.timeout_ms"},
		{"POST", "/vms", `{"timeout_ms":1e3}`, 400, errors.InvalidArgument, "body"},
		{"POST", "/vms", `{"timeout_ms":1.5}`, 400, errors.InvalidArgument, "body.timeout_ms"},
		{"POST", "/vms", `{"timeout_ms":31536000001}`, 400, errors.InvalidArgument, "body.timeout_ms"},
		{"POST", "/vms", `{"resources":{"memory_bytes":-5}}`, 400, errors.InvalidArgument, "body.resources.memory_bytes"},
		{"POST", "/vms", `{"env":{"A=B":"x"}}`, 400, errors.InvalidArgument, "env"},
		{"POST", "/vms/" + vm + "/forks", `{"count":101}`, 400, errors.InvalidArgument, "body.count"},
		{"POST", "/vms/" + vm + "/pause", `{"mode":"sleep"}`, 400, errors.InvalidArgument, "body.mode"},
		{"POST", "/vms/" + vm + "/pause", `{"mode":"memory"}`, 422, errors.Unsupported, "mode"},
		{"POST", "/vms/" + vm + "/execute", ``, 400, errors.InvalidArgument, ""},
		{"POST", "/vms/" + vm + "/execute", `{}`, 400, errors.InvalidArgument, "args"},
		{"POST", "/vms/" + vm + "/execute", `{"args":[]}`, 400, errors.InvalidArgument, "body.args"},
		{"POST", "/vms/" + vm + "/execute", `{"args":["a"],"command":"b"}`, 400, errors.InvalidArgument, "body.command"},
		{"POST", "/vms/" + vm + "/execute", `{"args":["a\u0000b"]}`, 400, errors.InvalidArgument, "args"},
		{"POST", "/vms/" + vm + "/execute", `{"args":["no-such-program"]}`, 400, errors.InvalidArgument, "args"},
		{"POST", "/vms/" + vm + "/execute", `{"args":["true"],"id":"x"}`, 400, errors.InvalidArgument, "body.id"},
		{"POST", "/vms/" + vm + "/execute", `{"args":["true"],"max_output_bytes":99999999}`, 400, errors.InvalidArgument, "body.max_output_bytes"},
		{"POST", "/vms/" + vm + "/executions", `{"args":["true"],"pty":{"cols":0,"rows":1}}`, 400, errors.InvalidArgument, "body.pty.cols"},
		{"POST", "/vms/" + vm + "/executions", `{"args":["true"],"env":{"1":"x"}}`, 400, errors.InvalidArgument, "env"},
		{"POST", "/executions/" + x + "/signal", `{"signal":"NOPE"}`, 400, errors.InvalidArgument, "body.signal"},
		{"POST", "/executions/" + x + "/signal", `{"signal":"65"}`, 400, errors.InvalidArgument, "body.signal"},
		{"POST", "/executions/" + x + "/resize", `{"cols":80,"rows":5000}`, 400, errors.InvalidArgument, "body.rows"},
		{"POST", "/vms/" + vm + "/files/mkdir", `{"path":""}`, 400, errors.InvalidArgument, "body.path"},
		// Paths, queries and headers.
		{"GET", "/executions/UPPER", "", 400, errors.InvalidArgument, "path.id"},
		{"GET", "/vms/" + strings.Repeat("v", 70), "", 400, errors.InvalidArgument, "path.vm"},
		{"GET", "/vms?limit=0", "", 400, errors.InvalidArgument, "query.limit"},
		{"GET", "/vms?limit=1001", "", 400, errors.InvalidArgument, "query.limit"},
		{"GET", "/vms?limit=ten", "", 400, errors.InvalidArgument, "query.limit"},
		{"GET", "/vms?limits=10", "", 400, errors.InvalidArgument, "query.limits"},
		{"GET", "/vms?cursor=zzz", "", 400, errors.InvalidArgument, "cursor"},
		{"GET", "/vms?state=sleeping", "", 400, errors.InvalidArgument, "query.state[0]"},
		{"GET", "/vms?metadata=nocolon", "", 400, errors.InvalidArgument, "query.metadata[0]"},
		{"GET", "/vms?metadata=a:1&metadata=a:2", "", 400, errors.InvalidArgument, "query.metadata"},
		{"GET", "/vms?order=up", "", 400, errors.InvalidArgument, "query.order"},
		{"POST", "/vms?wait_ms=600001", "{}", 400, errors.InvalidArgument, "query.wait_ms"},
		{"GET", "/vms/" + vm + "/files", "", 400, errors.InvalidArgument, "query.path"},
		{"GET", "/vms/" + vm + "/files?path=" + strings.Repeat("a", 4096), "", 400, errors.InvalidArgument, "query.path"},
		{"PUT", "/vms/" + vm + "/files?path=/a&mode=999", "", 400, errors.InvalidArgument, "query.mode"},
		{"GET", "/executions/" + x + "/output?offset=-1", "", 400, errors.InvalidArgument, "query.offset"},
		{"GET", "/vms/" + vm + "/ports/0", "", 400, errors.InvalidArgument, "path.port"},
		{"GET", "/vms/" + vm + "/ports/65536", "", 400, errors.InvalidArgument, "path.port"},
		{"GET", "/vms/" + vm + "/ports/080/", "", 400, errors.InvalidArgument, "path.port"},
		{"GET", "/vms?order=", "", 400, errors.InvalidArgument, "query.order"},
		{"GET", "/vms?state=", "", 400, errors.InvalidArgument, "query.state"},
		{"GET", "/events?after=", "", 400, errors.InvalidArgument, "query.after"},
		{"GET", "/executions/" + x + "/output?follow", "", 400, errors.InvalidArgument, "query.follow"},
		{"GET", "/templates/builds/" + none + "/log?offset=9223372036854775806", "", 400, errors.InvalidArgument, "query.offset"},
		{"TRACE", "/vms/" + vm + "/ports/80/x", "", 405, errors.MethodNotAllowed, ""},
		{"GET", "/events/stream", "", 406, errors.NotAcceptable, ""},
		{"GET", "/executions/" + x + "/stream", "", 400, errors.InvalidArgument, ""},
	} {
		t.Run(tc.method+tc.path[:min(len(tc.path), 60)]+tc.body[:min(len(tc.body), 40)], func(t *testing.T) {
			q := req{method: tc.method, path: tc.path}
			if tc.body != "" {
				q.body = tc.body
			}
			p := l.problem(tc.status, tc.code, q)
			if p.Field != tc.field {
				t.Errorf("field %q, want %q: %+v", p.Field, tc.field, p)
			}
		})
	}
}

// Everything that can be got can be asked about (RFC 9110 §9.1, §9.3.2).
func TestHead(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	vm := l.vm().ID
	for _, path := range []string{"/vms", "/vms/" + vm, "/health", "/templates", "/openapi.json", "/status"} {
		got, body := l.want(200, req{method: "HEAD", path: path})
		like, _ := l.want(200, req{method: "GET", path: path})
		if len(body) > 0 || got.Header.Get("Content-Type") != like.Header.Get("Content-Type") {
			t.Errorf("HEAD %s: %d bytes of %s", path, len(body), got.Header.Get("Content-Type"))
		}
	}
	l.want(404, req{method: "HEAD", path: "/vms/" + domain.NewID().String()})
	if got, _ := l.want(405, req{method: "HEAD", path: "/vms/" + vm + "/stop"}); strings.Join(got.Header.Values("Allow"), " ") != "POST" {
		t.Errorf("allowed: %q", got.Header.Values("Allow"))
	}
	if got, _ := l.want(405, req{method: "DELETE", path: "/vms"}); strings.Join(got.Header.Values("Allow"), " ") != "GET HEAD POST" {
		t.Errorf("allowed: %q", got.Header.Values("Allow"))
	}
}

func TestManyErrorsAreToldTogether(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	p := l.problem(400, errors.InvalidArgument, req{method: "POST", path: "/vms?wait_ms=-1", body: `{"nme":"x","network":"host","timeout_ms":"1h"}`})
	got := map[string]wire.FieldError{}
	for _, f := range p.Errors {
		got[f.Field] = f
	}
	for _, field := range []string{"query.wait_ms", "body.nme", "body.network", "body.timeout_ms"} {
		if got[field].Message == "" {
			t.Errorf("%s is not told: %+v", field, p)
		}
	}
	if got["body.timeout_ms"].Hint != "durations are whole milliseconds" || got["body.nme"].Hint == "" {
		t.Errorf("hints %+v", p.Errors)
	}
}

func TestMessagesNameNoGoTypes(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	p := l.problem(400, errors.InvalidArgument, req{method: "POST", path: "/vms", body: `{"timeout_ms":1e3}`})
	if !strings.Contains(p.Detail, "timeout_ms cannot be number 1e3") || strings.Contains(p.Detail, "Go struct") || strings.Contains(p.Detail, "int64") {
		t.Errorf("%q", p.Detail)
	}
}

func TestContentTypeAndAllow(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.problem(415, errors.UnsupportedMedia, req{method: "POST", path: "/vms", body: "name: x", header: map[string]string{"Content-Type": "text/plain"}})
	resp, _ := l.do(req{method: "PUT", path: "/vms"})
	if allow := strings.Join(resp.Header.Values("Allow"), ","); allow != "GET,HEAD,POST" {
		t.Fatalf("Allow %q", allow)
	}
}

func TestPanicsAndInternalErrorsStayInside(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	vm := l.vm().ID
	l.core.PanicOn("usage", "password=hunter2")
	p := l.problem(http.StatusInternalServerError, errors.Internal, req{method: "GET", path: "/vms/" + vm + "/usage", header: map[string]string{"X-Request-Id": "find-me"}})
	if strings.Contains(p.Detail, "hunter2") || p.RequestID != "find-me" {
		t.Fatalf("problem %+v", p)
	}
	l.vm() // the server lives on
	if log := l.log.String(); !strings.Contains(log, "hunter2") || !strings.Contains(log, "find-me") {
		t.Fatal("the log does not tell what happened")
	}
}

func TestLogsHoldNoSecrets(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	vm := l.vm().ID
	l.want(200, req{method: "GET", path: "/vms/" + vm + "/files/list?path=/private-path-in-query"})
	l.do(req{method: "GET", path: "/vms", key: "aeth_0123456789012345678901234567890123456789"})
	link := get[wire.Link](l, 201, req{method: "POST", path: "/vms/" + vm + "/ports/80/links"})
	l.do(req{method: "GET", path: link.URL, key: "none"})
	if err := l.server.Stop(t.Context()); err != nil { // it has written all by then
		t.Error(err)
	}
	log := l.log.String()
	_, secret, _ := strings.Cut(link.URL, "aeth_token=")
	for _, s := range []string{l.admin, "aeth_0123456789012345678901234567890123456789", secret, "private-path-in-query"} {
		if strings.Contains(log, s) {
			t.Errorf("the log holds %q", s)
		}
	}
	if !strings.Contains(log, `"route":"/vms/{vm}/files/list"`) || !strings.Contains(log, `"caller":"root"`) || !strings.Contains(log, `"route":"preview"`) {
		t.Errorf("the log does not tell enough: %s", log)
	}
}
