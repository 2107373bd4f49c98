package guest_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
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
)

// tap notes how each connection to an agent begins.
type tap struct {
	dial guest.Dial

	mu     sync.Mutex
	begins []string
}

func (t *tap) open(ctx context.Context) (net.Conn, error) {
	conn, err := t.dial(ctx)
	if err != nil {
		return nil, err
	}
	return &tapped{Conn: conn, t: t}, nil
}

func (t *tap) all() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]string(nil), t.begins...)
}

type tapped struct {
	net.Conn
	t    *tap
	once sync.Once
}

func (c *tapped) Write(p []byte) (int, error) {
	c.once.Do(func() {
		c.t.mu.Lock()
		defer c.t.mu.Unlock()
		c.t.begins = append(c.t.begins, string(p[:min(len(p), len(lane.Hello))]))
	})
	return c.Conn.Write(p)
}

// TestNoHTTP: what a machine does to its first output, to the end of its command
// and to be saved needs no HTTP, which is a good part of it where that is emulated.
func TestNoHTTP(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	spy := &tap{dial: m.dial}
	client := guest.New(spy.open, guest.Options{})
	defer client.Close()
	if _, err := client.Handshake(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := client.Configure(t.Context(), guest.Config{Env: map[string]string{"WHO": "me"}}); err != nil {
		t.Fatal(err)
	}
	if got, err := client.Remembered(t.Context()); err != nil || len(got) != 0 {
		t.Fatalf("%v, %v", got, err)
	}
	if err := client.Quiesce(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := client.Thaw(t.Context()); err != nil {
		t.Fatal(err)
	}
	h := newHost(t, spy.open, newJournals(t), domain.NewID())
	if _, err := h.client.Handshake(t.Context()); err != nil {
		t.Fatal(err)
	}
	id := h.start(t, sh("echo $WHO; exit 3"))
	if got := h.output(t, id); got.stdout.String() != "me\n" || got.end.ExitCode != 3 {
		t.Errorf("%q, %+v", got.stdout.String(), got.end)
	}
	for _, begin := range spy.all() {
		if begin != lane.Hello {
			t.Errorf("a connection begins with %q", begin)
		}
	}
}

// TestCallsAreRefused: what the agent says of a call arrives as it does by HTTP.
func TestCallsAreRefused(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	client := guest.New(m.dial, guest.Options{})
	defer client.Close()
	if err := client.Assume(t.Context(), guest.Identity{Hostname: "x"}); !errors.HasCode(err, errors.Unsupported) || !strings.Contains(err.Error(), "kernel is not its own") {
		t.Errorf("%v", err)
	}
	id := domain.NewID()
	if err := client.Rename(t.Context(), map[domain.ID]domain.ID{id: domain.NewID()}); !errors.HasCode(err, errors.NotFound) {
		t.Errorf("%v", err)
	}
}

// TestEveryCallIsKnown: no call that the host makes by frames is one that the agent
// has by HTTP only, which the host would ask then, and nobody notice.
func TestEveryCallIsKnown(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	conn, err := m.dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	caller := lane.NewCaller(conn)
	ask := func(method lane.Method) error {
		if err := caller.Call(method, nil); err != nil {
			t.Fatal(err)
		}
		_, err := caller.Answer(1 << 10)
		return err
	}
	for method := lane.Handshake; method <= lane.Shutdown; method++ {
		if method == lane.Watch || method == lane.Attach {
			continue // these have no one answer
		}
		var refused *connect.Error
		if err := ask(method); err != nil && (!errors.As(err, &refused) || strings.Contains(refused.Message(), "no call")) {
			t.Errorf("call %d: %v", method, err)
		}
	}
	if err := ask(lane.Shutdown + 1); err == nil || !strings.Contains(err.Error(), "no call") {
		t.Errorf("one that there is not: %v", err)
	}
}

// older is an agent that knows no calls.
type older struct {
	guestv1connect.UnimplementedMachineServiceHandler
}

func (older) Handshake(context.Context, *connect.Request[guestv1.HandshakeRequest]) (*connect.Response[guestv1.HandshakeResponse], error) {
	return connect.NewResponse(&guestv1.HandshakeResponse{Protocol: 1, AgentVersion: "older"}), nil
}

func (older) Configure(_ context.Context, req *connect.Request[guestv1.ConfigureRequest]) (*connect.Response[guestv1.ConfigureResponse], error) {
	if req.Msg.GetDefaultUser() != "somebody" {
		return nil, connect.NewError(connect.CodeInvalidArgument, errors.Plain("not told whole"))
	}
	return connect.NewResponse(&guestv1.ConfigureResponse{}), nil
}

// TestOlderAgent: one from before there were calls is asked by HTTP, and asked
// for them once.
func TestOlderAgent(t *testing.T) {
	t.Parallel()
	mux := http.NewServeMux()
	mux.Handle(guestv1connect.NewMachineServiceHandler(older{}))
	spy := &tap{dial: serve(t, mux)}
	client := guest.New(spy.open, guest.Options{})
	defer client.Close()
	if a, err := client.Handshake(t.Context()); err != nil || a.Version != "older" {
		t.Fatalf("%+v, %v", a, err)
	}
	for range 2 {
		if err := client.Configure(t.Context(), guest.Config{DefaultUser: "somebody"}); err != nil {
			t.Fatal(err)
		}
	}
	asked := 0
	for _, begin := range spy.all() {
		if begin == lane.Hello {
			asked++
		}
	}
	if asked != 1 {
		t.Errorf("asked for calls %d times", asked)
	}
}

// fewCalls answers the calls by frames that there were at first, and all else by HTTP.
type fewCalls struct {
	older
	quiesced, thawed atomic.Int32
}

func (f *fewCalls) Quiesce(context.Context, *connect.Request[guestv1.QuiesceRequest]) (*connect.Response[guestv1.QuiesceResponse], error) {
	f.quiesced.Add(1)
	return connect.NewResponse(&guestv1.QuiesceResponse{}), nil
}

func (f *fewCalls) Thaw(context.Context, *connect.Request[guestv1.ThawRequest]) (*connect.Response[guestv1.ThawResponse], error) {
	f.thawed.Add(1)
	return connect.NewResponse(&guestv1.ThawResponse{}), nil
}

// serve gives the way to one.
func (f *fewCalls) serve(t testing.TB) guest.Dial {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle(guestv1connect.NewMachineServiceHandler(f))
	byHTTP := serve(t, mux)
	return accepting(t, func(conn net.Conn) { f.sort(conn, byHTTP) })
}

func (f *fewCalls) sort(conn net.Conn, byHTTP guest.Dial) {
	begin := make([]byte, len(lane.Hello))
	if _, err := io.ReadFull(conn, begin); err != nil {
		return
	}
	if string(begin) != lane.Hello {
		other, err := byHTTP(context.Background())
		if err != nil {
			return
		}
		defer func() { _ = other.Close() }()
		_, _ = other.Write(begin)
		go func() { _, _ = io.Copy(other, conn) }()
		_, _ = io.Copy(conn, other)
		return
	}
	callee := lane.NewCallee(conn, conn)
	for {
		method, _, err := callee.Next()
		if err != nil {
			return
		}
		if method == lane.Handshake {
			err = callee.Answer(&guestv1.HandshakeResponse{Protocol: 1, AgentVersion: "newer"})
		} else {
			err = callee.Refuse(connect.CodeUnimplemented, "there is no such call")
		}
		if err != nil {
			return
		}
	}
}

// TestAgentOfFewCalls: what an agent knows by HTTP only, as one that rests in a
// memory from before there was a call for it, it is asked by HTTP.
func TestAgentOfFewCalls(t *testing.T) {
	t.Parallel()
	var f fewCalls
	client := guest.New(f.serve(t), guest.Options{})
	defer client.Close()
	if a, err := client.Handshake(t.Context()); err != nil || a.Version != "newer" {
		t.Fatalf("%+v, %v", a, err)
	}
	for range 2 {
		if err := client.Quiesce(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := client.Thaw(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if q, th := f.quiesced.Load(), f.thawed.Load(); q != 2 || th != 2 {
		t.Errorf("quiesced %d times, thawed %d times", q, th)
	}
	// What is as old as the calls themselves has no other way.
	if err := client.Hold(t.Context()); !errors.HasCode(err, errors.Unsupported) {
		t.Errorf("%v", err)
	}
}

// TestQuiesceIsAskedOnce: hooks are not run again because the answer was lost, so it
// is asked on a connection that nothing else was asked on.
func TestQuiesceIsAskedOnce(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	dial := accepting(t, func(conn net.Conn) {
		callee := lane.NewCallee(conn, conn)
		if _, err := io.ReadFull(conn, make([]byte, len(lane.Hello))); err != nil {
			return
		}
		for {
			method, _, err := callee.Next()
			if err != nil {
				return
			}
			if method == lane.Quiesce {
				asked.Add(1)
				return // it dies of it
			}
			if callee.Answer(&guestv1.HandshakeResponse{Protocol: 1}) != nil {
				return
			}
		}
	})
	client := guest.New(dial, guest.Options{})
	defer client.Close()
	if _, err := client.Handshake(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := client.Quiesce(t.Context()); !errors.HasCode(err, errors.Unavailable) {
		t.Errorf("%v", err)
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

// TestCallsAfterABreak: a connection that broke while nobody used it is not told.
func TestCallsAfterABreak(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	client := guest.New(m.dial, guest.Options{})
	defer client.Close()
	for range 3 {
		if _, err := client.Handshake(t.Context()); err != nil {
			t.Fatal(err)
		}
		m.cut()
	}
}

// TestCallsAtOnce: calls do not wait for one another.
func TestCallsAtOnce(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	client := guest.New(m.dial, guest.Options{})
	defer client.Close()
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if _, err := client.Remembered(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

// accepting is an agent that serves each connection as it is told, and closes it.
func accepting(t testing.TB, serve func(net.Conn)) guest.Dial {
	t.Helper()
	l := listen(t)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = conn.Close() }()
				serve(conn)
			}()
		}
	}()
	t.Cleanup(func() { _ = l.Close() })
	return dialer(l)
}

// liarOfCalls answers calls with bytes of its own.
func liarOfCalls(t testing.TB, says []byte) guest.Dial {
	t.Helper()
	return accepting(t, func(conn net.Conn) {
		if _, err := io.ReadFull(conn, make([]byte, len(lane.Hello)+6)); err != nil {
			return
		}
		_, _ = conn.Write(says)
		_, _ = io.Copy(io.Discard, conn)
	})
}

// TestLyingAnswers: whatever an agent answers, the host has an error, in time.
func TestLyingAnswers(t *testing.T) {
	t.Parallel()
	for name, says := range map[string][]byte{
		"silence":           nil,
		"a message of 4 GB": {1, 0xff, 0xff, 0xff, 0xff},
		"half a message":    {1, 0, 0, 0, 9, 'x'},
		"no frame":          []byte("nonsense"),
		"no protobuf":       append([]byte{1, 0, 0, 0, 64}, bytes.Repeat([]byte{0xff}, 64)...),
		"an unknown error":  append([]byte{3, 0, 0, 0, 6}, 0, 0, 0, 99, 'h', 'i'),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := guest.New(liarOfCalls(t, says), guest.Options{CallTimeout: 300 * time.Millisecond})
			defer client.Close()
			if _, err := client.Handshake(t.Context()); !errors.HasCode(err, errors.GuestFault) && !errors.HasCode(err, errors.Unavailable) {
				t.Errorf("%v", err)
			}
			if _, err := client.Remembered(t.Context()); !errors.HasCode(err, errors.GuestFault) && !errors.HasCode(err, errors.Unavailable) {
				t.Errorf("%v", err)
			}
		})
	}
}

// slowToHear is a machine that takes long to hear what it is told first.
type slowToHear struct {
	guestv1connect.UnimplementedMachineServiceHandler
	tellings []time.Time // what it was told
}

func (s *slowToHear) tell(ns int64) {
	if s.tellings = append(s.tellings, time.Unix(0, ns)); len(s.tellings) == 1 {
		time.Sleep(700 * time.Millisecond)
	}
}

func (s *slowToHear) Assume(_ context.Context, req *connect.Request[guestv1.AssumeRequest]) (*connect.Response[guestv1.AssumeResponse], error) {
	s.tell(req.Msg.GetHostTimeUnixNs())
	return connect.NewResponse(&guestv1.AssumeResponse{}), nil
}

func (s *slowToHear) Thaw(_ context.Context, req *connect.Request[guestv1.ThawRequest]) (*connect.Response[guestv1.ThawResponse], error) {
	s.tell(req.Msg.GetHostTimeUnixNs())
	return connect.NewResponse(&guestv1.ThawResponse{}), nil
}

// TestTimeThatIsOld: a machine that was slow to hear who it is does not stay behind by as much.
func TestTimeThatIsOld(t *testing.T) {
	t.Parallel()
	var m slowToHear
	mux := http.NewServeMux()
	mux.Handle(guestv1connect.NewMachineServiceHandler(&m))
	client := guest.New(serve(t, mux), guest.Options{})
	defer client.Close()
	if err := client.Assume(t.Context(), guest.Identity{Hostname: "x"}); err != nil {
		t.Fatal(err)
	}
	if n := len(m.tellings); n < 2 || m.tellings[n-1].Sub(m.tellings[0]) < 700*time.Millisecond {
		t.Errorf("it was told %s", m.tellings)
	}
}
