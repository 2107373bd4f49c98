package guest_test

import (
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
	"unicode"

	"connectrpc.com/connect"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/guest"
	guestv1 "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1"
	"github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1/guestv1connect"
	filesystempb "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/filesystem"
	"github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/filesystem/filesystempbconnect"
	"github.com/aetherium/aetherium/services/core/pkg/journal"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

type attachStream = connect.BidiStream[guestv1.AttachRequest, guestv1.AttachResponse]

// liar is an agent that its guest has replaced.
type liar struct {
	guestv1connect.UnimplementedExecutionServiceHandler
	attach   func(context.Context, *guestv1.AttachRequest, *attachStream) error
	watch    func(context.Context, *connect.ServerStream[guestv1.WatchResponse]) error
	attached atomic.Int64
	signals  atomic.Int64
}

func (l *liar) Attach(ctx context.Context, s *attachStream) error {
	l.attached.Add(1)
	first, err := s.Receive()
	if err != nil {
		return err
	}
	return l.attach(ctx, first, s)
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

// raw serves each connection by hand.
func raw(t testing.TB, f func(net.Conn)) guest.Dial {
	t.Helper()
	l := listen(t)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer func() { _ = c.Close() }(); f(c) }()
		}
	}()
	return dialer(l)
}

// frame is an HTTP/2 frame (RFC 9113 §4.1).
func frame(kind, flags byte, stream uint32, payload []byte) []byte {
	b := []byte{byte(len(payload) >> 16), byte(len(payload) >> 8), byte(len(payload)), kind, flags}
	return append(binary.BigEndian.AppendUint32(b, stream), payload...)
}

// TestNonsense is said by what is not even an agent.
func TestNonsense(t *testing.T) {
	t.Parallel()
	endless := func(c net.Conn, b []byte) {
		for {
			if _, err := c.Write(b); err != nil {
				return
			}
		}
	}
	swallow := func(c net.Conn) { go func() { _, _ = io.Copy(io.Discard, c) }() }
	for name, f := range map[string]func(net.Conn){
		"nothing":   func(c net.Conn) { _, _ = io.Copy(io.Discard, c) },
		"a hang-up": func(net.Conn) {},
		"noise":     func(c net.Conn) { swallow(c); endless(c, []byte("\xff\x00rubbish\r\n")) },
		"other HTTP": func(c net.Conn) {
			swallow(c)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
			_, _ = io.Copy(io.Discard, c)
		},
		"long headers": func(c net.Conn) {
			swallow(c)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n")
			endless(c, []byte("X-Header: value\r\n"))
		},
		"a long line": func(c net.Conn) {
			swallow(c)
			_, _ = io.WriteString(c, "HTTP/1.1 200 ")
			endless(c, []byte(strings.Repeat("x", 4096)))
		},
		"endless header blocks": func(c net.Conn) {
			swallow(c)
			_, _ = c.Write(frame(4, 0, 0, nil))                  // SETTINGS
			_, _ = c.Write(frame(1, 0, 1, []byte{0x88}))         // HEADERS, :status 200, more to come
			endless(c, frame(9, 0, 1, []byte("\x00\x01a\x01b"))) // CONTINUATION
		},
		"a huge frame": func(c net.Conn) {
			swallow(c)
			_, _ = c.Write(frame(4, 0, 0, nil))
			_, _ = c.Write([]byte{0xFF, 0xFF, 0xFF, 0, 0, 0, 0, 0, 1})
			endless(c, make([]byte, 4096))
		},
		"only keepalive": func(c net.Conn) {
			swallow(c)
			_, _ = c.Write(frame(4, 0, 0, nil))
			endless(c, frame(6, 0, 0, make([]byte, 8)))
		},
		"interim answers for ever": func(c net.Conn) {
			swallow(c)
			endless(c, []byte("HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			limit := 300 * time.Millisecond
			c := guest.New(raw(t, f), guest.Options{CallTimeout: limit, FileTimeout: limit})
			defer c.Close()
			calls := map[string]func() error{
				"handshake": func() error { _, err := c.Handshake(t.Context()); return err },
				"stat":      func() error { _, err := c.Stat(t.Context(), "/x", vmm.FileOptions{}); return err },
				"write": func() error {
					_, err := c.Write(t.Context(), "/x", strings.NewReader("x"), vmm.FileOptions{})
					return err
				},
				"tar down": func() error {
					body, err := c.TarDown(t.Context(), "/x", vmm.FileOptions{})
					if err == nil {
						_, err = io.Copy(io.Discard, body)
						_ = body.Close()
					}
					return err
				},
				"watch": func() error { _, err := c.Watch(t.Context(), "/x", false, vmm.FileOptions{}); return err },
				"port":  func() error { _, err := c.DialPort(t.Context(), 80); return err },
			}
			for call, f := range calls {
				err := f()
				if name == "other HTTP" && (call == "tar down" || call == "write") {
					continue // it is a proper answer, if a short one
				}
				if !errors.HasCode(err, errors.GuestFault) && !errors.HasCode(err, errors.Unavailable) {
					t.Errorf("%s: %v", call, err)
				}
			}
		})
	}
}

// lyingFiles answers file calls.
type lyingFiles struct {
	filesystempbconnect.UnimplementedFilesystemHandler
	entry *filesystempb.EntryInfo
	many  int
}

func (l *lyingFiles) Stat(context.Context, *connect.Request[filesystempb.StatRequest]) (*connect.Response[filesystempb.StatResponse], error) {
	return connect.NewResponse(&filesystempb.StatResponse{Entry: l.entry}), nil
}

func (l *lyingFiles) ListDir(context.Context, *connect.Request[filesystempb.ListDirRequest]) (*connect.Response[filesystempb.ListDirResponse], error) {
	return connect.NewResponse(&filesystempb.ListDirResponse{Entries: repeat(l.entry, l.many)}), nil
}

func filesAgent(t *testing.T, l *lyingFiles, endpoints map[string]http.HandlerFunc) *guest.Client {
	mux := http.NewServeMux()
	mux.Handle(filesystempbconnect.NewFilesystemHandler(l))
	for p, f := range endpoints {
		mux.HandleFunc(p, f)
	}
	c := guest.New(serve(t, mux), guest.Options{FileTimeout: 300 * time.Millisecond})
	t.Cleanup(c.Close)
	return c
}

func TestFilesOutOfBounds(t *testing.T) {
	t.Parallel()
	for name, entry := range map[string]*filesystempb.EntryInfo{
		"nothing":         nil,
		"no name":         {Path: "/x"},
		"a long name":     {Name: strings.Repeat("x", 10_000)},
		"a long target":   {Name: "x", SymlinkTarget: ptr(strings.Repeat("x", 10_000))},
		"a negative size": {Name: "x", Size: -1},
		"much metadata":   {Name: "x", Metadata: metadata(1000)},
	} {
		c := filesAgent(t, &lyingFiles{entry: entry, many: 1}, nil)
		if _, err := c.Stat(t.Context(), "/x", vmm.FileOptions{}); !errors.HasCode(err, errors.GuestFault) {
			t.Errorf("stat, %s: %v", name, err)
		}
		if _, err := c.List(t.Context(), "/x", 1, vmm.FileOptions{}); !errors.HasCode(err, errors.GuestFault) {
			t.Errorf("list, %s: %v", name, err)
		}
	}
	c := filesAgent(t, &lyingFiles{entry: &filesystempb.EntryInfo{Name: "x"}, many: 200_000}, nil)
	if _, err := c.List(t.Context(), "/x", 1, vmm.FileOptions{}); !errors.HasCode(err, errors.TooLarge) && !errors.HasCode(err, errors.GuestFault) {
		t.Errorf("a long list: %v", err)
	}
	huge := &filesystempb.EntryInfo{Name: strings.Repeat("x", 1<<20)}
	c = filesAgent(t, &lyingFiles{entry: huge, many: 60}, nil)
	if _, err := c.List(t.Context(), "/x", 1, vmm.FileOptions{}); !errors.HasCode(err, errors.GuestFault) {
		t.Errorf("a huge list: %v", err)
	}
}

func ptr[T any](v T) *T { return &v }

func metadata(n int) map[string]string {
	m := map[string]string{}
	for i := range n {
		m[fmt.Sprint(i)] = "x"
	}
	return m
}

// TestTransferLies answers transfers in wrong ways.
func TestTransferLies(t *testing.T) {
	t.Parallel()
	ten := &lyingFiles{entry: &filesystempb.EntryInfo{Name: "x", Size: 10, Type: filesystempb.FileType_FILE_TYPE_FILE}}
	readAll := func(c *guest.Client, o vmm.FileOptions) (string, error) {
		_, body, err := c.Read(t.Context(), "/x", o)
		if err != nil {
			return "", err
		}
		defer func() { _ = body.Close() }()
		b, err := io.ReadAll(body)
		return string(b), err
	}
	hang := func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
	for name, f := range map[string]http.HandlerFunc{
		"the whole for a part": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "0123456789") },
		"a body cut off": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "5")
			w.WriteHeader(http.StatusPartialContent)
			_, _ = io.WriteString(w, "01")
			panic(http.ErrAbortHandler)
		},
		"a body that hangs":       hang,
		"no answer":               func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"an error without reason": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) },
		"an error without end": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(404)
			for {
				if _, err := io.WriteString(w, "{\"message\":\"xxxxxxxxxxxx"); err != nil {
					return
				}
			}
		},
		"a code that is none": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(418)
			_, _ = io.WriteString(w, `{"code":"internal","message":"x"}`)
		},
		"another place to look at": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://169.254.169.254/", http.StatusFound)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := filesAgent(t, ten, map[string]http.HandlerFunc{"GET /aetherium/file": f, "PUT /aetherium/file": f})
			if got, err := readAll(c, vmm.FileOptions{Offset: 2, Length: 5}); !errors.HasCode(err, errors.GuestFault) {
				t.Errorf("read: %q, %v", got, err)
			}
			// More than sockets hold: who does not read it stalls the writer.
			_, err := c.Write(t.Context(), "/x", io.LimitReader(zeros{}, 64<<20), vmm.FileOptions{})
			if !errors.HasCode(err, errors.GuestFault) {
				t.Errorf("write: %v", err)
			}
		})
	}
	// More than was asked for is not passed on.
	c := filesAgent(t, ten, map[string]http.HandlerFunc{"GET /aetherium/file": func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusPartialContent)
		_, _ = io.WriteString(w, strings.Repeat("x", 1<<20))
	}})
	if got, err := readAll(c, vmm.FileOptions{Offset: 2, Length: 5}); err != nil || got != "xxxxx" {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestSlowCallerIsNotBlamedOnTheGuest takes its time between reads and writes.
func TestSlowCallerIsNotBlamedOnTheGuest(t *testing.T) {
	t.Parallel()
	ten := &lyingFiles{entry: &filesystempb.EntryInfo{Name: "x", Size: 10}}
	c := filesAgent(t, ten, map[string]http.HandlerFunc{
		"GET /aetherium/file": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "0123456789") },
		"PUT /aetherium/file": func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			_, _ = fmt.Fprintf(w, `{"name":"x","path":"/x","size":%d}`, len(b))
		},
	})
	info, err := c.Write(t.Context(), "/x", &slowReader{left: 3, pause: 400 * time.Millisecond}, vmm.FileOptions{})
	if err != nil || info.Size != 3 {
		t.Errorf("%+v, %v", info, err)
	}
	_, body, err := c.Read(t.Context(), "/x", vmm.FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = body.Close() }()
	time.Sleep(400 * time.Millisecond)
	if b, err := io.ReadAll(body); err != nil || string(b) != "0123456789" {
		t.Errorf("%q, %v", b, err)
	}
}

type slowReader struct {
	left  int
	pause time.Duration
}

func (r *slowReader) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	time.Sleep(r.pause)
	r.left--
	p[0] = 'x'
	return 1, nil
}
