package straight_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aetherium/aetherium/services/gateway/internal/straight"
)

// lab is a transport with a server that does what a test wants on each connection.
type lab struct {
	t        *testing.T
	address  string
	accepted atomic.Int32
	closed   chan struct{} // one for each connection that the client has closed
	rested   atomic.Int32  // requests that went to Rest
	*straight.Transport
}

// newLab serves connections; n is the connection's number, from 1. It is closed after serve.
func newLab(t *testing.T, serve func(n int, c net.Conn, in *bufio.Reader)) *lab {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // ends with the test
	if err != nil {
		t.Fatal(err)
	}
	lab := &lab{t: t, address: l.Addr().String(), closed: make(chan struct{}, 1000)}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			n := int(lab.accepted.Add(1))
			serving.Go(func() {
				defer func() { _ = c.Close() }()
				in := bufio.NewReader(c)
				serve(n, c, in)
				if _, err := in.ReadByte(); err != nil {
					lab.closed <- struct{}{}
				}
			})
		}
	})
	rest := &http.Transport{DisableKeepAlives: true}
	lab.Transport = &straight.Transport{
		Near: func(*http.Request) bool { return true }, Dial: new(net.Dialer).DialContext, Rest: counted{rest, &lab.rested},
		MaxBusy: 4, MaxIdle: 4, IdleTime: time.Minute, MaxHeader: 8 << 10, Buffer: 4 << 10,
	}
	t.Cleanup(func() {
		lab.CloseIdleConnections()
		_ = l.Close()
		serving.Wait()
	})
	return lab
}

type counted struct {
	http.RoundTripper
	n *atomic.Int32
}

func (c counted) RoundTrip(r *http.Request) (*http.Response, error) {
	c.n.Add(1)
	return c.RoundTripper.RoundTrip(r)
}

func (l *lab) request(method, path string) *http.Request {
	r, err := http.NewRequestWithContext(l.t.Context(), method, "http://"+l.address+path, nil)
	if err != nil {
		l.t.Fatal(err)
	}
	return r
}

// get gives a body, and the error of the request or of reading it.
func (l *lab) get(path string) (string, error) { return l.send(l.request(http.MethodGet, path)) }

func (l *lab) send(r *http.Request) (string, error) {
	resp, err := l.RoundTrip(r)
	if err != nil {
		return "", err
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	return string(body), err
}

func (l *lab) want(path, want string) {
	l.t.Helper()
	if got, err := l.get(path); err != nil || got != want {
		l.t.Fatalf("%s: %q, %v", path, got, err)
	}
}

// connections fails unless so many were made and so many requests went to Rest.
func (l *lab) connections(made, rested int32) {
	l.t.Helper()
	if a, r := l.accepted.Load(), l.rested.Load(); a != made || r != rested {
		l.t.Fatalf("%d connections, %d requests to the rest; want %d and %d", a, r, made, rested)
	}
}

func (l *lab) waitClosed() {
	l.t.Helper()
	select {
	case <-l.closed:
	case <-time.After(20 * time.Second):
		l.t.Fatal("the connection is still open")
	}
}

// path reads a request and gives its target.
func path(in *bufio.Reader) (string, error) {
	r, err := http.ReadRequest(in)
	if err != nil {
		return "", err
	}
	return r.URL.Path, nil
}

// always answers each request with what it is given, %s being its target.
func always(answer string) func(int, net.Conn, *bufio.Reader) {
	return func(_ int, c net.Conn, in *bufio.Reader) {
		for {
			p, err := path(in)
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, strings.ReplaceAll(answer, "%s", p))
		}
	}
}

const two = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n%s"

func TestOneConnectionCarriesManyRequests(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{
		"length":  two,
		"chunked": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n%s\r\n0\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, always(answer))
			for range 3 {
				l.want("/a", "/a")
				l.want("/b", "/b")
			}
			l.connections(1, 0)
		})
	}
}

func TestAnswersWithoutABody(t *testing.T) {
	t.Parallel()
	l := newLab(t, always("HTTP/1.1 204 No Content\r\n\r\n"))
	l.want("/", "")
	l.want("/", "")
	l.connections(1, 0)
	h := newLab(t, always("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"))
	for range 2 {
		resp, err := h.RoundTrip(h.request(http.MethodHead, "/"))
		if err != nil || resp.ContentLength != 100 {
			t.Fatal(resp, err)
		}
		_ = resp.Body.Close()
	}
	h.connections(1, 0)
}

func TestTrailers(t *testing.T) {
	t.Parallel()
	l := newLab(t, always("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n1\r\na\r\n0\r\nX-Sum: 1\r\n\r\n"))
	resp, err := l.RoundTrip(l.request(http.MethodGet, "/"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.Trailer.Get("X-Sum") != "1" {
		t.Fatal(resp.Trailer, err)
	}
	l.want("/", "a")
	l.connections(1, 0)
}

func TestServersThatCloseAfterAnAnswer(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{
		"said":     "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n/a",
		"by 1.0":   "HTTP/1.0 200 OK\r\n\r\n/a",
		"unsaid":   "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n/a",
		"the body": "HTTP/1.1 200 OK\r\n\r\n/a",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			gone := make(chan struct{}, 10)
			l := newLab(t, func(_ int, c net.Conn, in *bufio.Reader) {
				_, _ = path(in)
				_, _ = io.WriteString(c, answer)
				_ = c.Close()
				gone <- struct{}{}
			})
			for range 3 {
				l.want("/a", "/a")
				<-gone
			}
			l.connections(3, 0)
		})
	}
}

// A request that crosses the end of its connection is sent anew; one that its
// server has begun to answer, or that went over a new connection, is not.
func TestRequestsThatAreNotAnswered(t *testing.T) {
	t.Parallel()
	l := newLab(t, func(n int, c net.Conn, in *bufio.Reader) {
		for i := 1; ; i++ {
			if p, err := path(in); err != nil || n == 1 && i == 2 || p == "/never" {
				_ = c.Close()
				return
			} else if p == "/half" {
				_, _ = io.WriteString(c, "HTTP/1.1 200 O")
				_ = c.Close()
				return
			}
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	})
	l.want("/", "ok")
	l.want("/", "ok") // the first connection's second
	l.connections(2, 1)
	l.want("/", "ok")
	if _, err := l.get("/half"); err == nil {
		t.Fatal("half an answer is one")
	}
	l.connections(3, 1)
	if _, err := l.get("/never"); err == nil {
		t.Fatal("no answer is one")
	}
	l.connections(4, 1)
}

// What comes when nothing was asked for is no answer to what is asked next.
func TestAnAnswerToNobody(t *testing.T) {
	t.Parallel()
	late := make(chan net.Conn, 1)
	k := newLab(t, func(n int, c net.Conn, in *bufio.Reader) {
		p, _ := path(in)
		_, _ = io.WriteString(c, strings.ReplaceAll(two, "%s", p))
		if n == 1 {
			late <- c
		}
	})
	k.want("/a", "/a")
	c := <-late
	if _, err := io.WriteString(c, "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	k.want("/b", "/b")
	k.connections(2, 0)

	// Nor what comes in one piece with the answer before.
	g := newLab(t, always(two+"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno"))
	g.want("/a", "/a")
	g.want("/b", "/b")
	g.connections(2, 0)
}

func TestHeadersAreBounded(t *testing.T) {
	t.Parallel()
	l := newLab(t, func(_ int, c net.Conn, in *bufio.Reader) {
		for {
			p, err := path(in)
			if err != nil {
				return
			}
			if p != "/fits" {
				break
			}
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nX: "+strings.Repeat("x", 7<<10)+"\r\nContent-Length: 100000\r\n\r\n"+strings.Repeat("b", 100000))
		}
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n")
		for {
			if _, err := io.WriteString(c, "X: "+strings.Repeat("x", 1000)+"\r\n"); err != nil {
				return
			}
		}
	})
	if got, err := l.get("/fits"); err != nil || len(got) != 100000 {
		t.Fatal(len(got), err)
	}
	if _, err := l.get("/endless"); err == nil || !strings.Contains(err.Error(), "8192 bytes") {
		t.Fatal(err)
	}
}

func TestContextsEndRequests(t *testing.T) {
	t.Parallel()
	l := newLab(t, func(_ int, c net.Conn, in *bufio.Reader) {
		if p, _ := path(in); p == "/body" {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
		}
	})
	cause := errors.New("gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	r := l.request(http.MethodGet, "/header").WithContext(ctx)
	go func() {
		for l.accepted.Load() == 0 {
			time.Sleep(time.Millisecond)
		}
		cancel(cause)
	}()
	if _, err := l.RoundTrip(r); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	l.waitClosed()
	ctx, cancel = context.WithCancelCause(t.Context())
	resp, err := l.RoundTrip(l.request(http.MethodGet, "/body").WithContext(ctx))
	if err != nil {
		t.Fatal(err)
	}
	half := make([]byte, 4)
	if _, err := io.ReadFull(resp.Body, half); err != nil {
		t.Fatal(err)
	}
	cancel(cause)
	for range 2 { // and it stays so
		if n, err := resp.Body.Read(half); n > 0 || !errors.Is(err, context.Canceled) {
			t.Fatal(n, err)
		}
	}
	l.waitClosed()
	if _, err := l.RoundTrip(l.request(http.MethodGet, "/").WithContext(ctx)); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

// Half an answer is never taken for a whole one, however often it is read on.
func TestBrokenAnswers(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{
		"length":  "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
		"chunked": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, func(_ int, c net.Conn, in *bufio.Reader) {
				_, _ = path(in)
				_, _ = io.WriteString(c, answer)
				_ = c.Close()
			})
			resp, err := l.RoundTrip(l.request(http.MethodGet, "/"))
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(resp.Body)
			if !errors.Is(err, io.ErrUnexpectedEOF) || string(got) != "half" {
				t.Fatal(string(got), err)
			}
			if _, err := resp.Body.Read(got); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatal(err)
			}
		})
	}
}

func TestAnAnswerThatIsNotRead(t *testing.T) {
	t.Parallel()
	l := newLab(t, always("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789"))
	resp, err := l.RoundTrip(l.request(http.MethodGet, "/"))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	l.waitClosed()
	if _, err := resp.Body.Read(make([]byte, 1)); !errors.Is(err, http.ErrBodyReadAfterClose) {
		t.Fatal(err)
	}
	l.want("/", "0123456789")
	l.connections(2, 0)
}

func TestInformationalAnswers(t *testing.T) {
	t.Parallel()
	const hint = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
	l := newLab(t, func(_ int, c net.Conn, in *bufio.Reader) {
		for {
			p, err := path(in)
			switch {
			case err != nil:
				return
			case p == "/hints":
				_, _ = io.WriteString(c, hint+hint+"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			case p == "/other":
				_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n")
			default:
				_, _ = io.WriteString(c, strings.Repeat(hint, 20))
			}
		}
	})
	var got []string
	r := l.request(http.MethodGet, "/hints")
	r = r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		got = append(got, fmt.Sprint(code, h.Get("Link")))
		return nil
	}}))
	if body, err := l.send(r); err != nil || body != "ok" || fmt.Sprint(got) != "[103</x> 103</x>]" {
		t.Fatal(body, err, got)
	}
	for _, p := range []string{"/other", "/endless"} {
		if body, err := l.get(p); err == nil {
			t.Errorf("%s: %q", p, body)
		}
	}
}

// What waits is closed in time, or at once when that is asked for, and there are no more than may be.
func TestConnectionsThatWait(t *testing.T) {
	t.Parallel()
	l := newLab(t, always(two))
	l.IdleTime = time.Millisecond
	l.want("/a", "/a")
	l.waitClosed()
	l.IdleTime = time.Hour
	l.want("/a", "/a")
	l.CloseIdleConnections()
	l.waitClosed()
	l.want("/a", "/a")

	l.MaxIdle = 1 // and one waits
	var all []*http.Response
	for range 2 {
		resp, err := l.RoundTrip(l.request(http.MethodGet, "/a"))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, resp)
	}
	for _, resp := range all {
		_, _ = io.Copy(io.Discard, resp.Body)
	}
	l.waitClosed()
	l.want("/a", "/a")
	l.connections(4, 0)
}

func TestWhatIsNotSentStraight(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }))
	t.Cleanup(srv.Close)
	l := newLab(t, always(two))
	l.address = srv.Listener.Addr().String()
	with := func(f func(*http.Request)) *http.Request {
		r := l.request(http.MethodGet, "/")
		f(r)
		return r
	}
	n := int32(0)
	for name, r := range map[string]*http.Request{
		"a method that changes something": with(func(r *http.Request) { r.Method = http.MethodPost }),
		"a body":                          with(func(r *http.Request) { r.Body = io.NopCloser(strings.NewReader("x")) }),
		"another protocol":                with(func(r *http.Request) { r.Header.Set("Upgrade", "websocket") }),
		"what must be agreed to":          with(func(r *http.Request) { r.Header.Set("Expect", "100-continue") }),
	} {
		if _, err := l.send(r); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if n++; l.rested.Load() != n {
			t.Errorf("%s went straight", name)
		}
	}
	near := true
	l.Near = func(*http.Request) bool { return near }
	_, _ = l.get("/")
	if l.rested.Load() != n {
		t.Error("what is near went to the rest")
	}
	near = false
	if _, _ = l.get("/"); l.rested.Load() != n+1 {
		t.Error("what is not near went straight")
	}
}

// More than may be under way go the other way, and are answered as well.
func TestManyAtATime(t *testing.T) {
	t.Parallel()
	l := newLab(t, always(two))
	var open []*http.Response
	for range 6 {
		resp, err := l.RoundTrip(l.request(http.MethodGet, "/a"))
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, resp)
	}
	l.connections(6, 2)
	for _, resp := range open {
		if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "/a" {
			t.Fatal(string(b), err)
		}
	}
	for range 4 {
		l.want("/a", "/a")
	}
	l.connections(6, 2)
}

// hidden is a connection that does not show its socket.
type hidden struct{ net.Conn }

func TestConnectionsThatAreNoSockets(t *testing.T) {
	t.Parallel()
	l := newLab(t, always(two))
	l.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, address)
		return hidden{c}, err
	}
	l.want("/a", "/a")
	l.waitClosed()
	for n := range int32(3) { // the next are the rest's
		l.want("/b", "/b")
		l.connections(2+n, 1+n)
	}
}

// Each gets its own answer, whatever their servers close meanwhile.
func TestAnswersAreNotMixedUp(t *testing.T) {
	t.Parallel()
	l := newLab(t, func(n int, c net.Conn, in *bufio.Reader) {
		for i := range 5 + n%7 {
			p, err := path(in)
			if err != nil {
				return
			}
			_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(p), p)
			if i == n%3 && n%5 == 0 {
				break
			}
		}
		_ = c.Close()
	})
	l.MaxBusy = 8
	var wg sync.WaitGroup
	for g := range 12 {
		wg.Go(func() {
			for i := range 100 {
				p := fmt.Sprintf("/%d/%d", g, i)
				if got, err := l.get(p); err != nil || got != p {
					t.Errorf("%s: %q, %v", p, got, err)
				}
			}
		})
	}
	wg.Wait()
}

func TestNobodyListens(t *testing.T) {
	t.Parallel()
	l := newLab(t, always(two))
	at := l.address
	refused := errors.New("refused")
	l.Dial = func(context.Context, string, string) (net.Conn, error) { return nil, refused }
	for range 10 { // more than may be under way
		if _, err := l.get("/"); !errors.Is(err, refused) {
			t.Fatal(at, err)
		}
	}
	l.connections(0, 0)
}
