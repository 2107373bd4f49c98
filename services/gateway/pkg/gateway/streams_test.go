package gateway_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/gateway/internal/fake"
	"github.com/aetherium/aetherium/services/gateway/pkg/gateway"
)

// socket is a client of a stream.
type socket struct {
	t    testing.TB
	conn *websocket.Conn
	ctx  context.Context
}

func (l *lab) dial(path string, client *http.Client, header http.Header, protocols ...string) (*socket, *http.Response, error) {
	l.t.Helper()
	if header == nil {
		header = http.Header{"Authorization": {"Bearer " + l.admin}}
	}
	if protocols == nil {
		protocols = []string{wire.Subprotocol}
	}
	if client == nil {
		client = l.client
	}
	c, resp, err := websocket.Dial(l.t.Context(), "ws://"+l.addr+wire.BasePath+path, &websocket.DialOptions{HTTPClient: client, HTTPHeader: header, Subprotocols: protocols})
	if err != nil {
		return nil, resp, err
	}
	c.SetReadLimit(8 << 20)
	l.t.Cleanup(func() { _ = c.CloseNow() })
	return &socket{l.t, c, l.t.Context()}, resp, nil
}

func (l *lab) mustDial(path string) *socket {
	l.t.Helper()
	s, _, err := l.dial(path, nil, nil)
	if err != nil {
		l.t.Fatal(err)
	}
	return s
}

func (s *socket) send(v any) {
	s.t.Helper()
	text, _ := json.Marshal(v)
	if err := s.conn.Write(s.ctx, websocket.MessageText, text); err != nil {
		s.t.Fatal(err)
	}
}

func (s *socket) stdin(offset int64, data string) {
	s.t.Helper()
	if err := s.conn.Write(s.ctx, websocket.MessageBinary, wire.AppendFrame(nil, wire.FrameStdin, offset, []byte(data))); err != nil {
		s.t.Fatal(err)
	}
}

// frame is what arrives: data or a control.
type frame struct {
	kind    wire.FrameKind
	offset  int64
	data    []byte
	control *wire.ServerControl
}

func (s *socket) next() (frame, error) {
	kind, raw, err := s.conn.Read(s.ctx)
	if err != nil {
		return frame{}, err
	}
	if kind == websocket.MessageText {
		var c wire.ServerControl
		return frame{control: &c}, json.Unmarshal(raw, &c)
	}
	k, off, data, err := wire.ParseFrame(raw)
	return frame{kind: k, offset: off, data: data}, err
}

func (s *socket) until(control string) (c wire.ServerControl, output string) {
	s.t.Helper()
	var all bytes.Buffer
	for {
		f, err := s.next()
		if err != nil {
			s.t.Fatalf("waiting for %s: %v", control, err)
		}
		if f.control == nil {
			all.Write(f.data)
			continue
		}
		if f.control.Type == control {
			return *f.control, all.String()
		}
		if f.control.Type == wire.ControlError {
			s.t.Fatalf("waiting for %s: %+v", control, *f.control)
		}
	}
}

func (s *socket) closeCode() websocket.StatusCode {
	for {
		if _, err := s.next(); err != nil {
			return websocket.CloseStatus(err)
		}
	}
}

func start(args ...string) wire.StartControl {
	return wire.StartControl{Type: wire.ControlStart, StartExecution: wire.StartExecution{Command: wire.Command{Args: args}, Stdin: true}}
}

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

// cutter is a client's network that breaks after a number of bytes.
func (l *lab) cutter(after int64) *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", l.addr)
		return &cutConn{Conn: c, left: after}, err
	}}}
}

type cutConn struct {
	net.Conn
	left int64
}

func (c *cutConn) Read(p []byte) (int, error) {
	if c.left <= 0 {
		_ = c.Close()
		return 0, io.ErrUnexpectedEOF
	}
	n, err := c.Conn.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	return n, err
}

// noise is a program that writes a known, uneven output while its readers come and go.
func noise(size int, seed uint64) (fake.Program, []byte) {
	want := make([]byte, size)
	r := rand.New(rand.NewPCG(seed, 1))
	for i := range want {
		want[i] = byte(r.Uint32())
	}
	return func(p *fake.Process) int {
		r := rand.New(rand.NewPCG(seed, 2))
		for rest := want; len(rest) > 0; {
			n := min(1+r.IntN(20_000), len(rest))
			w := p.Stdout
			if n%3 == 0 {
				w = p.Stderr
			}
			_, _ = w.Write(rest[:n])
			rest = rest[n:]
		}
		return 7
	}, want
}

func TestStreamResumesWithoutLossOrRepeat(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	vm := l.vm().ID
	program, want := noise(3<<20, 42)
	l.core.Program("noise", program)
	id := domain.NewID().String()
	cmd := start("noise")
	cmd.ID = id
	var got []byte
	cuts := 0
	for r := rand.New(rand.NewPCG(7, 7)); ; {
		after := 300 + int64(r.IntN(200_000))
		if cuts > 40 {
			after = 1 << 30
		}
		// By turns: the start again with an offset, and attaching to the execution.
		path := "/vms/" + vm + "/stream"
		if cuts%2 == 1 {
			path = fmt.Sprintf("/executions/%s/stream?offset=%d", id, len(got))
		}
		s, _, err := l.dial(path, l.cutter(after), nil)
		if err != nil {
			cuts++
			continue
		}
		if cuts%2 == 0 {
			cmd.Offset = int64(len(got))
			s.send(cmd)
		}
		var exit *wire.OutputExit
		for exit == nil {
			f, err := s.next()
			if err != nil {
				break
			}
			switch {
			case f.control == nil:
				if f.offset != int64(len(got)) {
					t.Fatalf("offset %d, expected %d", f.offset, len(got))
				}
				got = append(got, f.data...)
			case f.control.Type == wire.ControlExit:
				exit = f.control.Exit
			case f.control.Type != wire.ControlStarted:
				t.Fatalf("control %+v", f.control)
			}
		}
		if exit != nil {
			if exit.ExitCode != 7 || exit.OutputBytes != int64(len(want)) {
				t.Fatalf("exit %+v", exit)
			}
			break
		}
		cuts++
	}
	if sha256.Sum256(got) != sha256.Sum256(want) {
		t.Fatalf("%d bytes arrived, %d were written; they differ", len(got), len(want))
	}
	if cuts < 10 {
		t.Fatalf("only %d cuts: the test tests nothing", cuts)
	}
}

func TestSSEResumesWithoutLossOrRepeat(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	vm := l.vm().ID
	program, want := noise(1<<20, 43)
	l.core.Program("noise", program)
	x := get[wire.Execution](l, 201, req{method: "POST", path: "/vms/" + vm + "/executions", body: `{"args":["noise"]}`})
	var got []byte
	last, exits, cuts := "", 0, 0
	for r := rand.New(rand.NewPCG(8, 8)); exits == 0; cuts++ {
		after := 400 + int64(r.IntN(150_000))
		if cuts > 40 {
			after = 1 << 30
		}
		rq := l.request(req{method: "GET", path: "/executions/" + x.ID + "/events", header: map[string]string{"Accept": "text/event-stream"}})
		if last != "" {
			rq.Header.Set("Last-Event-ID", last)
		}
		resp, err := l.cutter(after).Do(rq)
		if err != nil {
			continue
		}
		raw, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		for _, block := range completeEvents(raw) {
			if block["event"] == "" {
				continue
			}
			var ev wire.OutputEvent
			if err := json.Unmarshal([]byte(block["data"]), &ev); err != nil {
				t.Fatal(err)
			}
			last = block["id"]
			if ev.End != nil {
				exits++
				continue
			}
			if ev.Offset != int64(len(got)) || block["event"] != ev.Stream || last != fmt.Sprint(ev.NextOffset) {
				t.Fatalf("event %v at %d, expected %d", block["id"], ev.Offset, len(got))
			}
			got = append(got, ev.Data...)
		}
	}
	if !bytes.Equal(got, want) || exits != 1 || cuts < 5 || last != "end" {
		t.Fatalf("%d of %d bytes, %d exits, %d cuts, last ID %s", len(got), len(want), exits, cuts, last)
	}
	l.want(http.StatusNoContent, req{method: "GET", path: "/executions/" + x.ID + "/events", header: map[string]string{"Last-Event-ID": "end"}})
	l.problem(400, errors.InvalidArgument, req{method: "GET", path: "/executions/" + x.ID + "/events", header: map[string]string{"Last-Event-ID": "-3"}})
}

// completeEvents takes the events that arrived whole, as a browser does.
func completeEvents(raw []byte) (out []map[string]string) {
	blocks := strings.Split(string(raw), "\n\n")
	for _, b := range blocks[:len(blocks)-1] {
		ev := map[string]string{}
		for line := range strings.SplitSeq(b, "\n") {
			if k, v, ok := strings.Cut(line, ": "); ok {
				ev[k] = v
			}
		}
		out = append(out, ev)
	}
	return out
}

func TestStartAsSSE(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	vm := l.vm().ID
	_, raw := l.want(200, req{method: "POST", path: "/vms/" + vm + "/executions", body: `{"args":["echo","hi"]}`, header: map[string]string{"Accept": "text/event-stream"}})
	var names []string
	for _, ev := range completeEvents(raw) {
		if ev["event"] != "" {
			names = append(names, ev["event"])
		}
	}
	if strings.Join(names, ",") != "started,stdout,exit" {
		t.Fatalf("events %v in %s", names, raw)
	}
}

func TestSlowReaderSlowsOnlyItself(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	vm := l.vm().ID
	program, want := noise(24<<20, 44)
	l.core.Program("noise", program)
	slow := l.mustDial("/vms/" + vm + "/stream") // takes the start, then nothing
	cmd := start("noise")
	cmd.ID = domain.NewID().String()
	slow.send(cmd)
	slow.until(wire.ControlStarted)
	fast := l.mustDial("/executions/" + cmd.ID + "/stream")
	sum := sha256.New()
	for {
		f, err := fast.next()
		if err != nil {
			t.Fatal(err)
		}
		sum.Write(f.data)
		if f.control != nil && f.control.Type == wire.ControlExit {
			break
		}
	}
	if !bytes.Equal(sum.Sum(nil), hash(want)) {
		t.Fatal("the fast reader's output differs")
	}
	slow.conn.SetReadLimit(1 << 20)
	_, rest := slow.until(wire.ControlExit)
	if !bytes.Equal(hash([]byte(rest)), hash(want)) {
		t.Fatalf("the slow reader's output differs: %d bytes of %d", len(rest), len(want))
	}
}

func hash(p []byte) []byte { s := sha256.Sum256(p); return s[:] }

func TestStalledReaderIsCutOffAndResumes(t *testing.T) {
	t.Parallel()
	l := newLab(t, func(c *gateway.Config, _ *gateway.Deps) { c.Stall = 200 * time.Millisecond })
	vm := l.vm().ID
	program, want := noise(32<<20, 45)
	l.core.Program("noise", program)
	s := l.mustDial("/vms/" + vm + "/stream")
	cmd := start("noise")
	cmd.ID = domain.NewID().String()
	s.send(cmd)
	s.until(wire.ControlStarted)
	// The server gives the stream up once the socket's buffers are full: it is
	// then counted out.
	for open := true; open; {
		_, body := l.want(200, req{method: "GET", path: "/metrics"})
		open = !strings.Contains(string(body), `aetherium_streams_open{kind="execution"} 0`)
	}
	var got []byte
	for {
		f, err := s.next()
		if err != nil {
			break // cut off
		}
		got = append(got, f.data...)
	}
	if len(got) == len(want) {
		t.Fatal("nothing was cut off: the test tests nothing")
	}
	for exited := false; !exited; { // a loaded machine may stall again
		again := l.mustDial(fmt.Sprintf("/executions/%s/stream?offset=%d", cmd.ID, len(got)))
		for !exited {
			f, err := again.next()
			if err != nil {
				break
			}
			got = append(got, f.data...)
			exited = f.control != nil && f.control.Type == wire.ControlExit
		}
	}
	if !bytes.Equal(got, want) {
		t.Fatal("after resuming, the output differs")
	}
}

func TestStdinIsBoundedWhileNobodyReads(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	vm := l.vm().ID
	release := make(chan struct{})
	total := make(chan int64, 1)
	l.core.Program("lazy", func(p *fake.Process) int {
		<-release
		n, _ := io.Copy(io.Discard, p.Stdin)
		total <- n
		return 0
	})
	s := l.mustDial("/vms/" + vm + "/stream")
	s.send(start("lazy"))
	s.until(wire.ControlStarted)
	const frames, size = 200, 128 << 10 // 25 MiB: far beyond the window and the socket's buffers
	sent := make(chan int, frames)
	go func() {
		piece := strings.Repeat("z", size)
		for i := range frames {
			if s.conn.Write(s.ctx, websocket.MessageBinary, wire.AppendFrame(nil, wire.FrameStdin, int64(i)*size, []byte(piece))) != nil {
				return
			}
			sent <- i
		}
		s.send(wire.ClientControl{Type: wire.ControlCloseStdin})
	}()
	// The writer comes to a halt before all is sent: wait until it stands still
	// for as long as a healthy loopback never would.
	for count := -1; count != len(sent); {
		count = len(sent)
		select {
		case <-time.After(300 * time.Millisecond):
		case <-t.Context().Done():
		}
	}
	if len(sent) == frames {
		t.Fatal("the server took everything: its memory is not bounded")
	}
	close(release)
	s.until(wire.ControlExit)
	if n := <-total; n != frames*size {
		t.Fatalf("%d bytes of stdin arrived, want %d", n, frames*size)
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
