package gateway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/gateway/pkg/gateway"
)

func TestStreamRun(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	vm := l.vm().ID
	s := l.mustDial("/vms/" + vm + "/stream")
	s.send(start("cat"))
	started, _ := s.until(wire.ControlStarted)
	if started.ExecutionID == "" || started.PID == 0 || started.StdinOffset == nil || *started.StdinOffset != 0 {
		t.Fatalf("started %+v", started)
	}
	s.stdin(0, "one ")
	if ack, _ := s.until(wire.ControlStdinAck); ack.Offset != 4 {
		t.Fatalf("ack %+v", ack)
	}
	s.stdin(0, "one ") // again: taken once
	s.stdin(4, "two")
	s.stdin(wire.AppendOffset, "!")
	s.send(wire.ClientControl{Type: wire.ControlCloseStdin})
	exit, _ := s.until(wire.ControlExit)
	if exit.Exit == nil || exit.Exit.ExitCode != 0 || exit.Exit.OutputBytes != 8 {
		t.Fatalf("exit %+v", exit.Exit)
	}
	if code := s.closeCode(); code != websocket.StatusNormalClosure {
		t.Fatalf("closed with %d", code)
	}
	_, raw := l.want(200, req{method: "GET", path: "/executions/" + started.ExecutionID + "/output", header: map[string]string{"Accept": "application/octet-stream"}})
	if string(raw) != "one two!" {
		t.Fatalf("output %q", raw)
	}
}

func TestStreamControls(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	vm := l.vm().ID
	s := l.mustDial("/vms/" + vm + "/stream")
	s.send(start("wait"))
	s.until(wire.ControlStarted)
	s.send(wire.ClientControl{Type: wire.ControlSignal, Signal: "INT"})
	if exit, out := s.until(wire.ControlExit); exit.Exit.ExitCode != 130 || exit.Exit.Signal != 2 || out != "waiting\n" {
		t.Fatalf("exit %+v, output %q", exit.Exit, out)
	}

	p := l.mustDial("/vms/" + vm + "/stream")
	winch := start("winch")
	winch.PTY = &wire.PTYSize{Cols: 80, Rows: 24}
	p.send(winch)
	p.until(wire.ControlStarted)
	p.send(wire.ClientControl{Type: wire.ControlResize, Cols: 120, Rows: 50})
	f, err := p.next()
	if err != nil || f.kind != wire.FramePTY || string(f.data) != "120x50\n" {
		t.Fatalf("frame %+v, %v", f, err)
	}

	// What is wrong is told, and the stream goes on.
	e := l.mustDial("/vms/" + vm + "/stream")
	e.send(start("wait"))
	e.until(wire.ControlStarted)
	for _, bad := range []any{
		map[string]any{"type": "resize"}, map[string]any{"type": "nope"}, map[string]any{"type": "signal", "signal": "XX"}, map[string]any{"sort": "signal"},
	} {
		e.send(bad)
		for {
			f, err := e.next()
			if err != nil {
				t.Fatal(err)
			}
			if f.control != nil {
				if f.control.Type != wire.ControlError || f.control.Code != "invalid_argument" {
					t.Fatalf("%v: %+v", bad, f.control)
				}
				break
			}
		}
	}
	e.send(wire.ClientControl{Type: wire.ControlSignal, Signal: "15"})
	e.until(wire.ControlExit)
}

func TestStreamStartRefused(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	vm := l.vm().ID
	for _, tc := range []struct {
		name  string
		frame any
		code  string
		field string
	}{
		{"unknown program", start("none"), "invalid_argument", "args"},
		{"unknown field", map[string]any{"type": "start", "args": []string{"true"}, "foo": 1}, "invalid_argument", "start.foo"},
		{"no command", map[string]any{"type": "start"}, "invalid_argument", "args"},
		{"another type", map[string]any{"type": "resize"}, "invalid_argument", "start.type"},
		{"an array", []int{1}, "invalid_argument", "start"},
	} {
		s := l.mustDial("/vms/" + vm + "/stream")
		s.send(tc.frame)
		f, err := s.next()
		if err != nil || f.control == nil || f.control.Code != tc.code || f.control.Field != tc.field {
			t.Errorf("%s: %+v %+v, %v", tc.name, f, f.control, err)
		}
		if code := s.closeCode(); code != wire.CloseRefused {
			t.Errorf("%s: closed with %d", tc.name, code)
		}
	}
}

func TestStreamAuthAndOrigin(t *testing.T) {
	t.Parallel()
	l := newLab(t, func(c *gateway.Config, _ *gateway.Deps) { c.Origins = []string{"https://console.example"} })
	x := l.start(l.vm().ID, "wait")
	path := "/executions/" + x.ID + "/stream"
	for _, tc := range []struct {
		name      string
		header    http.Header
		protocols []string
		status    int
	}{
		{"bearer subprotocol", http.Header{}, []string{wire.Subprotocol, "bearer." + l.user}, 101},
		{"no key", http.Header{}, nil, 401},
		{"bad key as subprotocol", http.Header{}, []string{wire.Subprotocol, "bearer.aeth_x"}, 401},
		{"two keys", http.Header{"Authorization": {"Bearer " + l.admin}}, []string{"bearer." + l.user}, 400},
		{"another project", http.Header{"Authorization": {"Bearer " + l.other}}, nil, 404},
		{"own origin", http.Header{"Authorization": {"Bearer " + l.user}, "Origin": {"http://" + l.addr}}, nil, 101},
		{"configured origin", http.Header{"Authorization": {"Bearer " + l.user}, "Origin": {"https://console.example"}}, nil, 101},
		{"another origin", http.Header{"Authorization": {"Bearer " + l.user}, "Origin": {"https://evil.example"}}, nil, 403},
		{"a preview's origin", http.Header{"Authorization": {"Bearer " + l.user}, "Origin": {"http://80-" + x.VMID + ".aeth.localhost"}}, nil, 403},
		{"null origin", http.Header{"Authorization": {"Bearer " + l.user}, "Origin": {"null"}}, nil, 403},
	} {
		s, resp, err := l.dial(path, nil, tc.header, tc.protocols...)
		if resp == nil || resp.StatusCode != tc.status {
			t.Errorf("%s: %v, %v", tc.name, resp, err)
			continue
		}
		if tc.status == 101 && s.conn.Subprotocol() != wire.Subprotocol {
			t.Errorf("%s: subprotocol %q", tc.name, s.conn.Subprotocol())
		}
	}
}

func TestEventsStream(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	vm := l.vm()
	list := get[wire.EventList](l, 200, req{method: "GET", path: "/events"})
	if len(list.Items) != 2 || list.Last != 2 || list.Items[1].Type != "vm.running" || list.Items[1].VMID != vm.ID {
		t.Fatalf("events %+v", list)
	}
	fromStart, fromNow := l.mustDial("/events/stream?after=0"), l.mustDial("/events/stream")
	get[wire.VM](l, 200, req{method: "POST", path: "/vms/" + vm.ID + "/stop"})
	read := func(s *socket, n int) (types []string) {
		for range n {
			_, raw, err := s.conn.Read(s.ctx)
			if err != nil {
				t.Fatal(err)
			}
			var ev wire.Event
			if err := json.Unmarshal(raw, &ev); err != nil {
				t.Fatal(err)
			}
			types = append(types, ev.Type)
		}
		return types
	}
	if got := strings.Join(read(fromStart, 3), ","); got != "vm.created,vm.running,vm.stopped" {
		t.Fatalf("from the start: %s", got)
	}
	if got := strings.Join(read(fromNow, 1), ","); got != "vm.stopped" {
		t.Fatalf("from now: %s", got)
	}
	resp, err := l.client.Do(l.request(req{method: "GET", path: "/events/stream?after=0", header: map[string]string{"Accept": "text/event-stream", "Last-Event-ID": "2"}}))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var raw []byte
	for buf := make([]byte, 4096); !bytes.Contains(raw, []byte("vm.stopped")); {
		n, err := resp.Body.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		raw = append(raw, buf[:n]...)
	}
	if bytes.Contains(raw, []byte("vm.running")) || !bytes.Contains(raw, []byte("id: 3")) {
		t.Fatalf("Last-Event-ID was not kept to: %s", raw)
	}
	// A stream from now on says when that was before anything has happened.
	resp, err = l.client.Do(l.request(req{method: "GET", path: "/events/stream", header: map[string]string{"Accept": "text/event-stream"}}))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var first []byte
	for buf := make([]byte, 1); err == nil && !bytes.HasSuffix(first, []byte("id: 3\n\n")); first = append(first, buf...) {
		_, err = resp.Body.Read(buf)
	}
	if err != nil || resp.Header.Get(wire.HeaderEventCursor) != "3" {
		t.Errorf("it begins with %q, and after %q, %v", first, resp.Header.Get(wire.HeaderEventCursor), err)
	}
	if _, resp, err := l.dial("/events/stream", nil, http.Header{"Authorization": {"Bearer " + l.user}}); err != nil || resp.Header.Get(wire.HeaderEventCursor) != "3" {
		t.Errorf("a WebSocket: %v, %v", resp, err)
	}
}

// A reader that comes back with a cursor behind which events are not kept any more
// is told so; one that has missed none, and one that has no cursor, are not.
func TestEventsStreamTellsGaps(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	vm := l.vm()
	for _, to := range []string{"stop", "start", "stop"} { // 3, 4, 5
		get[wire.VM](l, 200, req{method: "POST", path: "/vms/" + vm.ID + "/" + to})
	}
	l.core.ForgetEvents(3)
	first := func(after string) (ev wire.Event) {
		s := l.mustDial("/events/stream?after=" + after)
		_, raw, err := s.conn.Read(s.ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(raw, &ev); err != nil {
			t.Fatal(err)
		}
		return ev
	}
	ev := first("1")
	var gap wire.EventGap
	if err := json.Unmarshal(ev.Data, &gap); err != nil || ev.Type != wire.TypeEventGap || ev.Seq != 3 || gap != (wire.EventGap{From: 1, To: 3}) {
		t.Errorf("behind a gap: %+v, %+v, %v", ev, gap, err)
	}
	for _, after := range []string{"0", "3"} {
		if ev := first(after); ev.Seq != 4 || ev.Type == wire.TypeEventGap {
			t.Errorf("after %s: %+v", after, ev)
		}
	}
	resp, err := l.client.Do(l.request(req{method: "GET", path: "/events/stream", header: map[string]string{"Accept": "text/event-stream", "Last-Event-ID": "2"}}))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var raw []byte
	for buf := make([]byte, 4096); !bytes.Contains(raw, []byte("id: 5")); {
		n, err := resp.Body.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		raw = append(raw, buf[:n]...)
	}
	if !bytes.Contains(raw, []byte("event: gap")) || !bytes.Contains(raw, []byte("id: 3")) || !bytes.Contains(raw, []byte("id: 4")) {
		t.Errorf("told as events: %s", raw)
	}
}

func TestWatch(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	vm := l.vm().ID
	files := "/vms/" + vm + "/files"
	get[wire.FileInfo](l, 200, req{method: "POST", path: files + "/mkdir", body: `{"path":"/w"}`})
	l.problem(404, errors.NotFound, req{method: "GET", path: files + "/watch?path=/none", header: map[string]string{"Accept": "text/event-stream"}})
	s := l.mustDial(files + "/watch?path=/w&recursive=true")
	get[wire.FileInfo](l, 200, req{method: "PUT", path: files + "?path=/w/a", body: []byte("x")})
	_, raw, err := s.conn.Read(s.ctx)
	if err != nil || string(raw) != `{"type":"write","path":"a"}` {
		t.Fatalf("%s, %v", raw, err)
	}
	get[wire.VM](l, 200, req{method: "DELETE", path: "/vms/" + vm})
	if code := s.closeCode(); code != websocket.StatusNormalClosure {
		t.Fatalf("the VM ended, the stream closed with %d", code)
	}
}

func TestStopTellsStreamsToComeBack(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	vm := l.vm().ID
	s := l.mustDial("/vms/" + vm + "/stream")
	s.send(start("wait"))
	started, _ := s.until(wire.ControlStarted)
	ev := l.mustDial("/events/stream")
	resp, err := l.client.Do(l.request(req{method: "GET", path: "/events/stream", header: map[string]string{"Accept": "text/event-stream"}}))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	stopped := make(chan error, 1)
	go func() { stopped <- l.server.Stop(context.Background()) }()
	if code := s.closeCode(); code != wire.CloseRestart {
		t.Errorf("the execution's stream closed with %d", code)
	}
	if code := ev.closeCode(); code != wire.CloseRestart {
		t.Errorf("the events' stream closed with %d", code)
	}
	if _, err := io.ReadAll(resp.Body); err != nil {
		t.Errorf("the SSE stream did not end cleanly: %v", err)
	}
	if err := <-stopped; err != nil {
		t.Errorf("stop: %v", err)
	}
	if err := l.server.Stop(context.Background()); err != nil {
		t.Errorf("second stop: %v", err)
	}
	x, err := l.core.GetExecution(t.Context(), vmm.Caller{ProjectID: l.project}, domain.ID(started.ExecutionID))
	if err != nil || x.State != domain.ExecutionRunning {
		t.Errorf("the command ended with its stream: %+v, %v", x, err)
	}
}

func TestStreamInputThatFails(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	vm := l.vm().ID
	// A hole in the input is not passed over: the stream ends, the command goes on.
	s := l.mustDial("/vms/" + vm + "/stream")
	s.send(start("cat"))
	started, _ := s.until(wire.ControlStarted)
	s.stdin(100, "late")
	s.send(wire.ClientControl{Type: wire.ControlCloseStdin})
	if f, err := s.next(); err != nil || f.control == nil || f.control.Code != string(errors.OutOfRange) {
		t.Fatalf("%+v, %v", f.control, err)
	}
	if code := s.closeCode(); code != wire.CloseRefused {
		t.Fatalf("closed with %d", code)
	}
	again := l.mustDial("/executions/" + started.ExecutionID + "/stream")
	if now, _ := again.until(wire.ControlStarted); now.StdinOffset == nil || *now.StdinOffset != 0 {
		t.Fatalf("started %+v", now)
	}
	again.stdin(0, "whole")
	again.send(wire.ClientControl{Type: wire.ControlCloseStdin})
	if _, out := again.until(wire.ControlExit); out != "whole" {
		t.Fatalf("output %q", out)
	}
	// A command without stdin says so, and its output goes on.
	mute := start("wait")
	mute.Stdin = false
	m := l.mustDial("/vms/" + vm + "/stream")
	m.send(mute)
	m.until(wire.ControlStarted)
	m.stdin(0, "anyone?")
	for {
		f, err := m.next()
		if err != nil {
			t.Fatal(err)
		}
		if f.control != nil {
			if f.control.Code != string(errors.InvalidArgument) {
				t.Fatalf("%+v", f.control)
			}
			break
		}
	}
	m.stdin(7, "hello?")
	m.send(wire.ClientControl{Type: wire.ControlSignal, Signal: "TERM"})
	m.until(wire.ControlExit)
}
