package guest_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/guest"
	guestv1 "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1"
	"github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1/guestv1connect"
	"github.com/aetherium/aetherium/services/core/pkg/guest/lane"
	"github.com/aetherium/aetherium/services/core/pkg/journal"
)

const much = 8 << 20

// seq writes at least so many bytes, each line another.
func seq(bytes int) string { return fmt.Sprintf("seq 1000000 %d", 1000000+bytes/8) }

func seqText(bytes int) string {
	var b strings.Builder
	for i := 1000000; i <= 1000000+bytes/8; i++ {
		fmt.Fprintln(&b, i)
	}
	return b.String()
}

// awaitDials waits until the channel was opened more than n times.
func awaitDials(t *testing.T, m *machine, n int) {
	t.Helper()
	for m.dialled() <= n {
		if t.Context().Err() != nil {
			t.FailNow()
		}
		time.Sleep(time.Millisecond)
	}
}

// A command that writes much gets a connection of its own. Input and signals
// take the same way then.
func TestLane(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	h := newHost(t, m.dial, newJournals(t), domain.NewID())
	before := m.dialled()
	c := sh(seq(much) + "; read line; echo $line; exec sleep 1000")
	c.Stdin = true
	id := h.start(t, c)
	awaitDials(t, m, before)
	if err := h.WriteStdin(t.Context(), id, -1, []byte("input\n")); err != nil {
		t.Fatal(err)
	}
	if err := h.Signal(t.Context(), id, 15); err != nil {
		t.Fatal(err)
	}
	got := h.output(t, id)
	if want := seqText(much); !strings.HasPrefix(want+"input\n", got.stdout.String()) || got.end.Signal != 15 {
		t.Errorf("%d bytes of %d, or not the right ones; %+v", got.stdout.Len(), len(want), got.end)
	}
}

// The lane breaks: everything goes on as before it, and comes once.
func TestLaneBreaks(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	h := newHost(t, m.dial, newJournals(t), domain.NewID())
	before := m.dialled()
	id := h.start(t, sh(seq(much)+"; sleep 0.1; "+seq(much)+"; exit 3"))
	for range 3 {
		awaitDials(t, m, before)
		before = m.dialled()
		m.cut()
	}
	if got, want := h.output(t, id), seqText(much)+seqText(much); got.stdout.String() != want || got.end.ExitCode != 3 {
		t.Errorf("%d bytes of %d, or not the right ones; %+v", got.stdout.Len(), len(want), got.end)
	}
}

// A signal that was sent may be on its way still: its attachment stays.
func TestNoLaneAfterASignal(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	var lanes atomic.Int32
	// Had the agent answered a call before the start, the command had a lane from there on.
	older := before(m.dial)
	h := newHost(t, func(ctx context.Context) (net.Conn, error) {
		c, err := older(ctx)
		return &laneCounter{Conn: c, lanes: &lanes}, err
	}, newJournals(t), domain.NewID())
	c := sh("trap '' USR1; echo ready; read line; " + seq(much) + "; read line")
	c.Stdin = true
	id := h.start(t, c)
	r, err := h.journals.Read(journal.Key{VM: h.vm, Epoch: 1, Execution: id}, 0, true)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	if _, err := r.Next(t.Context()); err != nil { // "ready"
		t.Fatal(err)
	}
	if err := h.Signal(t.Context(), id, 10); err != nil {
		t.Fatal(err)
	}
	if err := h.WriteStdin(t.Context(), id, -1, []byte("\n")); err != nil {
		t.Fatal(err)
	}
	want := "ready\n" + seqText(much)
	for n := len("ready\n"); n < len(want); {
		rec, err := r.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		n += len(rec.Data)
	}
	if n := lanes.Load(); n != 0 {
		t.Errorf("%d lanes were opened", n)
	}
	if err := h.CloseStdin(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if got := h.output(t, id); got.stdout.String() != want {
		t.Errorf("%d bytes of %d, or not the right ones", got.stdout.Len(), len(want))
	}
}

// laneCounter counts the connections that become lanes, by how they begin.
type laneCounter struct {
	net.Conn
	lanes *atomic.Int32
}

func (c *laneCounter) Write(p []byte) (int, error) {
	byCall := []byte(lane.Hello + "\x04\x00\x00\x00\x01" + string(rune(lane.Attach)))
	if bytes.HasPrefix(p, []byte("POST "+lane.Path+" ")) || bytes.HasPrefix(p, byCall) {
		c.lanes.Add(1)
	}
	return c.Conn.Write(p)
}

// before makes of a channel one to an agent that knows lanes of one execution only, and
// no calls.
func before(dial guest.Dial) guest.Dial {
	return func(ctx context.Context) (net.Conn, error) {
		c, err := dial(ctx)
		return &forgetful{Conn: c}, err
	}
}

type forgetful struct{ net.Conn }

func (c *forgetful) Write(p []byte) (int, error) {
	p = bytes.Clone(p)
	if bytes.HasPrefix(p, []byte(lane.Hello)) {
		p[0] = 'X' // which no agent knows
	}
	_, err := c.Conn.Write(bytes.Replace(p, []byte(lane.HeaderMany), []byte("X"), 1))
	return len(p), err
}

// One lane serves one command after another, and nothing of one is the next's. Where it
// breaks, whatever runs goes on, and comes once.
func TestALaneForMany(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	var lanes atomic.Int32
	h := newHost(t, func(ctx context.Context) (net.Conn, error) {
		c, err := m.dial(ctx)
		return &laneCounter{Conn: c, lanes: &lanes}, err
	}, newJournals(t), domain.NewID())
	run := func(n int, during func()) {
		t.Helper()
		c := sh(fmt.Sprintf("echo out%d; cat; echo err%d >&2; exit %d", n, n, n))
		c.Stdin = true
		id := h.start(t, c)
		during()
		if err := h.WriteStdin(t.Context(), id, -1, []byte(strings.Repeat("in", n))); err != nil {
			t.Fatal(err)
		}
		if err := h.CloseStdin(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		got, want := h.output(t, id), fmt.Sprintf("out%d\n%s", n, strings.Repeat("in", n))
		if got.stdout.String() != want || got.stderr.String() != fmt.Sprintf("err%d\n", n) || got.end.ExitCode != n {
			t.Fatalf("command %d: %+v", n, got)
		}
	}
	waits := func() {
		t.Helper()
		for h.client.Spares() == 0 {
			if t.Context().Err() != nil {
				t.Fatal("no lane waits")
			}
			time.Sleep(time.Millisecond)
		}
	}
	run(1, func() {})
	waits()
	first := lanes.Load()
	for n := 2; n < 20; n++ {
		run(n, func() {})
		waits()
	}
	if n := lanes.Load(); n != first || n == 0 {
		t.Errorf("%d lanes more were opened for 18 commands", n-first)
	}
	for n := 20; n < 23; n++ {
		run(n, m.cut)
		waits()
	}
	m.cut() // the one that waits
	run(23, func() {})
}

// What is said of an execution behind its end does nothing to the next one of its lane.
// One that has not ended makes room for no other.
func TestTheEndOnALane(t *testing.T) {
	t.Parallel()
	h, conn := openMany(t, newMachine(t))
	begin := func(id domain.ID, stdin bool, script string) {
		t.Helper()
		sent := h.Send(&guestv1.AttachRequest{Request: &guestv1.AttachRequest_Start_{Start: &guestv1.AttachRequest_Start{
			ExecutionId: string(id), Command: &guestv1.Command{Args: []string{"/bin/sh", "-c", script}, Stdin: stdin},
		}}})
		if sent != nil {
			t.Fatal(sent)
		}
		if r, err := h.Receive(); err != nil || r.GetStarted().GetPid() < 1 {
			t.Fatalf("the start: %v, %v", r, err)
		}
	}
	begin(domain.NewID(), true, "exit 3")
	for {
		r, err := h.Receive()
		if err != nil {
			t.Fatal(err)
		}
		if end := r.GetEnd(); end != nil {
			if end.GetExitCode() != 3 {
				t.Errorf("the first: %v", end)
			}
			break
		}
	}
	for _, late := range []*guestv1.AttachRequest{
		{Request: &guestv1.AttachRequest_Stdin_{Stdin: &guestv1.AttachRequest_Stdin{Data: []byte("late")}}},
		{Request: &guestv1.AttachRequest_CloseStdin_{CloseStdin: &guestv1.AttachRequest_CloseStdin{Offset: 4}}},
		{Request: &guestv1.AttachRequest_Ack_{Ack: &guestv1.AttachRequest_Ack{Offset: 1 << 40}}},
		{Request: &guestv1.AttachRequest_Signal{Signal: &guestv1.AttachRequest_SignalGroup{Number: 9}}},
	} {
		if err := h.Send(late); err != nil {
			t.Fatal(err)
		}
	}
	begin(domain.NewID(), true, "cat")
	if err := h.Send(&guestv1.AttachRequest{Request: &guestv1.AttachRequest_Stdin_{Stdin: &guestv1.AttachRequest_Stdin{Data: []byte("own")}}}); err != nil {
		t.Fatal(err)
	}
	for {
		r, err := h.Receive()
		if err != nil {
			t.Fatal(err)
		}
		if out := r.GetOutput(); out != nil {
			if string(out.GetData()) != "own" || out.GetOffset() != 0 {
				t.Errorf("the second: %v", out)
			}
			break
		}
	}
	if err := h.Send(&guestv1.AttachRequest{Request: &guestv1.AttachRequest_Start_{Start: &guestv1.AttachRequest_Start{
		ExecutionId: string(domain.NewID()), Command: &guestv1.Command{Args: []string{"true"}},
	}}}); err != nil {
		t.Fatal(err)
	}
	for {
		_, err := h.Receive()
		if connect.IsWireError(err) && connect.CodeOf(err) == connect.CodeInvalidArgument {
			break
		}
		if err != nil {
			t.Fatalf("a third beside the second: %v", err)
		}
	}
	_ = conn.Close()
}

// openMany opens a lane by hand.
func openMany(t *testing.T, m *machine) (*lane.Host, net.Conn) {
	t.Helper()
	conn, err := m.dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	const ask = "POST " + lane.Path + " HTTP/1.1\r\nHost: agent\r\nConnection: Upgrade\r\nUpgrade: " + lane.Protocol + "\r\n" + lane.HeaderMany + ": " + lane.Many + "\r\n\r\n"
	if _, err := io.WriteString(conn, ask); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get(lane.HeaderMany) != lane.Many || r.Buffered() > 0 {
		t.Fatalf("%+v, %v", resp, err)
	}
	return lane.NewHost(conn), conn
}

// With an agent that is older than lanes for many, a lane waits after a command for the
// next, which takes it and leaves another behind; one that has broken meanwhile costs
// nothing but time.
func TestSpareLane(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	h := newHost(t, before(m.dial), newJournals(t), domain.NewID())
	cat := sh("echo -n 'said '; cat; exit 3")
	cat.Stdin = true
	run := func(input string) {
		t.Helper()
		id := h.start(t, cat)
		if err := h.WriteStdin(t.Context(), id, -1, []byte(input)); err != nil {
			t.Fatal(err)
		}
		if err := h.CloseStdin(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if got := h.output(t, id); got.stdout.String() != "said "+input || got.end.ExitCode != 3 {
			t.Errorf("%+v", got)
		}
	}
	run("")
	awaitDials(t, m, 1)
	for _, input := range []string{"", "a", strings.Repeat("much ", 100_000)} {
		// One that takes the lane leaves another; it may not be ready yet.
		for before := m.dialled(); m.dialled() == before; {
			run(input)
		}
	}
	for range 3 {
		m.cut()
		run("after all")
	}
}

// chatter is an agent whose command never ends to write.
func chatter(total int64) *liar {
	return &liar{attach: func(_ context.Context, first *guestv1.AttachRequest, s *attachStream) error {
		if err := s.Send(started(1)); err != nil {
			return err
		}
		piece := strings.Repeat("x", 64<<10)
		at := first.GetResume().GetOffset()
		for ; at < total; at += int64(len(piece)) {
			if err := s.Send(output(at, guestv1.Stream_STREAM_STDOUT, piece[:min(int64(len(piece)), total-at)])); err != nil {
				return err
			}
		}
		return s.Send(ended(0, total))
	}}
}

// An agent that is older than lanes goes on without.
func TestNoLanes(t *testing.T) {
	t.Parallel()
	l := chatter(much)
	h := newHost(t, l.dial(t), newJournals(t), domain.NewID())
	id := h.start(t, sh("true"))
	if got := h.output(t, id); got.stdout.Len() != much || got.end != (domain.ExecutionEnd{}) {
		t.Errorf("%d bytes, %+v", got.stdout.Len(), got.end)
	}
	if n := l.attached.Load(); n != 2 {
		t.Errorf("attached %d times", n)
	}
}

// An agent that breaks the protocol on a lane does not get further by it than
// it would elsewhere.
func TestBrokenLane(t *testing.T) {
	t.Parallel()
	frame := func(kind byte, payload string) string {
		return string(binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(payload)))) + payload
	}
	piece := func(offset int64, data string) string {
		return frame(2, "\x01"+string(binary.BigEndian.AppendUint64(nil, uint64(offset)))+data)
	}
	const confirmed = "\x01\x00\x00\x00\x04\x0a\x02\x08\x01" // started, process 1
	for name, says := range map[string]string{
		"output before the start": piece(0, "x"),
		"a hole":                  confirmed + piece(1<<40, "x"),
		"a step back":             confirmed + piece(0, "x") + piece(0, "x"),
		"empty output":            confirmed + piece(3<<20, ""),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mux := http.NewServeMux()
			mux.Handle(guestv1connect.NewExecutionServiceHandler(chatter(1 << 50)))
			mux.HandleFunc(lane.Path, func(w http.ResponseWriter, _ *http.Request) {
				conn, _, err := http.NewResponseController(w).Hijack()
				if err != nil {
					return
				}
				defer func() { _ = conn.Close() }()
				_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"+says)
				_, _ = io.Copy(io.Discard, conn) // it does not even hang up
			})
			h := newHost(t, serve(t, mux), newJournals(t), domain.NewID())
			id, err := h.Start(t.Context(), guest.StartRequest{ID: domain.NewID(), Command: sh("true")})
			if err != nil {
				t.Fatal(err)
			}
			end, err := h.Wait(t.Context(), id.ID)
			if err != nil || end.LostReason == "" || !strings.Contains(end.LostReason, "broke the protocol") {
				t.Errorf("%+v, %v", end, errors.Public(err))
			}
		})
	}
}
