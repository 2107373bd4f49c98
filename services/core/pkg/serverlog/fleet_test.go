package serverlog_test

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/nodelink"
	"github.com/aetherium/aetherium/services/core/pkg/serverlog"
	"github.com/aetherium/aetherium/services/core/pkg/service"
)

// start is when the lines of tests begin.
var start = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

// file is a server's file of lines.
type file struct {
	t    *testing.T
	path string
}

func newFile(t *testing.T) *file {
	t.Helper()
	f := &file{t, filepath.Join(t.TempDir(), "log")}
	f.add("")
	return f
}

func (f *file) add(text string) {
	f.t.Helper()
	w, err := os.OpenFile(f.path, os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o600)
	if err == nil {
		_, err = w.WriteString(text)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		f.t.Error(err)
	}
}

// log adds a line, so long after the start.
func (f *file) log(after time.Duration, msg, more string) {
	f.t.Helper()
	f.add(fmt.Sprintf("{%q:%q,%q:%q,%q:%q%s}\n", "time", start.Add(after).Format(time.RFC3339Nano), "level", "INFO", "msg", msg, more))
}

func (f *file) files(service, host string) *serverlog.Files {
	return serverlog.NewFiles(f.path, 2, service, host)
}

// node is a worker that is asked for nothing else.
type node struct{ service.Node }

// fleet is workers as a test has them.
type fleet struct {
	mu  sync.Mutex
	all []serverlog.Peer
}

func (f *fleet) LogPeers(context.Context) ([]serverlog.Peer, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.all), nil
}

func (f *fleet) set(p serverlog.Peer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all = slices.DeleteFunc(f.all, func(o serverlog.Peer) bool { return o.ID == p.ID })
	f.all = append(f.all, p)
}

// serving is a node link over which a worker is asked.
func serving(t *testing.T, h http.Handler) (*nodelink.Client, *httptest.Server) {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	server := httptest.NewUnstartedServer(nil)
	server.Config = nodelink.NewServer(h, &tls.Config{MinVersion: tls.VersionTLS13}, log)
	server.TLS, server.EnableHTTP2 = server.Config.TLSConfig, true
	server.StartTLS()
	c := nodelink.NewClient(server.Listener.Addr().String(), &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}, log) //nolint:gosec // who it is, is not what is tested
	t.Cleanup(func() { c.Close(); server.CloseClientConnections(); server.Close() })
	return c, server
}

// worker adds one that has a file, nil: none.
func (f *fleet) worker(t *testing.T, name string, logs serverlog.Source) *httptest.Server {
	t.Helper()
	c, server := serving(t, nodelink.Handler(node{}, logs, slog.New(slog.DiscardHandler)))
	f.set(serverlog.Peer{ID: id(name), Name: name, From: c})
	return server
}

// encoded is a place as files note theirs.
func encoded(place string) string { return base64.RawURLEncoding.EncodeToString([]byte(place)) }

func id(name string) string { return (name + strings.Repeat("x", 20))[:20] }

func messages(all []serverlog.Entry) (m []string) {
	for _, e := range all {
		m = append(m, e.Message)
	}
	return m
}

// pages reads page after page.
func pages(t *testing.T, s serverlog.Source, f serverlog.Filter, p serverlog.Page) (all []serverlog.Entry, missing []serverlog.Missing) {
	t.Helper()
	for range 10_000 {
		l, err := s.Read(t.Context(), f, p)
		if err != nil {
			t.Fatal(err)
		}
		if len(l.Entries) > p.Limit {
			t.Fatalf("%d lines, of %d that were asked for", len(l.Entries), p.Limit)
		}
		all, missing = append(all, l.Entries...), append(missing, l.Missing...)
		if p.Cursor = l.Next; p.Cursor == "" {
			return all, missing
		}
	}
	t.Fatal("there is no end")
	return nil, nil
}

// Lines of all servers come once each, by their time, whatever the pages' size and
// order; and those that are meant alone.
func TestLinesOfAFleet(t *testing.T) {
	t.Parallel()
	const trace = "0af7651916cd43dd8448eb211c80319c"
	own, one, two := newFile(t), newFile(t), newFile(t)
	var want []string
	for n := range 300 {
		msg := fmt.Sprint("n", n)
		more := ""
		if n%50 == 0 {
			more = `,"trace_id":"` + trace + `"`
		}
		to := []*file{own, one, one, two, two, two, own}[n*7/10%7]
		if n > 250 {
			to = two // the others have come to their end
		}
		to.log(time.Duration(n)*time.Second, msg, more)
		want = append(want, msg)
	}
	all := new(fleet)
	all.worker(t, "one", one.files("aetherium-worker", "h1"))
	all.worker(t, "two", two.files("aetherium-worker", "h2"))
	s := serverlog.NewFleet(own.files("aetherium-gateway", "h0"), all)
	down := slices.Clone(want)
	slices.Reverse(down)
	for _, limit := range []int{1, 7, 1000} {
		up, missing := pages(t, s, serverlog.Filter{}, serverlog.Page{Limit: limit, Oldest: true})
		if got := messages(up); !slices.Equal(got, want) || len(missing) > 0 {
			t.Errorf("%d at a time, up: %d lines, %v, %.200q", limit, len(got), missing, got)
		}
		got, missing := pages(t, s, serverlog.Filter{}, serverlog.Page{Limit: limit})
		if got := messages(got); !slices.Equal(got, down) || len(missing) > 0 {
			t.Errorf("%d at a time, down: %d lines, %v, %.200q", limit, len(got), missing, got)
		}
	}
	got, _ := pages(t, s, serverlog.Filter{Trace: trace}, serverlog.Page{Limit: 4})
	if fmt.Sprint(messages(got)) != "[n250 n200 n150 n100 n50 n0]" {
		t.Errorf("of a trace: %v", messages(got))
	}
	got, _ = pages(t, s, serverlog.Filter{Service: "aetherium-worker", Host: "h2", Since: start.Add(251 * time.Second), Until: start.Add(253 * time.Second)}, serverlog.Page{Limit: 4})
	if fmt.Sprint(messages(got)) != "[n252 n251]" || got[0].Worker != id("two") || got[0].Host != "h2" || got[0].Service != "aetherium-worker" {
		t.Errorf("of a host: %+v", got)
	}
	// A listing keeps what was logged since out of it.
	first, err := s.Read(t.Context(), serverlog.Filter{}, serverlog.Page{Limit: 3})
	if err != nil {
		t.Fatal(err)
	}
	one.log(time.Hour, "late", "")
	own.log(time.Hour, "late", "")
	rest, _ := pages(t, s, serverlog.Filter{}, serverlog.Page{Limit: 1000, Cursor: first.Next})
	if got := messages(rest); !slices.Equal(got, down[3:]) {
		t.Errorf("%d lines, %.200q", len(got), got)
	}
	// Cursors that nobody gave, or for the other order.
	other := serverlog.NewFleet(nil, all)
	for _, bad := range []serverlog.Page{
		{Limit: 1, Cursor: "x"}, {Limit: 1, Cursor: "~AAAA"}, {Limit: 1, Cursor: first.Next, Oldest: true}, {Limit: 1, Cursor: rest[0].ID},
		{Limit: 1, Cursor: strings.Repeat("A", serverlog.MaxPlace)},
	} {
		if _, err := s.Read(t.Context(), serverlog.Filter{}, bad); !errors.HasCode(err, errors.InvalidArgument) {
			t.Errorf("%.20q: %v", bad.Cursor, err)
		}
	}
	// Another gateway has the workers' lines, and says what it has not.
	l, err := other.Read(t.Context(), serverlog.Filter{}, serverlog.Page{Limit: 1000, Cursor: first.Next})
	if err != nil || len(l.Missing) != 1 || l.Missing[0].Reason != serverlog.Unknown || len(l.Entries) == 0 {
		t.Errorf("%+v, %v", l.Missing, err)
	}
}

// stuck is a source that answers nothing.
type stuck struct{ serverlog.Source }

func (stuck) Check(string) error { return nil }

func (stuck) Read(ctx context.Context, _ serverlog.Filter, _ serverlog.Page) (serverlog.List, error) {
	<-ctx.Done()
	return serverlog.List{}, ctx.Err()
}

func (stuck) Follow(ctx context.Context, _ serverlog.Filter, _ string, _ serverlog.Listener) error {
	<-ctx.Done()
	return ctx.Err()
}

// broken is a fleet of which one worker answers; the others each have another
// reason not to.
func broken(t *testing.T, lines *file) *fleet {
	t.Helper()
	all := new(fleet)
	all.worker(t, "well", lines.files("aetherium-worker", "h1"))
	all.worker(t, "slow", stuck{})
	all.worker(t, "bare", nil)
	all.worker(t, "dead", nil).Close()
	c, _ := serving(t, http.NewServeMux()) // as one that does not know a call
	all.set(serverlog.Peer{ID: id("old"), Name: "old", From: c})
	all.set(serverlog.Peer{ID: id("away"), Name: "away", Reason: serverlog.Away})
	return all
}

var whyBroken = map[string]serverlog.Reason{
	"slow": serverlog.Slow, "bare": serverlog.NoFile, "dead": serverlog.Unreachable, "old": serverlog.OldVersion, "away": serverlog.Away,
	"this gateway": serverlog.NoFile,
}

// Whoever does not answer holds nobody up, and is named with why.
func TestWhoDoesNotAnswer(t *testing.T) {
	t.Parallel()
	lines := newFile(t)
	lines.log(0, "a", "")
	lines.log(time.Second, "b", "")
	s := serverlog.NewFleet(nil, broken(t, lines))
	got, missing := pages(t, s, serverlog.Filter{}, serverlog.Page{Limit: 1})
	if fmt.Sprint(messages(got)) != "[b a]" {
		t.Errorf("%v", messages(got))
	}
	why := map[string]serverlog.Reason{}
	for _, m := range missing {
		if why[m.Name] != "" || m.Detail == "" && m.Reason != serverlog.Away {
			t.Errorf("%+v", m)
		}
		why[m.Name] = m.Reason
	}
	if fmt.Sprint(why) != fmt.Sprint(whyBroken) {
		t.Errorf("%v", why)
	}
	// Nobody waits for who is not meant.
	if l, err := s.Read(t.Context(), serverlog.Filter{Service: "aetherium-gateway"}, serverlog.Page{Limit: 1}); err != nil || len(l.Missing) != 1 {
		t.Errorf("%+v, %v", l, err)
	}
}

// stream is what a stream tells.
type stream struct {
	t     *testing.T
	lines chan serverlog.Entry
	lost  chan serverlog.Missing
	end   func()
}

func follow(t *testing.T, s serverlog.Source, f serverlog.Filter, after string) *stream {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r := &stream{t: t, lines: make(chan serverlog.Entry), lost: make(chan serverlog.Missing, 100)}
	done := make(chan error, 1)
	go func() {
		done <- s.Follow(ctx, f, after, serverlog.Listener{
			Line: func(e serverlog.Entry) error {
				select {
				case r.lines <- e:
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			},
			Missing: func(m serverlog.Missing, where string) error {
				if err := s.Check(where); where == "" || err != nil {
					t.Errorf("%q: %v", where, err)
				}
				r.lost <- m
				return nil
			},
		})
	}()
	r.end = sync.OnceFunc(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("the stream ended: %v", err)
		}
	})
	t.Cleanup(r.end)
	return r
}

func (r *stream) line() serverlog.Entry {
	r.t.Helper()
	select {
	case e := <-r.lines:
		return e
	case <-time.After(30 * time.Second):
		r.t.Fatal("there are no more lines")
		return serverlog.Entry{}
	}
}

func (r *stream) want(all ...string) (last serverlog.Entry) {
	r.t.Helper()
	for _, want := range all {
		if last = r.line(); last.Message != want {
			r.t.Fatalf("%s came for %s", last.Message, want)
		}
	}
	return last
}

// A stream tells what there is by its time, then what comes, and goes on behind any
// of its lines, in each server where it was; also with a server that was away.
func TestAFleetIsFollowed(t *testing.T) {
	t.Parallel()
	own, one, two := newFile(t), newFile(t), newFile(t)
	own.log(0, "a", "")
	two.log(1*time.Second, "b", "")
	one.log(2*time.Second, "c", "")
	own.log(3*time.Second, "d", "")
	all := new(fleet)
	first := all.worker(t, "one", one.files("aetherium-worker", "h1"))
	all.worker(t, "two", two.files("aetherium-worker", "h2"))
	s := serverlog.NewFleet(own.files("aetherium-gateway", "h0"), all)
	since := serverlog.Filter{Since: start}
	r := follow(t, s, since, "")
	r.want("a")
	b := r.want("b")
	r.want("c", "d")
	for n := range 5 { // clocks differ: what comes is told as it comes
		f := []*file{one, two, own, two, one}[n]
		f.log(time.Duration(-n)*time.Minute+time.Hour, fmt.Sprint("live", n), "")
		r.want(fmt.Sprint("live", n))
	}
	r.end()
	r = follow(t, s, since, b.ID)
	r.want("c", "d") // in each server its own order, and by their time
	rest := map[string]bool{}
	var last serverlog.Entry
	for range 5 {
		last = r.line()
		rest[last.Message] = true
	}
	if len(rest) != 5 {
		t.Errorf("%v", rest)
	}
	r.end()

	// A worker is lost, and is told of once; its lines are not lost.
	one.log(2*time.Hour, "before", "")
	r = follow(t, s, since, last.ID)
	r.want("before")
	first.CloseClientConnections()
	first.Close()
	if m := <-r.lost; m.Worker != id("one") || m.Reason != serverlog.Unreachable {
		t.Errorf("%+v", m)
	}
	two.log(2*time.Hour, "others", "")
	r.want("others")
	one.log(3*time.Hour, "meanwhile", "")
	all.worker(t, "one", one.files("aetherium-worker", "h1"))
	last = r.want("meanwhile")
	r.end()

	// One that joins is followed, too.
	r = follow(t, s, serverlog.Filter{}, last.ID)
	three := newFile(t)
	three.log(4*time.Hour, "joined", "")
	all.worker(t, "three", three.files("aetherium-worker", "h3"))
	if e := r.want("joined"); e.Worker != id("three") {
		t.Errorf("%+v", e)
	}
	r.end()
	r = follow(t, s, serverlog.Filter{}, "")
	for told := false; !told; { // from when on, is told by its lines alone
		three.log(5*time.Hour, "now", "")
		select {
		case e := <-r.lines:
			if told = true; e.Message != "now" {
				t.Errorf("%+v", e)
			}
		case <-time.After(50 * time.Millisecond):
		}
	}
	for _, bad := range []string{"x", "~x", "e30"} {
		if err := s.Check(bad); !errors.HasCode(err, errors.InvalidArgument) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// A stream tells who does not answer, and goes on with who does.
func TestWhoDoesNotAnswerAStream(t *testing.T) {
	t.Parallel()
	lines := newFile(t)
	lines.log(0, "a", "")
	r := follow(t, serverlog.NewFleet(nil, broken(t, lines)), serverlog.Filter{Since: start}, "")
	r.want("a")
	why := map[string]serverlog.Reason{}
	for len(why) < len(whyBroken) {
		select {
		case m := <-r.lost:
			why[m.Name] = m.Reason
		case <-time.After(30 * time.Second):
			t.Fatal(why)
		}
	}
	if fmt.Sprint(why) != fmt.Sprint(whyBroken) {
		t.Errorf("%v", why)
	}
	lines.log(time.Second, "b", "")
	r.want("b")
	if n := len(r.lost); n > 0 {
		t.Errorf("%d are told of again", n)
	}
}

// Places in the lines of as many workers as are asked have room where they are told.
func TestPlacesOfManyWorkers(t *testing.T) {
	t.Parallel()
	all := new(fleet)
	for n := range 140 {
		all.set(serverlog.Peer{ID: id(fmt.Sprintf("%03d", n)), Name: fmt.Sprintf("w%03d", n), From: counted(n)})
	}
	s := serverlog.NewFleet(nil, all)
	l, err := s.Read(t.Context(), serverlog.Filter{}, serverlog.Page{Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	if len(l.Next) > serverlog.MaxPlace || l.Next == "" {
		t.Errorf("a cursor of %d bytes", len(l.Next))
	}
	many := 0
	for _, m := range l.Missing {
		if m.Reason == serverlog.TooMany {
			many++
		}
	}
	if many != 12 {
		t.Errorf("%d are too many", many)
	}
	if again, err := s.Read(t.Context(), serverlog.Filter{}, serverlog.Page{Limit: 1000, Cursor: l.Next}); err != nil || len(again.Entries) == 0 {
		t.Errorf("%d, %v", len(again.Entries), err)
	}
}

// counted is a worker with lines without end.
type counted int

func (c counted) ReadLogs(_ context.Context, _ serverlog.Filter, p serverlog.Page) (l serverlog.List, err error) {
	for n := range p.Limit {
		at := start.Add(time.Duration(n*1000+int(c)) * time.Millisecond)
		place := fmt.Sprintf(`{"f":%d,"o":%d,"t":%d}`, 1<<40+int(c)*7919, n*4099, at.UnixNano())
		l.Entries = append(l.Entries, serverlog.Entry{ID: place, Behind: encoded(place), At: at, Message: "m"})
	}
	l.Next = l.Entries[len(l.Entries)-1].Behind
	return l, nil
}

func (counted) FollowLogs(context.Context, serverlog.Filter, string, func(serverlog.Entry) error) error {
	return errors.New(errors.Unsupported, "nothing is followed here")
}
