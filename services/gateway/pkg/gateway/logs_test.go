package gateway_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/logging"
	"github.com/aetherium/aetherium/libs/common/pkg/loki"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/serverlog"
	"github.com/aetherium/aetherium/services/gateway/pkg/gateway"
)

// logFile is a server's file of lines, with a gateway that reads it.
func logFile(t *testing.T, size int64, keep int) (*lab, *slog.Logger, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "log")
	file, err := logging.OpenFile(path, size, keep, func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	log, err := logging.New(file, logging.JSON, "debug")
	if err != nil {
		t.Fatal(err)
	}
	l := newLab(t, func(_ *gateway.Config, d *gateway.Deps) {
		d.Logs = serverlog.NewFiles(path, keep, "aetherium-gateway", "here")
	})
	return l, log, path
}

func (l *lab) logs(query string) wire.LogPage {
	l.t.Helper()
	return get[wire.LogPage](l, 200, req{method: "GET", path: "/logs?" + query})
}

// allLogs reads page after page, and gives the lines' messages.
func (l *lab) allLogs(query string) (all []string) {
	l.t.Helper()
	cursor := ""
	for range 10_000 {
		p := l.logs(query + "&cursor=" + url.QueryEscape(cursor))
		for _, line := range p.Items {
			all = append(all, line.Message)
		}
		if cursor = p.NextCursor; cursor == "" {
			return all
		}
	}
	l.t.Fatal("there is no end")
	return nil
}

// tail is a stream of lines.
type tail struct {
	t    *testing.T
	body *bufio.Scanner
	end  context.CancelFunc
	id   string
}

func (l *lab) tail(t *testing.T, key, query, after string) *tail {
	t.Helper()
	header := map[string]string{"Accept": "text/event-stream"}
	if after != "" {
		header["Last-Event-ID"] = after
	}
	ctx, cancel := context.WithCancel(t.Context())
	resp, err := l.client.Do(l.request(req{method: "GET", path: "/logs/stream?" + query, key: key, header: header}).WithContext(ctx)) //nolint:bodyclose // below
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); _ = resp.Body.Close() })
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body)
		t.Fatalf("%s: %s", resp.Status, text)
	}
	body := bufio.NewScanner(resp.Body)
	body.Buffer(nil, 4<<20)
	return &tail{t, body, cancel, ""}
}

// event gives the next event's name and data; none at the end.
func (s *tail) event() (name, data string) {
	for s.body.Scan() {
		switch field, value, _ := strings.Cut(s.body.Text(), ": "); {
		case field == "event":
			name = value
		case field == "id":
			s.id = value
		case field == "data":
			data = value
		case field == "" && name != "":
			return name, data
		}
	}
	return "", ""
}

func (s *tail) line() wire.LogLine {
	s.t.Helper()
	name, data := s.event()
	var line wire.LogLine
	if err := json.Unmarshal([]byte(data), &line); name != "line" || err != nil || line.ID != s.id {
		s.t.Fatalf("%s %s: %v", name, data, err)
	}
	return line
}

func numbered(log *slog.Logger, from, to int) (want []string) {
	for n := from; n < to; n++ {
		want = append(want, fmt.Sprint("n", n))
		log.Info(want[len(want)-1], "pad", strings.Repeat("x", 100))
	}
	return want
}

// Every line of the files comes once, in both orders and in pages of any size,
// also when files are put aside between the pages.
func TestLogsAcrossFiles(t *testing.T) {
	t.Parallel()
	l, log, path := logFile(t, 8<<10, 20)
	want := numbered(log, 0, 300)
	if _, err := os.Stat(path + ".3"); err != nil {
		t.Fatal(err)
	}
	for _, limit := range []int{1, 7, 1000} {
		if got := l.allLogs(fmt.Sprintf("order=asc&limit=%d", limit)); !slices.Equal(got, want) {
			t.Errorf("limit %d: %d lines, %.200q", limit, len(got), got)
		}
	}
	first := l.logs("limit=100")
	if first.Source != "file" || len(first.Items) != 100 || first.Items[0].Message != "n299" || first.Items[0].Service != "aetherium-gateway" || first.Items[0].Host != "here" {
		t.Fatalf("%+v", first)
	}
	up := l.logs("limit=100&order=asc")
	more := numbered(log, 300, 500) // the files move
	got := l.logs("limit=1000&cursor=" + url.QueryEscape(first.NextCursor))
	if len(got.Items) != 200 || got.Items[0].Message != "n199" || got.Items[199].Message != "n0" || got.NextCursor != "" {
		t.Errorf("%d lines, %q", len(got.Items), got.NextCursor)
	}
	got = l.logs("limit=1000&order=asc&cursor=" + url.QueryEscape(up.NextCursor))
	if len(got.Items) != 400 || got.Items[0].Message != "n100" || got.Items[399].Message != more[199] {
		t.Errorf("%d lines", len(got.Items))
	}
	l.problem(400, errors.InvalidArgument, req{method: "GET", path: "/logs?order=asc&cursor=" + url.QueryEscape(first.NextCursor)})
	for _, bad := range []string{"x", "e30x", "AAAA", strings.Repeat("A", 1024)} {
		l.problem(400, errors.InvalidArgument, req{method: "GET", path: "/logs?cursor=" + bad})
	}
}

// What is asked for is what comes; lines that are torn or no lines at all do not,
// and of one that is too long the beginning.
func TestLogsOfAFile(t *testing.T) {
	t.Parallel()
	l, log, path := logFile(t, 1<<20, 1)
	vm := strings.Repeat("v", 20)
	log.Debug("fine", "password", "hunter2", "secret", logging.Secret("hunter2"))
	log.Info("said \"so\" <b>", "vm", vm, "n", 1)
	const trace = "0af7651916cd43dd8448eb211c80319c"
	log.Warn("odd", "request_id", "r-1", "vm_id", vm, "trace_id", trace)
	log.Error("bad", "text", "vm", "of", trace)
	log.Info("long", "all", strings.Repeat("y", 300<<10))
	file, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	if _, err := file.WriteString("panic: no line\n" + `{"time":"2026-01-02T03:04:05Z","level":"INFO","msg":"torn`); err != nil {
		t.Fatal(err)
	}
	for query, want := range map[string]string{
		"":                                      "[long bad odd said \"so\" <b> fine]",
		"level=warn":                            "[bad odd]",
		"level=error&order=asc":                 "[bad]",
		"vm=" + vm:                              "[odd said \"so\" <b>]",
		"request=r-1":                           "[odd]",
		"trace_id=" + trace:                     "[odd]",
		"trace_id=" + trace + "&level=error":    "[]",
		"text=" + url.QueryEscape(`"so" <b>`):   "[said \"so\" <b>]",
		"text=odd&level=error":                  "[]",
		"service=gateway&host=here&level=error": "[bad]",
		"service=worker":                        "[]",
		"host=elsewhere":                        "[]",
		"until=1h":                              "[]",
		"since=1h&level=warn":                   "[bad odd]",
		"since=2026-01-02T03:04:05Z&until=2026-01-02T03:04:06Z": "[]",
	} {
		if got := fmt.Sprint(l.allLogs(query)); got != want {
			t.Errorf("%q: %s, not %s", query, got, want)
		}
	}
	_, raw := l.want(200, req{method: "GET", path: "/logs"})
	if strings.Contains(string(raw), "hunter2") || len(raw) > 200<<10 {
		t.Errorf("%d bytes: %.500s", len(raw), raw)
	}
	page := l.logs("limit=2")
	if long := page.Items[0]; !long.Cut || long.Message != "long" || page.Items[1].Cut || string(page.Items[1].Fields["text"]) != `"vm"` {
		t.Errorf("%+v", page)
	}
	for query, field := range map[string]string{
		"since=yesterday": "query.since", "until=-1h": "query.until", "since=1h&until=2h": "query.until", "limit=0": "query.limit", "limit=1001": "query.limit",
		"level=loud": "query.level", "vm=x": "query.vm", "trace_id=" + strings.Repeat("A", 32): "query.trace_id", "service=%7B": "query.service", "text=%ff": "query.text", "text=" + strings.Repeat("x", 257): "query.text",
		"since=0001-01-01T00:00:00Z": "query.since",
	} {
		if p := l.problem(400, errors.InvalidArgument, req{method: "GET", path: "/logs?" + query}); p.Field != field {
			t.Errorf("%s: %+v", query, p)
		}
	}
}

// A tail goes on across files that are put aside, waits for the end of a line, and
// goes on behind the line that it is told.
func TestLogsAreFollowed(t *testing.T) {
	t.Parallel()
	l, log, path := logFile(t, 16<<10, 20)
	log.Info("before")
	s := l.tail(t, l.admin, "since=1h", "")
	if line := s.line(); line.Message != "before" {
		t.Fatalf("%+v", line)
	}
	for _, want := range numbered(log, 0, 400) {
		if line := s.line(); line.Message != want {
			t.Fatalf("%s came for %s", line.Message, want)
		}
	}
	at := s.id
	s.end()
	want := numbered(log, 400, 500)
	s = l.tail(t, l.admin, "", at)
	for _, want := range want {
		if line := s.line(); line.Message != want {
			t.Fatalf("%s came for %s", line.Message, want)
		}
	}
	file, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	// Another has seen the half of it that is there, when it tells what is before.
	for _, text := range []string{`{"time":"2026-01-02T03:04:05Z","level":"INFO","msg":"whole"`, "}\n"} {
		if _, err := file.WriteString(text); err != nil {
			t.Fatal(err)
		}
		if text != "}\n" {
			if p := l.logs("limit=1"); p.Items[0].Message != "n499" {
				t.Errorf("%+v", p.Items)
			}
		}
	}
	if line := s.line(); line.Message != "whole" || line.Cut {
		t.Fatalf("%+v", line)
	}
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	for stop := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		log.Info("elsewhere")
		if _, err := os.Stat(path); err == nil {
			break
		}
		if time.Now().After(stop) {
			t.Fatal("it is not there again")
		}
	}
	log.Info("anew")
	for line := s.line(); line.Message != "anew"; line = s.line() {
		if line.Message != "elsewhere" {
			t.Fatalf("%+v", line)
		}
	}
	header := map[string]string{"Accept": "text/event-stream", "Last-Event-ID": "17"}
	l.problem(400, errors.InvalidArgument, req{method: "GET", path: "/logs/stream", header: header})
	l.problem(406, errors.NotAcceptable, req{method: "GET", path: "/logs/stream"})
}

// Servers' logs tell of all tenants: they are for administrators, for as long as
// they are that.
func TestLogsAreAdministrators(t *testing.T) {
	t.Parallel()
	l, log, _ := logFile(t, 1<<20, 1)
	log.Info("of a tenant")
	stream := map[string]string{"Accept": "text/event-stream"}
	for _, key := range []string{l.user, l.other} {
		l.problem(403, errors.PermissionDenied, req{method: "GET", path: "/logs", key: key})
		l.problem(403, errors.PermissionDenied, req{method: "GET", path: "/logs/stream?since=1h", key: key, header: stream})
	}
	other := l.ring.mint(l.project, "second", domain.ScopeAdmin)
	s := l.tail(t, other, "since=1h", "")
	if line := s.line(); line.Message != "of a tenant" {
		t.Fatalf("%+v", line)
	}
	for _, k := range get[wire.List[wire.Key]](l, 200, req{method: "GET", path: "/keys"}).Items {
		if k.Name == "second" {
			l.want(204, req{method: "DELETE", path: "/keys/" + k.ID})
		}
	}
	if name, data := s.event(); name != "error" || !strings.Contains(data, string(errors.Unauthenticated)) {
		t.Errorf("%s %s", name, data)
	}
	if name, data := s.event(); name != "" {
		t.Errorf("%s %s", name, data)
	}
	none := newLab(t)
	for path, header := range map[string]map[string]string{"/logs": nil, "/logs/stream": stream} {
		if p := none.problem(422, errors.Unsupported, req{method: "GET", path: path, header: header}); !strings.Contains(p.Hint, "log.loki") || !strings.Contains(p.Hint, "log.file") {
			t.Errorf("%+v", p)
		}
	}
}

// From Loki come the lines of all servers, as they were asked for, whatever the
// text is that is asked for, and each once.
func TestLogsOfLoki(t *testing.T) {
	t.Parallel()
	server := newLoki(t)
	config := loki.Config{URL: server.URL, Tenant: "tenant", Authorization: "Bearer key"}
	send := func(service, host string, log func(*slog.Logger)) {
		t.Helper()
		c := config
		c.Labels = map[string]string{"service": service, "host": host}
		sink, err := loki.New(c)
		if err != nil {
			t.Fatal(err)
		}
		lines, err := logging.NewLines("debug", sink.Add)
		if err != nil {
			t.Fatal(err)
		}
		log(slog.New(lines))
		if err := sink.Close(t.Context()); err != nil || sink.Lost() != 0 {
			t.Fatal(err, sink.Lost())
		}
	}
	reader, err := loki.NewReader(config)
	if err != nil {
		t.Fatal(err)
	}
	l := newLab(t, func(_ *gateway.Config, d *gateway.Deps) { d.Logs = serverlog.NewLoki(reader) })
	vm := strings.Repeat("v", 20)
	const trace = "0af7651916cd43dd8448eb211c80319c"
	odd := "\"} or {service=~\".+\"} |= `x` \\ \x01 é"
	send("aetherium-worker", "w1", func(log *slog.Logger) {
		log.Info("one", "vm", vm, "password", "hunter2")
		log.Warn(odd, "of", trace)
	})
	send("aetherium-gateway", "g1", func(log *slog.Logger) {
		log.Error("two", "vm_id", vm, "request_id", "r-1", "host", "asked.example", "trace_id", trace)
	})
	send("somebody-else", "x", func(log *slog.Logger) { log.Error("not ours", "vm", vm) })
	for query, want := range map[string]string{
		"":                                fmt.Sprint([]string{"two", odd, "one"}),
		"order=asc&limit=1":               fmt.Sprint([]string{"one", odd, "two"}),
		"level=error":                     "[two]",
		"service=worker&level=info":       fmt.Sprint([]string{odd, "one"}),
		"host=g1":                         "[two]",
		"vm=" + vm:                        "[two one]",
		"vm=" + vm + "&request=r-1":       "[two]",
		"trace_id=" + trace:               "[two]",
		"trace_id=" + trace + "&vm=" + vm: "[two]",
		"text=" + url.QueryEscape(odd):    fmt.Sprint([]string{odd}),
		"text=" + url.QueryEscape(`"}`):   fmt.Sprint([]string{odd}),
		"until=1h":                        "[]",
	} {
		if got := fmt.Sprint(l.allLogs(query)); got != want {
			t.Errorf("%q: %s, not %s", query, got, want)
		}
	}
	page := l.logs("level=error")
	if line := page.Items[0]; page.Source != "loki" || line.Service != "aetherium-gateway" || line.Host != "g1" || string(line.Fields["host"]) != `"asked.example"` || line.Level != "error" {
		t.Errorf("%+v", page)
	}
	if _, raw := l.want(200, req{method: "GET", path: "/logs"}); strings.Contains(string(raw), "hunter2") {
		t.Errorf("%s", raw)
	}
	s := l.tail(t, l.admin, "since=1h&service=worker", "")
	if a, b := s.line(), s.line(); a.Message != "one" || b.Message != odd {
		t.Errorf("%+v %+v", a, b)
	}
	send("aetherium-worker", "w2", func(log *slog.Logger) { log.Info("live") })
	if line := s.line(); line.Message != "live" || line.Host != "w2" {
		t.Errorf("%+v", line)
	}
	at := s.id
	s.end()
	send("aetherium-worker", "w2", func(log *slog.Logger) { log.Info("later") })
	s = l.tail(t, l.admin, "service=worker", at)
	for line := s.line(); line.Message != "later"; line = s.line() { // those before it come once more
		if line.ID == at {
			t.Errorf("again %+v", line)
		}
	}
	// Many of one moment, from two streams.
	moment := time.Now().Add(-time.Minute).UnixNano()
	server.mu.Lock()
	want := map[string]bool{}
	for n := range 40 {
		text := fmt.Sprintf(`{"time":"2026-01-02T03:04:05Z","level":"INFO","msg":"same %d"}`, n)
		server.lines = append(server.lines, lokiLine{moment, map[string]string{"service": "aetherium-worker", "host": fmt.Sprint("h", n%2), "level": "info"}, text})
		want[fmt.Sprint("same ", n)] = true
	}
	server.mu.Unlock()
	for _, query := range []string{"text=same&limit=7", "text=same&limit=7&order=asc", "text=same&limit=1"} {
		got := l.allLogs(query)
		left := len(want)
		for _, m := range got {
			if want[m] {
				left--
			}
		}
		slices.Sort(got)
		if left != 0 || len(slices.Compact(got)) != 40 {
			t.Errorf("%s: %d lines, %d are missing", query, len(got), left)
		}
	}
	for _, status := range []int{400, 401, 429, 500} {
		server.mu.Lock()
		server.answer = status
		server.mu.Unlock()
		l.problem(503, errors.Unavailable, req{method: "GET", path: "/logs"})
	}
	server.Close()
	l.problem(503, errors.Unavailable, req{method: "GET", path: "/logs"})
	if text := l.log.String(); strings.Contains(text, "Bearer key") {
		t.Error("the key is logged")
	}
}
