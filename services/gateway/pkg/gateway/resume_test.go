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
	"github.com/aetherium/aetherium/services/gateway/internal/fake"
	"github.com/aetherium/aetherium/services/gateway/pkg/gateway"
)

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
	_, _ = rand.NewChaCha8([32]byte{byte(seed)}).Read(want)
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
	program, want := noise(16<<20, 44)
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
	// The server gives the stream up once the socket's buffers are full, and logs it.
	if err := l.log.await(t.Context(), `"route":"/vms/{vm}/stream"`); err != nil {
		t.Fatal(err)
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
