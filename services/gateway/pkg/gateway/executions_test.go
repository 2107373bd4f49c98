package gateway_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/gateway/internal/fake"
)

func TestExecute(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	vm := l.vm().ID
	big := strings.Repeat("x", 200<<10)
	for _, tc := range []struct {
		name string
		body wire.Execute
		want func(r wire.ExecuteResult) bool
	}{
		{"stdout", wire.Execute{Command: wire.Command{Args: []string{"echo", "hi", "there"}}}, func(r wire.ExecuteResult) bool {
			return r.Stdout == "hi there\n" && r.Stderr == "" && *r.Execution.ExitCode == 0 && r.Execution.State == "exited" && r.Execution.OutputBytes == 9
		}},
		{"stderr", wire.Execute{Command: wire.Command{Args: []string{"warn", "oh"}}}, func(r wire.ExecuteResult) bool { return r.Stderr == "oh\n" && r.Stdout == "" }},
		{"exit code", wire.Execute{Command: wire.Command{Args: []string{"false"}}}, func(r wire.ExecuteResult) bool { return *r.Execution.ExitCode == 1 }},
		{"shell line", wire.Execute{Command: wire.Command{Command: "ls | wc"}}, func(r wire.ExecuteResult) bool { return r.Stdout == "bash: ls | wc\n" }},
		{"env", wire.Execute{Command: wire.Command{Args: []string{"env", "K"}, Env: map[string]string{"K": "v=1"}}}, func(r wire.ExecuteResult) bool { return r.Stdout == "v=1\n" }},
		{"stdin", wire.Execute{Command: wire.Command{Args: []string{"cat"}}, Stdin: big}, func(r wire.ExecuteResult) bool { return r.Stdout == big && !r.StdoutTruncated }},
		{"stdin that nobody reads", wire.Execute{Command: wire.Command{Args: []string{"true"}}, Stdin: big}, func(r wire.ExecuteResult) bool { return *r.Execution.ExitCode == 0 }},
		{"truncated", wire.Execute{Command: wire.Command{Args: []string{"echo", "äöü"}}, MaxOutputBytes: 3}, func(r wire.ExecuteResult) bool {
			return r.Stdout == "ä" && r.StdoutTruncated && !r.StderrTruncated && r.Encoding == "utf-8"
		}},
		{"binary", wire.Execute{Command: wire.Command{Args: []string{"raw"}}}, func(r wire.ExecuteResult) bool {
			return r.Encoding == "base64" && r.Stdout == base64.StdEncoding.EncodeToString([]byte{0xff, 0xfe})
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := get[wire.ExecuteResult](l, 200, req{method: "POST", path: "/vms/" + vm + "/execute", body: tc.body})
			if !tc.want(r) {
				t.Fatalf("result %+v", r)
			}
			if again := get[wire.Execution](l, 200, req{method: "GET", path: "/executions/" + r.Execution.ID}); again.State != "exited" {
				t.Fatalf("execution %+v", again)
			}
		})
	}
}

func TestExecuteRunsOnce(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	vm := l.vm().ID
	runs := make(chan struct{}, 10)
	l.core.Program("count", func(p *fake.Process) int {
		runs <- struct{}{}
		_, _ = p.Stdout.Write([]byte("counted"))
		return 0
	})
	body := wire.Execute{ID: domain.NewID().String(), Command: wire.Command{Args: []string{"count"}}}
	for range 3 { // the same ID
		if r := get[wire.ExecuteResult](l, 200, req{method: "POST", path: "/vms/" + vm + "/execute", body: body}); r.Stdout != "counted" {
			t.Fatalf("result %+v", r)
		}
	}
	body.ID = ""
	for range 3 { // the same key, on the stream too, whose answer is not kept
		get[wire.ExecuteResult](l, 200, req{method: "POST", path: "/vms/" + vm + "/execute", body: body, header: map[string]string{"Idempotency-Key": "k1"}})
		_, events := l.want(200, req{
			method: "POST", path: "/vms/" + vm + "/executions", body: wire.StartExecution{Command: body.Command},
			header: map[string]string{"Idempotency-Key": "k2", "Accept": "text/event-stream"},
		})
		if !bytes.Contains(events, []byte("event: exit")) {
			t.Fatalf("events %s", events)
		}
	}
	if n := len(runs); n != 3 {
		t.Fatalf("the command ran %d times, want 3", n)
	}
}

func TestExecutionCalls(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	vm := l.vm().ID
	x := l.start(vm, "cat")
	for _, tc := range []struct {
		offset string
		data   string
	}{{"?offset=0", "hello "}, {"?offset=0", "hello "}, {"?offset=6", "wor"}, {"", "ld"}} {
		l.want(204, req{method: "POST", path: "/executions/" + x.ID + "/stdin" + tc.offset, body: []byte(tc.data)})
	}
	l.want(204, req{method: "POST", path: "/executions/" + x.ID + "/stdin/close"})
	_, raw := l.want(200, req{method: "GET", path: "/executions/" + x.ID + "/output?follow=true", header: map[string]string{"Accept": "application/octet-stream"}})
	if string(raw) != "hello world" {
		t.Fatalf("output %q: input sent twice must arrive once", raw)
	}

	w := l.start(vm, "wait")
	l.want(204, req{method: "POST", path: "/executions/" + w.ID + "/signal", body: `{"signal":"SIGTERM"}`})
	get[wire.Execution](l, 201, req{method: "POST", path: "/vms/" + vm + "/executions?wait=true", body: wire.StartExecution{ID: w.ID, Command: wire.Command{Args: []string{"wait"}}}})
	ended := get[wire.Execution](l, 200, req{method: "GET", path: "/executions/" + w.ID})
	if *ended.ExitCode != 143 || ended.Signal != 15 {
		t.Fatalf("execution %+v", ended)
	}
	l.problem(409, errors.Conflict, req{method: "POST", path: "/executions/" + w.ID + "/signal", body: `{"signal":"9"}`})

	pty := get[wire.Execution](l, 201, req{method: "POST", path: "/vms/" + vm + "/executions", body: `{"args":["winch"],"pty":{"cols":80,"rows":24}}`})
	l.want(204, req{method: "POST", path: "/executions/" + pty.ID + "/resize", body: `{"cols":100,"rows":40}`})
	_, raw = l.want(200, req{method: "GET", path: "/executions/" + pty.ID + "/output?follow=true&stream=pty", header: map[string]string{"Accept": "application/octet-stream"}})
	if string(raw) != "100x40\n" {
		t.Fatalf("output %q", raw)
	}
	if list := get[wire.List[wire.Execution]](l, 200, req{method: "GET", path: "/vms/" + vm + "/executions"}); len(list.Items) != 3 {
		t.Fatalf("executions %+v", list)
	}
	l.problem(404, errors.NotFound, req{method: "GET", path: "/executions/" + x.ID, key: l.other})
	l.problem(404, errors.NotFound, req{method: "GET", path: "/executions/" + x.ID + "/output", key: l.other})
}

func TestOutputFormats(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	vm := l.vm().ID
	x := get[wire.Execution](l, 201, req{method: "POST", path: "/vms/" + vm + "/executions?wait=true", body: `{"args":["lines","4"]}`})
	path := "/executions/" + x.ID + "/output"

	parse := func(body []byte) (data string, streams []string, end *wire.OutputExit, gap *wire.OutputGap) {
		at := int64(-1)
		for line := range bytes.Lines(body) {
			var ev wire.OutputEvent
			dec := json.NewDecoder(bytes.NewReader(line))
			dec.DisallowUnknownFields()
			if err := dec.Decode(&ev); err != nil {
				t.Fatalf("%v in %s", err, line)
			}
			if at >= 0 && ev.Offset != at {
				t.Fatalf("offset %d after %d", ev.Offset, at)
			}
			at = ev.NextOffset
			data += string(ev.Data)
			if ev.Stream != "" {
				streams = append(streams, ev.Stream)
			}
			if ev.End != nil {
				end = ev.End
			}
			if ev.Gap != nil {
				gap = ev.Gap
			}
		}
		return data, streams, end, gap
	}
	_, body := l.want(200, req{method: "GET", path: path})
	data, streams, end, _ := parse(body)
	if data != "line 0\nline 1\nline 2\nline 3\n" || strings.Join(streams, ",") != "stdout,stderr,stdout,stderr" || end == nil || end.OutputBytes != 28 {
		t.Fatalf("output %q %v %+v", data, streams, end)
	}
	_, body = l.want(200, req{method: "GET", path: path + "?offset=16"})
	if data, _, _, _ = parse(body); data != "ne 2\nline 3\n" {
		t.Fatalf("from the middle: %q", data)
	}
	_, body = l.want(200, req{method: "GET", path: path + "?stream=stderr", header: map[string]string{"Accept": "application/octet-stream"}})
	if string(body) != "line 1\nline 3\n" {
		t.Fatalf("stderr alone: %q", body)
	}
	l.core.Drop(domain.ID(x.ID), 14)
	_, body = l.want(200, req{method: "GET", path: path})
	if data, _, _, gap := parse(body); data != "line 2\nline 3\n" || gap == nil || *gap != (wire.OutputGap{From: 0, To: 14}) {
		t.Fatalf("with a gap: %q %+v", data, gap)
	}
	// Bytes alone cannot tell of a gap: they are refused before it.
	bytesOnly := map[string]string{"Accept": "application/octet-stream"}
	for _, query := range []string{"", "?offset=13", "?follow=true"} {
		if p := l.problem(416, errors.OutOfRange, req{method: "GET", path: path + query, header: bytesOnly}); !strings.Contains(p.Hint, "offset=14") || p.Field != "query.offset" {
			t.Errorf("%s: %+v", query, p)
		}
	}
	if _, body := l.want(200, req{method: "GET", path: path + "?offset=14", header: bytesOnly}); string(body) != "line 2\nline 3\n" {
		t.Errorf("behind the gap: %q", body)
	}
	l.problem(416, errors.OutOfRange, req{method: "GET", path: path + "?offset=1000"})
}
