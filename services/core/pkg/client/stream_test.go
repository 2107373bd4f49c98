package client_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/internal/cli/apifake"
	"github.com/aetherium/aetherium/services/core/pkg/client"
)

func connect(t *testing.T, s *apifake.Server) *client.Client {
	t.Helper()
	c, err := client.New(client.Options{URL: s.URL(), Key: apifake.Key, Patience: 30 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func sh(script string) api.StartExecution {
	return api.StartExecution{Command: api.Command{Args: []string{"sh", "-c", script}}}
}

// drained is what a stream told.
type drained struct {
	out, err []byte
	gaps     []api.OutputGap
	exit     api.OutputExit
}

func drain(t *testing.T, s *client.Stream) drained {
	t.Helper()
	var d drained
	for {
		ev, err := s.Next(t.Context())
		if errors.Is(err, io.EOF) {
			return d
		}
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case ev.Exit != nil:
			d.exit = *ev.Exit
		case ev.Gap != nil:
			d.gaps = append(d.gaps, *ev.Gap)
		case ev.Kind == api.FrameStdout:
			d.out = append(d.out, ev.Data...)
		default:
			d.err = append(d.err, ev.Data...)
		}
	}
}

func seq(n int) []byte {
	var b []byte
	for i := 1; i <= n; i++ {
		b = append(strconv.AppendInt(b, int64(i), 10), '\n')
	}
	return b
}

func TestOutputSurvivesBrokenConnections(t *testing.T) {
	t.Parallel()
	s := apifake.New(t)
	s.Chop(150 << 10)
	c := connect(t, s)
	stream, err := c.Start(t.Context(), "web", sh("seq 1 150000; seq 1 50000 >&2; exit 7"), client.StreamOptions{})
	if err != nil {
		t.Fatal(err)
	}
	d := drain(t, stream)
	if sha256.Sum256(d.out) != sha256.Sum256(seq(150000)) {
		t.Errorf("stdout: %d bytes that are not those written", len(d.out))
	}
	if sha256.Sum256(d.err) != sha256.Sum256(seq(50000)) {
		t.Errorf("stderr: %d bytes that are not those written", len(d.err))
	}
	if d.exit.ExitCode != 7 {
		t.Errorf("exit code %d", d.exit.ExitCode)
	}
	if n := s.Started(); n != 1 {
		t.Errorf("the command ran %d times", n)
	}
	if n := len(s.Requests()); n < 3 {
		t.Errorf("only %d connections: nothing was broken", n)
	}
}

func TestInputSurvivesBrokenConnections(t *testing.T) {
	t.Parallel()
	s := apifake.New(t)
	s.Chop(200 << 10)
	c := connect(t, s)
	req := sh("cat")
	req.Stdin = true
	stream, err := c.Start(t.Context(), "web", req, client.StreamOptions{})
	if err != nil {
		t.Fatal(err)
	}
	in := make([]byte, 3<<20)
	random := rand.NewChaCha8([32]byte{1})
	_, _ = random.Read(in)
	sent := make(chan error, 1)
	go func() {
		for rest := in; len(rest) > 0; {
			n := min(len(rest), 1+rand.IntN(100_000))
			if _, err := stream.Write(rest[:n]); err != nil {
				sent <- err
				return
			}
			rest = rest[n:]
		}
		stream.CloseStdin()
		sent <- nil
	}()
	d := drain(t, stream)
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(d.out, in) {
		t.Errorf("%d bytes came back of %d, or others", len(d.out), len(in))
	}
	if d.exit.ExitCode != 0 {
		t.Errorf("exit code %d", d.exit.ExitCode)
	}
}

func TestStartsOnce(t *testing.T) {
	t.Parallel()
	s := apifake.New(t)
	s.Chop(1200) // many connections break during the handshake or the start
	c := connect(t, s)
	for i := range 20 {
		stream, err := c.Start(t.Context(), "web", sh("echo hello"), client.StreamOptions{})
		if err != nil {
			// The very first connection may break before anything was known of the server.
			if i == 0 && client.IsUnreachable(err) {
				continue
			}
			t.Fatal(err)
		}
		if d := drain(t, stream); string(d.out) != "hello\n" {
			t.Fatalf("output %q", d.out)
		}
	}
	if n := s.Started(); n < 19 || n > 20 {
		t.Errorf("20 commands ran %d times", n)
	}
}

func TestServerKilledAndStartedAgain(t *testing.T) {
	t.Parallel()
	for _, tell := range []bool{true, false} {
		s := apifake.New(t, func(s *apifake.Server) { s.TellStdin = tell })
		c := connect(t, s)
		req := sh("cat")
		req.Stdin = true
		away, back := 0, 0
		stream, err := c.Start(t.Context(), "web", req, client.StreamOptions{
			Waiting: func(time.Duration, error) { away++ },
			Back:    func(time.Duration) { back++ },
		})
		if err != nil {
			t.Fatal(err)
		}
		say := func(text string) {
			t.Helper()
			if _, err := io.WriteString(stream, text); err != nil {
				t.Fatal(err)
			}
		}
		hear := func(text string) {
			t.Helper()
			var got []byte
			for len(got) < len(text) {
				ev, err := stream.Next(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, ev.Data...)
			}
			if string(got) != text {
				t.Fatalf("got %q, want %q", got, text)
			}
		}
		say("one\n")
		hear("one\n")
		s.Kill()
		say("two\n") // while nobody is there
		ready := make(chan struct{})
		go func() {
			defer close(ready)
			s.Start()
		}()
		hear("two\n")
		<-ready
		say("three\n")
		stream.CloseStdin()
		if d := drain(t, stream); string(d.out) != "three\n" || d.exit.ExitCode != 0 {
			t.Fatalf("%q, %+v", d.out, d.exit)
		}
		if back == 0 {
			t.Error("nobody was told that the server is back")
		}
	}
}

func TestServerStaysAway(t *testing.T) {
	t.Parallel()
	s := apifake.New(t)
	c, err := client.New(client.Options{URL: s.URL(), Key: apifake.Key, Patience: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	stream, err := c.Start(t.Context(), "web", sh("echo hello; exec sleep 1000"), client.StreamOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if ev, err := stream.Next(t.Context()); err != nil || string(ev.Data) != "hello\n" {
		t.Fatalf("%q, %v", ev.Data, err)
	}
	s.Kill()
	_, err = stream.Next(t.Context())
	var e *errors.Error
	if !errors.As(err, &e) || e.Code != errors.Unavailable || !strings.Contains(e.Hint, "attach "+stream.ID()+" --offset 6") {
		t.Errorf("%v, hint %q", err, e.Hint)
	}
	stream.Close()
}

func TestNextCanBeGivenUpAndTakenUp(t *testing.T) {
	t.Parallel()
	c := connect(t, apifake.New(t))
	req := sh("cat")
	req.Stdin = true
	stream, err := c.Start(t.Context(), "web", req, client.StreamOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := stream.Next(ctx); !errors.HasCode(err, errors.Canceled) {
		t.Fatalf("got %v", err)
	}
	_, _ = io.WriteString(stream, "x\n")
	stream.CloseStdin()
	if d := drain(t, stream); string(d.out) != "x\n" {
		t.Fatalf("%q", d.out)
	}
}

func TestUnreadInputBlocksTheWriter(t *testing.T) {
	t.Parallel()
	c := connect(t, apifake.New(t))
	req := sh("exec sleep 1000")
	req.Stdin = true
	stream, err := c.Start(t.Context(), "web", req, client.StreamOptions{})
	if err != nil {
		t.Fatal(err)
	}
	const piece = 64 << 10
	written := make(chan int)
	last := make(chan error, 1)
	go func() {
		for n := 0; ; {
			k, err := stream.Write(make([]byte, piece))
			if err != nil {
				last <- err
				close(written)
				return
			}
			n += k
			written <- n
		}
	}()
	n := 0
	for n < api.StdinWindowBytes {
		n = <-written
	}
	stream.Close()
	for more := range written {
		n = more
	}
	if err := <-last; !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("got %v", err)
	}
	// The window, the host's pipe, and what was being written when it closed.
	if most := api.StdinWindowBytes + 3*piece; n > most {
		t.Errorf("%d bytes were taken that nobody read; the bound is %d", n, most)
	}
}

func TestAttachFromAnOffsetPastAGap(t *testing.T) {
	t.Parallel()
	s := apifake.New(t)
	c := connect(t, s)
	stream, err := c.Start(t.Context(), "web", sh("seq 1 9"), client.StreamOptions{})
	if err != nil {
		t.Fatal(err)
	}
	drain(t, stream)
	s.Forget(6)
	again, err := c.Attach(t.Context(), stream.ID(), client.StreamOptions{Offset: 2})
	if err != nil {
		t.Fatal(err)
	}
	d := drain(t, again)
	if string(d.out) != "4\n5\n6\n7\n8\n9\n" || len(d.gaps) != 1 || d.gaps[0] != (api.OutputGap{From: 2, To: 6}) {
		t.Errorf("%q, gaps %v", d.out, d.gaps)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	c := connect(t, apifake.New(t))
	for _, tc := range []struct {
		name, field string
		code        errors.Code
		do          func() error
	}{
		{"no such VM", "vm", errors.NotFound, func() error {
			_, err := c.Start(t.Context(), "nope", sh("true"), client.StreamOptions{})
			return err
		}},
		{"no such program", "args", errors.InvalidArgument, func() error {
			req := api.StartExecution{Command: api.Command{Args: []string{"no-such-program"}}}
			_, err := c.Start(t.Context(), "web", req, client.StreamOptions{})
			return err
		}},
		{"no such execution", "", errors.NotFound, func() error {
			_, err := c.Attach(t.Context(), "aaaaaaaaaaaaaaaaaaaa", client.StreamOptions{})
			return err
		}},
		{"a name that climbs", "vm", errors.NotFound, func() error {
			_, err := c.VM(t.Context(), "../status")
			return err
		}},
	} {
		err := tc.do()
		var e *errors.Error
		if !errors.As(err, &e) || e.Code != tc.code || e.Field != tc.field {
			t.Errorf("%s: got %v", tc.name, err)
		}
	}
}

func TestSignalReachesTheCommand(t *testing.T) {
	t.Parallel()
	c := connect(t, apifake.New(t))
	stream, err := c.Start(t.Context(), "web", sh(`trap 'echo got it; exit 3' USR1; echo ready; while :; do sleep 0.01; done`), client.StreamOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if ev, err := stream.Next(t.Context()); err != nil || string(ev.Data) != "ready\n" {
		t.Fatalf("%q, %v", ev.Data, err)
	}
	if err := stream.Signal("USR1"); err != nil {
		t.Fatal(err)
	}
	if d := drain(t, stream); string(d.out) != "got it\n" || d.exit.ExitCode != 3 {
		t.Errorf("%q, %+v", d.out, d.exit)
	}
}

// A server may send again what was told already, and must not skip anything.
func TestOverlapsAndHoles(t *testing.T) {
	t.Parallel()
	type step struct {
		offset int64
		data   string
	}
	for name, tc := range map[string]struct {
		connections [][]step
		want        string
		code        errors.Code
	}{
		"overlap":       {[][]step{{{0, "abc"}, {1, "bcd"}, {0, "ab"}, {4, "e"}}}, "abcde", ""},
		"hole, mended":  {[][]step{{{0, "abc"}, {10, "xyz"}}, {{3, "de"}}}, "abcde", ""},
		"hole for good": {[][]step{{{1, "x"}}, {{1, "x"}}, {{1, "x"}}, {{1, "x"}}}, "", errors.GuestFault},
	} {
		var mu sync.Mutex // one connection at a time
		var asked []string
		n := 0
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			asked = append(asked, r.URL.Query().Get("offset"))
			steps := tc.connections[n]
			n++
			ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{api.Subprotocol}})
			if err != nil {
				return
			}
			defer func() { _ = ws.CloseNow() }()
			_ = ws.Write(r.Context(), websocket.MessageText, []byte(`{"type":"started"}`))
			for _, s := range steps {
				_ = ws.Write(r.Context(), websocket.MessageBinary, api.AppendFrame(nil, api.FrameStdout, s.offset, []byte(s.data)))
			}
			if n == len(tc.connections) {
				_ = ws.Write(r.Context(), websocket.MessageText, []byte(`{"type":"exit","exit":{"exit_code":0}}`))
			}
			_, _, _ = ws.Read(r.Context()) // until the client is gone
		}))
		c, err := client.New(client.Options{URL: server.URL})
		if err != nil {
			t.Fatal(err)
		}
		stream, err := c.Attach(t.Context(), "aaaaaaaaaaaaaaaaaaaa", client.StreamOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var got []byte
		for {
			ev, e := stream.Next(t.Context())
			if err = e; err != nil {
				break
			}
			got = append(got, ev.Data...)
		}
		stream.Close()
		server.Close()
		if string(got) != tc.want || (tc.code == "" && !errors.Is(err, io.EOF)) || (tc.code != "" && !errors.HasCode(err, tc.code)) {
			t.Errorf("%s: %q, %v (asked for offsets %q)", name, got, err, asked)
		}
	}
}
