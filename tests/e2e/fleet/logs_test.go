package fleet

import (
	"context"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/pkg/client"
)

// Without a Loki a gateway asks the workers for their lines, in a listing and in a
// stream, says who has not answered and why, and finds what a trace is about
// wherever it went.
func TestLogsOfAFleet(t *testing.T) {
	f := newField(t)
	logged := func(name string) []string {
		return []string{"AETHERIUM_LOG_FILE=" + filepath.Join(t.TempDir(), name+".log"), "AETHERIUM_LOG_LEVEL=debug"}
	}
	tracing := []string{"AETHERIUM_TRACING_URL=http://127.0.0.1:9/v1/traces", "AETHERIUM_TRACING_SAMPLE=0", "AETHERIUM_TRACING_CLIENTS=true"}
	g := f.gateway("gateway", append(logged("gateway"), tracing...)...)
	other := f.gateway("other")
	keeps := func(name string) interface {
		Kill() error
		Run(context.Context) error
	} {
		w := f.joining(name, g)
		w.Env = append(append(w.Env, logged(name)...), tracing...)
		must(t, w.Run(f.ctx))
		return w
	}
	keeps("worker-1")
	second := keeps("worker-2")
	f.worker("worker-3", g) // it logs to no file
	c := f.client(g)
	workers := map[string]string{}
	all, err := c.Workers(f.ctx)
	must(t, err)
	for _, w := range all {
		workers[w.Name] = w.ID
	}

	missing := map[string]string{}
	told := func(m api.LogMissing) { missing[m.Worker] = m.Reason }
	list := func(by *client.Client, filter client.LogFilter) (lines []api.LogLine) {
		t.Helper()
		filter.Missing = told
		for { // until none was only too slow to answer
			clear(missing)
			lines, err := client.Collect(by.Logs(f.ctx, filter, 0))
			must(t, err)
			if !slices.Contains(slices.Collect(maps.Values(missing)), "slow") {
				return lines
			}
		}
	}
	of := func(lines []api.LogLine) map[string]int {
		n := map[string]int{}
		for i, l := range lines {
			n[l.Worker]++
			if l.Worker != "" && l.Service != "aetherium-worker" || i > 0 && l.At.After(lines[i-1].At.Add(time.Second)) {
				t.Errorf("%+v", l)
			}
		}
		return n
	}
	got := of(list(c, client.LogFilter{}))
	if got[""] == 0 || got[workers["worker-1"]] == 0 || got[workers["worker-2"]] == 0 || len(got) != 3 {
		t.Errorf("lines by worker: %v", got)
	}
	if len(missing) != 1 || missing[workers["worker-3"]] != "no_file" {
		t.Errorf("missing: %v", missing)
	}
	// Another gateway has no file of its own, and asks the same workers.
	got = of(list(f.client(other), client.LogFilter{Text: "serving", Level: "info"}))
	if got[workers["worker-1"]] != 1 || got[workers["worker-2"]] != 1 || len(got) != 2 || missing[""] != "no_file" || len(missing) != 2 {
		t.Errorf("by another: %v, missing %v", got, missing)
	}

	// A request's trace is found at the gateway and at the worker.
	const trace = "0af7651916cd43dd8448eb211c80319c"
	if out, err := g.CLI(f.ctx, "template", "build", "first", "--dir", f.rootfs); err != nil {
		t.Fatal(err, out)
	}
	by, err := client.New(client.Options{URL: g.URL, Key: g.Key, Transport: traced{"00-" + trace + "-00f067aa0ba902b7-01", http.DefaultTransport}})
	must(t, err)
	t.Cleanup(by.Close)
	vm, err := by.CreateVM(f.ctx, api.CreateVM{Template: "first", Network: "none"})
	must(t, err)
	if _, err := by.Execute(f.ctx, vm.ID, shell("true")); err != nil {
		t.Error(err)
	}
	for got = nil; got[""] == 0 || got[vm.WorkerID] == 0; got = of(list(c, client.LogFilter{Trace: trace})) {
		must(t, f.ctx.Err())
		time.Sleep(20 * time.Millisecond) // lines are written a moment later
	}
	if len(got) != 2 {
		t.Errorf("lines of a trace by worker: %v", got)
	}
	out, err := g.CLI(f.ctx, "system", "logs", "--trace", trace)
	if err != nil || !strings.Contains(out, "worker@") || !strings.Contains(out, "gateway@") {
		t.Errorf("%s, %v", out, err)
	}

	// What comes is told, also by a worker that was killed and is back.
	type event struct {
		line    api.LogLine
		missing api.LogMissing
	}
	events := make(chan event)
	following, end := context.WithCancel(f.ctx)
	followed := make(chan struct{})
	go func() {
		defer close(followed)
		send := func(e event) {
			select {
			case events <- e:
			case <-following.Done():
			}
		}
		filter := client.LogFilter{Service: "worker", Since: time.Now().Add(-time.Hour), Missing: func(m api.LogMissing) { send(event{missing: m}) }}
		for l, err := range c.FollowLogs(following, filter) {
			if err == nil {
				send(event{line: l})
			}
		}
	}()
	defer func() { end(); <-followed }()
	until := func(what string, is func(event) bool) {
		t.Helper()
		for {
			select {
			case e := <-events:
				if is(e) {
					return
				}
			case <-f.ctx.Done():
				t.Fatal(what)
			}
		}
	}
	serving := func(worker string) func(event) bool {
		return func(e event) bool { return e.line.Worker == worker && e.line.Message == "serving" }
	}
	until("what was logged is not told", serving(workers["worker-2"]))
	must(t, second.Kill())
	until("that a worker is gone is not told", func(e event) bool {
		return e.missing.Worker == workers["worker-2"] && e.missing.Reason == "unreachable"
	})
	list(c, client.LogFilter{Service: "worker", Level: "info"})
	if r := missing[workers["worker-2"]]; r != "unreachable" && r != "away" {
		t.Errorf("missing: %v", missing)
	}
	must(t, second.Run(f.ctx))
	until("a worker that is back is not told of", serving(workers["worker-2"]))
}
