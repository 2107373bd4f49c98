package guest_test

import (
	"context"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode"

	"connectrpc.com/connect"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/guest"
	guestv1 "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1"
	"github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1/guestv1connect"
	"github.com/aetherium/aetherium/services/core/pkg/journal"
)

type attachStream = connect.BidiStream[guestv1.AttachRequest, guestv1.AttachResponse]

// liar is an agent that its guest has replaced.
type liar struct {
	guestv1connect.UnimplementedExecutionServiceHandler
	attach   func(context.Context, *guestv1.AttachRequest, *attachStream) error
	watch    func(context.Context, *connect.ServerStream[guestv1.WatchResponse]) error
	list     []*guestv1.ExecutionInfo
	attached atomic.Int64
}

func (l *liar) Attach(ctx context.Context, s *attachStream) error {
	l.attached.Add(1)
	first, err := s.Receive()
	if err != nil {
		return err
	}
	return l.attach(ctx, first, s)
}

func (l *liar) List(context.Context, *connect.Request[guestv1.ListRequest]) (*connect.Response[guestv1.ListResponse], error) {
	return connect.NewResponse(&guestv1.ListResponse{Executions: l.list}), nil
}

func (l *liar) Watch(ctx context.Context, _ *connect.Request[guestv1.WatchRequest], s *connect.ServerStream[guestv1.WatchResponse]) error {
	if l.watch != nil {
		return l.watch(ctx, s)
	}
	<-ctx.Done()
	return ctx.Err()
}

// serve runs a handler as the agent.
func serve(t testing.TB, h http.Handler) guest.Dial {
	t.Helper()
	p := new(http.Protocols)
	p.SetHTTP1(true)
	p.SetUnencryptedHTTP2(true)
	l := listen(t)
	s := &http.Server{Handler: h, Protocols: p}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close(); <-done })
	return dialer(l)
}

func dialer(l net.Listener) guest.Dial {
	return func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", l.Addr().String())
	}
}

func (l *liar) dial(t testing.TB) guest.Dial {
	mux := http.NewServeMux()
	mux.Handle(guestv1connect.NewExecutionServiceHandler(l))
	return serve(t, mux)
}

func started(pid int32) *guestv1.AttachResponse {
	return &guestv1.AttachResponse{Response: &guestv1.AttachResponse_Started_{Started: &guestv1.AttachResponse_Started{Pid: pid}}}
}

func output(offset int64, stream guestv1.Stream, data string) *guestv1.AttachResponse {
	return &guestv1.AttachResponse{Response: &guestv1.AttachResponse_Output_{Output: &guestv1.AttachResponse_Output{
		Offset: offset, Stream: stream, Data: []byte(data),
	}}}
}

func ended(code int32, total int64) *guestv1.AttachResponse {
	return &guestv1.AttachResponse{Response: &guestv1.AttachResponse_End{End: &guestv1.End{ExitCode: code, OutputBytes: total}}}
}

func stdinAck(offset int64) *guestv1.AttachResponse {
	return &guestv1.AttachResponse{Response: &guestv1.AttachResponse_StdinAck_{StdinAck: &guestv1.AttachResponse_StdinAck{Offset: offset}}}
}

// TestBrokenProtocol: an agent that breaks the rules loses its execution, at
// once and with a reason. What it said before is kept.
func TestBrokenProtocol(t *testing.T) {
	t.Parallel()
	const out = guestv1.Stream_STREAM_STDOUT
	for name, says := range map[string][]*guestv1.AttachResponse{
		"output before the start":        {output(0, out, "x")},
		"an end before the start":        {ended(0, 0)},
		"an ack before the start":        {stdinAck(0)},
		"no process":                     {started(0)},
		"a negative process":             {started(-1)},
		"two starts":                     {started(1), started(1)},
		"nothing in a message":           {started(1), {}},
		"a hole at the start":            {started(1), output(5, out, "x")},
		"a hole":                         {started(1), output(0, out, "abc"), output(4, out, "x")},
		"a step back":                    {started(1), output(0, out, "abc"), output(2, out, "cd")},
		"the same again":                 {started(1), output(0, out, "abc"), output(0, out, "abc")},
		"a negative offset":              {started(1), output(-1, out, "x")},
		"an offset at the end of time":   {started(1), output(1<<63-1, out, "x")},
		"empty output":                   {started(1), output(0, out, "")},
		"no stream":                      {started(1), output(0, 0, "x")},
		"an unknown stream":              {started(1), output(0, 77, "x")},
		"an end too early":               {started(1), output(0, out, "abc"), ended(0, 2)},
		"an end without the output":      {started(1), ended(0, 1000)},
		"a negative end":                 {started(1), ended(0, -1)},
		"an exit code that is none":      {started(1), ended(70000, 0)},
		"a negative exit code":           {started(1), ended(-1, 0)},
		"input that nobody sent":         {started(1), stdinAck(10)},
		"more input taken than sent":     {{Response: &guestv1.AttachResponse_Started_{Started: &guestv1.AttachResponse_Started{Pid: 1, StdinOffset: -5}}}},
		"the same input again and again": append([]*guestv1.AttachResponse{started(1)}, repeat(stdinAck(0), 100)...),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := &liar{attach: func(ctx context.Context, _ *guestv1.AttachRequest, s *attachStream) error {
				for _, m := range says {
					if err := s.Send(m); err != nil {
						return err
					}
				}
				<-ctx.Done() // it does not even hang up
				return ctx.Err()
			}}
			h := newHost(t, l.dial(t), newJournals(t), domain.NewID())
			id := domain.NewID()
			_, err := h.Start(t.Context(), guest.StartRequest{ID: id, Command: sh("true")})
			if err != nil && !errors.HasCode(err, errors.GuestFault) {
				t.Errorf("start: %v", err)
			}
			end, err := h.Wait(t.Context(), id)
			if err != nil || !strings.Contains(end.LostReason, "guest agent") {
				t.Errorf("%+v, %v", end, err)
			}
			if name == "a hole" {
				if got := h.output(t, id); got.stdout.String() != "abc" {
					t.Errorf("%q is left of what it said", got.stdout.String())
				}
			}
		})
	}
}

func repeat[T any](v T, n int) []T {
	out := make([]T, n)
	for i := range out {
		out[i] = v
	}
	return out
}

// TestAttachmentsThatEnd: hanging up is no lie, but not for ever.
func TestAttachmentsThatEnd(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*attachStream) error{
		"in silence": func(*attachStream) error { return nil },
		"with errors": func(*attachStream) error {
			return connect.NewError(connect.CodeInternal, errors.Plain("boo\x1b[31m"+strings.Repeat("x", 10_000)))
		},
		"with a message too large": func(s *attachStream) error {
			return s.Send(output(0, guestv1.Stream_STREAM_STDOUT, strings.Repeat("x", 5<<20)))
		},
		"by not knowing it": func(*attachStream) error { return connect.NewError(connect.CodeNotFound, errors.Plain("who?")) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := &liar{attach: func(_ context.Context, first *guestv1.AttachRequest, s *attachStream) error {
				if first.GetStart() != nil {
					return s.Send(started(1)) // and hangs up
				}
				if err := s.Send(started(1)); err != nil {
					return err
				}
				return end(s)
			}}
			if strings.HasPrefix(name, "by not") {
				l.attach = func(_ context.Context, first *guestv1.AttachRequest, s *attachStream) error {
					if first.GetStart() != nil {
						return s.Send(started(1))
					}
					return end(s)
				}
			}
			h := newHost(t, l.dial(t), newJournals(t), domain.NewID())
			id := h.start(t, sh("true"))
			got, err := h.Wait(t.Context(), id)
			if err != nil || !strings.Contains(got.LostReason, "guest agent") || len(got.LostReason) > 1024 || strings.ContainsFunc(got.LostReason, unicode.IsControl) {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

func TestStartThatIsNotConfirmed(t *testing.T) {
	t.Parallel()
	killed := make(chan struct{}, 10)
	l := &liar{attach: func(ctx context.Context, first *guestv1.AttachRequest, s *attachStream) error {
		if first.GetStart() != nil {
			<-ctx.Done() // it hangs, though the command runs
			return ctx.Err()
		}
		if err := s.Send(started(7)); err != nil {
			return err
		}
		for {
			m, err := s.Receive()
			if err != nil {
				return err
			}
			if m.GetSignal().GetNumber() == 9 {
				killed <- struct{}{}
				return s.Send(ended(137, 0))
			}
		}
	}}
	client := guest.New(l.dial(t), guest.Options{})
	journals, vm := newJournals(t), domain.NewID()
	s := guest.Open(guest.SessionConfig{Client: client, Journals: journals, VM: vm, StartTimeout: 200 * time.Millisecond})
	defer s.Close()
	id := domain.NewID()
	if _, err := s.Start(t.Context(), guest.StartRequest{ID: id, Command: sh("true")}); !errors.HasCode(err, errors.GuestFault) {
		t.Fatalf("got %v, want guest_fault", err)
	}
	<-killed // should it have started: it does not go on
	j, err := journals.Lookup(journal.Key{VM: vm, Execution: id})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	if end, ok := j.Ended(); !ok || end.LostReason == "" {
		t.Errorf("its journal: %+v, %v", end, ok)
	}
	// It is not started by a second try either.
	if _, err := s.Start(t.Context(), guest.StartRequest{ID: id, Command: sh("true")}); !errors.HasCode(err, errors.Conflict) {
		t.Errorf("the second start: %v", err)
	}
}

// A start that is confirmed in the very moment in which it is given up is either
// followed to its end or told as not confirmed.
func TestStartThatIsConfirmedAsItIsGivenUp(t *testing.T) {
	t.Parallel()
	const limit = 5 * time.Millisecond
	l := &liar{attach: func(ctx context.Context, first *guestv1.AttachRequest, s *attachStream) error {
		if first.GetStart() != nil {
			time.Sleep(limit)
		}
		if err := s.Send(started(7)); err != nil {
			return err
		}
		time.Sleep(limit)
		return s.Send(ended(0, 0))
	}}
	s := guest.Open(guest.SessionConfig{Client: guest.New(l.dial(t), guest.Options{}), Journals: newJournals(t), VM: domain.NewID(), StartTimeout: limit})
	defer s.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for range 300 {
		id := domain.NewID()
		switch _, err := s.Start(ctx, guest.StartRequest{ID: id, Command: sh("true")}); {
		case err == nil:
			if end, err := s.Wait(ctx, id); err != nil || end != (domain.ExecutionEnd{}) {
				t.Fatalf("confirmed, and then %+v, %v", end, err)
			}
		case !errors.HasCode(err, errors.GuestFault):
			t.Fatal(err)
		}
	}
}

// A start whose caller has gone goes on, and it is told if nothing came of it.
func TestStartThatFailsWithoutItsCaller(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]func(context.Context) error{
		"refused":        func(context.Context) error { return connect.NewError(connect.CodeInvalidArgument, errors.Plain("no")) },
		"never answered": func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, leave := context.WithCancel(t.Context())
			left := make(chan struct{})
			l := &liar{attach: func(ctx context.Context, first *guestv1.AttachRequest, s *attachStream) error {
				if first.GetStart() == nil { // it is killed, should it run
					return s.Send(ended(137, 0))
				}
				leave()
				<-left
				return answer(ctx)
			}}
			type refusal struct {
				id  domain.ID
				why error
			}
			refused := make(chan refusal, 2)
			s := guest.Open(guest.SessionConfig{
				Client: guest.New(l.dial(t), guest.Options{}), Journals: newJournals(t), VM: domain.NewID(), StartTimeout: time.Second,
				Hooks: guest.Hooks{OnRefused: func(id domain.ID, why error) { refused <- refusal{id, why} }},
			})
			defer s.Close()
			id := domain.NewID()
			if _, err := s.Start(ctx, guest.StartRequest{ID: id, Command: sh("true")}); !errors.HasCode(err, errors.Canceled) {
				t.Fatalf("for who has gone: %v", err)
			}
			close(left)
			select {
			case got := <-refused:
				if got.id != id || got.why == nil {
					t.Errorf("told of %+v", got)
				}
			case <-time.After(time.Minute):
				t.Fatal("nothing is told")
			}
		})
	}
}

func TestRefusedStartLeavesNothing(t *testing.T) {
	t.Parallel()
	for code, want := range map[connect.Code]errors.Code{
		connect.CodeInvalidArgument:   errors.InvalidArgument,
		connect.CodeUnauthenticated:   errors.InvalidArgument,
		connect.CodeResourceExhausted: errors.CapacityExhausted,
		connect.CodePermissionDenied:  errors.PermissionDenied,
		connect.CodeUnavailable:       errors.Unavailable,
		connect.CodeNotFound:          errors.NotFound,
	} {
		l := &liar{attach: func(context.Context, *guestv1.AttachRequest, *attachStream) error {
			return connect.NewError(code, errors.Plain("no\x00\n"+strings.Repeat("y", 100_000)))
		}}
		h := newHost(t, l.dial(t), newJournals(t), domain.NewID())
		_, err := h.Start(t.Context(), guest.StartRequest{ID: domain.NewID(), Command: sh("true")})
		if !errors.HasCode(err, want) {
			t.Errorf("%s: %v, want %s", code, err, want)
		}
		if text := errors.Public(err).Message; len(text) > 2048 || strings.ContainsFunc(text, unicode.IsControl) {
			t.Errorf("%s: its text passes unchecked: %d bytes", code, len(text))
		}
		if n := len(h.journals.List()); n != 0 {
			t.Errorf("%s: %d journals are left", code, n)
		}
	}
}

// TestFlood: an agent that claims more executions than may be costs no more
// than the bound.
func TestFlood(t *testing.T) {
	t.Parallel()
	const bound = 20
	flooded := make(chan struct{})
	l := &liar{
		attach: func(ctx context.Context, _ *guestv1.AttachRequest, s *attachStream) error {
			if err := s.Send(started(1)); err != nil {
				return err
			}
			<-ctx.Done()
			return ctx.Err()
		},
		watch: func(ctx context.Context, s *connect.ServerStream[guestv1.WatchResponse]) error {
			for i := range 5000 {
				info := &guestv1.ExecutionInfo{ExecutionId: string(domain.NewID()), Pid: 1, Foreign: true}
				switch i % 5 {
				case 1:
					info.ExecutionId = "../../../etc/passwd"
				case 2:
					info.Pid = -1
				case 3:
					info.Command = &guestv1.Command{Tag: strings.Repeat("\x1b", 10_000), TimeoutMs: -1, Pty: &guestv1.TerminalSize{Cols: 1 << 31}}
				case 4:
					info = nil
				}
				if err := s.Send(&guestv1.WatchResponse{Execution: info}); err != nil {
					return err
				}
			}
			select {
			case flooded <- struct{}{}:
			case <-ctx.Done():
			}
			<-ctx.Done()
			return ctx.Err()
		},
	}
	journals := newJournals(t)
	s := guest.Open(guest.SessionConfig{
		Client: guest.New(l.dial(t), guest.Options{}), Journals: journals, VM: domain.NewID(), MaxExecutions: bound,
	})
	defer s.Close()
	<-flooded
	if n := s.Running(); n > bound {
		t.Errorf("%d executions are supervised", n)
	}
	if n := len(journals.List()); n > bound+1 { // one may be on its way
		t.Errorf("%d journals", n)
	}
}

// TestForeignInputIsNews: a client may give a process of its own as much input
// as it likes, of which the agent tells bit by bit. What it tells twice is still
// no news.
func TestForeignInputIsNews(t *testing.T) {
	t.Parallel()
	const bits = 500
	forward, again := []*guestv1.AttachResponse{started(1)}, []*guestv1.AttachResponse{started(1)}
	for i := range int64(bits) {
		forward = append(forward, stdinAck(i+1))
		again = append(again, stdinAck(1))
	}
	for name, says := range map[string][]*guestv1.AttachResponse{"bit by bit": append(forward, ended(4, 0)), "the same": again} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := &liar{
				attach: func(ctx context.Context, _ *guestv1.AttachRequest, s *attachStream) error {
					for _, m := range says {
						if err := s.Send(m); err != nil {
							return err
						}
					}
					<-ctx.Done()
					return ctx.Err()
				},
				watch: func(ctx context.Context, s *connect.ServerStream[guestv1.WatchResponse]) error {
					info := &guestv1.ExecutionInfo{ExecutionId: string(domain.NewID()), Pid: 1, Foreign: true, Command: &guestv1.Command{Args: []string{"cat"}, Stdin: true}}
					if err := s.Send(&guestv1.WatchResponse{Execution: info}); err != nil {
						return err
					}
					<-ctx.Done()
					return ctx.Err()
				},
			}
			h := newHost(t, l.dial(t), newJournals(t), domain.NewID())
			end, err := h.Wait(t.Context(), (<-h.started).ID)
			switch {
			case err != nil:
				t.Error(err)
			case name == "bit by bit" && (end.ExitCode != 4 || end.LostReason != ""):
				t.Errorf("the process was given up: %+v", end)
			case name == "the same" && !strings.Contains(end.LostReason, "again and again"):
				t.Errorf("the process ended with %+v", end)
			}
		})
	}
}

// TestForeignIDsAreOwn: an agent cannot reach another execution's journal by
// choosing its ID.
func TestForeignIDsAreOwn(t *testing.T) {
	t.Parallel()
	victim := domain.NewID()
	claim := make(chan bool, 2)
	l := &liar{
		attach: func(ctx context.Context, first *guestv1.AttachRequest, s *attachStream) error {
			if err := s.Send(started(1)); err != nil {
				return err
			}
			if first.GetStart() == nil {
				return s.Send(output(0, guestv1.Stream_STREAM_STDOUT, "forged"))
			}
			<-ctx.Done()
			return ctx.Err()
		},
		watch: func(ctx context.Context, s *connect.ServerStream[guestv1.WatchResponse]) error {
			for {
				select {
				case foreign := <-claim:
					err := s.Send(&guestv1.WatchResponse{Execution: &guestv1.ExecutionInfo{ExecutionId: string(victim), Pid: 1, Foreign: foreign}})
					if err != nil {
						return err
					}
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		},
	}
	journals := newJournals(t)
	h := newHost(t, l.dial(t), journals, domain.NewID())
	if _, err := h.Start(t.Context(), guest.StartRequest{ID: victim, Command: sh("true")}); err != nil {
		t.Fatal(err)
	}
	<-h.started
	other := newHost(t, l.dial(t), journals, domain.NewID()) // another VM with the same journals
	claim <- true
	claim <- false
	found := false
	for !found {
		select {
		case st := <-h.started:
			found = st.Foreign
			if st.ID == victim {
				t.Error("the foreign execution has the ID that its agent chose")
			}
		case st := <-other.started:
			found = st.Foreign
			if st.ID == victim {
				t.Error("the foreign execution has another VM's ID")
			}
		}
	}
	j, err := journals.Lookup(journal.Key{VM: h.vm, Epoch: 1, Execution: victim})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	if n := j.NextOffset(); n != 0 {
		t.Errorf("%d bytes were written into the victim's journal", n)
	}
}
