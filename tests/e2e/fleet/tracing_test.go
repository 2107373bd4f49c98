package fleet

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/pkg/client"
)

// spans is a collector: it takes OTLP over HTTP.
type spans struct {
	mu  sync.Mutex
	all []received
}

type received struct {
	*otlp.Span
	service string
}

func (s *spans) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err == nil && r.Header.Get("Content-Encoding") == "gzip" {
		var z *gzip.Reader
		if z, err = gzip.NewReader(bytes.NewReader(body)); err == nil {
			body, err = io.ReadAll(z)
		}
	}
	var m collector.ExportTraceServiceRequest
	if err == nil {
		err = proto.Unmarshal(body, &m)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, from := range m.GetResourceSpans() {
		service := ""
		for _, a := range from.GetResource().GetAttributes() {
			if a.GetKey() == "service.name" {
				service = a.GetValue().GetStringValue()
			}
		}
		for _, scope := range from.GetScopeSpans() {
			for _, x := range scope.GetSpans() {
				s.all = append(s.all, received{x, service})
			}
		}
	}
}

// of is the spans of a trace by their IDs.
func (s *spans) of(trace string) map[string]received {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := map[string]received{}
	for _, x := range s.all {
		if hex.EncodeToString(x.GetTraceId()) == trace {
			all[hex.EncodeToString(x.GetSpanId())] = x
		}
	}
	return all
}

// traced adds a client's trace to requests.
type traced struct {
	parent string
	next   http.RoundTripper
}

func (t traced) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("traceparent", t.parent)
	return t.next.RoundTrip(r)
}

// A VM's making and a command in it are one trace, from the client's request
// through gateway and worker to the guest's process, where that is wanted; a
// gateway that was not told to takes no trace of a client's.
func TestTraces(t *testing.T) {
	f := newField(t)
	to := new(spans)
	at := httptest.NewServer(to)
	t.Cleanup(at.Close)
	url := "AETHERIUM_TRACING_URL=" + at.URL + "/v1/traces"
	g, err := f.Gateway("gateway", url, "AETHERIUM_TRACING_CLIENTS=true")
	must(t, err)
	must(t, g.Run(f.ctx))
	end := context.WithoutCancel(f.ctx)
	t.Cleanup(func() { must(t, g.End(end)); f.explain("gateway", g) })
	deaf, err := f.Gateway("deaf", url)
	must(t, err)
	must(t, deaf.Run(f.ctx))
	t.Cleanup(func() { must(t, deaf.End(end)); f.explain("deaf", deaf) })
	w := f.joining("worker", g)
	w.Env = append(w.Env, url, "AETHERIUM_TRACING_GUESTS=true")
	must(t, w.Run(f.ctx))
	if out, err := g.CLI(f.ctx, "template", "build", "first", "--dir", f.rootfs); err != nil {
		t.Fatal(err, out)
	}

	const trace, other = "0af7651916cd43dd8448eb211c80319c", "1bf7651916cd43dd8448eb211c80319c"
	by := func(url, key, trace string) *client.Client {
		c, err := client.New(client.Options{URL: url, Key: key, Transport: traced{"00-" + trace + "-00f067aa0ba902b7-01", http.DefaultTransport}})
		must(t, err)
		t.Cleanup(c.Close)
		return c
	}
	c := by(g.URL, g.Key, trace)
	vm, err := c.CreateVM(f.ctx, api.CreateVM{Template: "first", Network: "none"})
	must(t, err)
	res, err := c.Execute(f.ctx, vm.ID, shell("printf %s \"$TRACEPARENT\"; exit 7"))
	must(t, err)
	told := res.Stdout
	given := shell("printf %s \"$TRACEPARENT\"")
	given.Env = map[string]string{"TRACEPARENT": "mine"}
	if res, err := c.Execute(f.ctx, vm.ID, given); err != nil || res.Stdout != "mine" {
		t.Errorf("a variable of the caller's is %q, %v", res.Stdout, err)
	}
	if res, err := by(deaf.URL, deaf.Key, other).Execute(f.ctx, vm.ID, shell("printf %s \"$TRACEPARENT\"")); err != nil || len(res.Stdout) != len(told) {
		t.Errorf("%q, %v", res.Stdout, err)
	}
	_, err = f.client(g).DeleteVM(f.ctx, vm.ID)
	must(t, err)
	for _, s := range []interface{ End(context.Context) error }{g, deaf, w} {
		must(t, s.End(f.ctx)) // what waits is sent
	}

	all := to.of(trace)
	if n := len(to.of(other)); n > 0 {
		t.Errorf("%d spans are of a trace that nobody was to take", n)
	}
	const begun = "00f067aa0ba902b7"
	for name, service := range map[string]string{
		"POST /vms": "aetherium-gateway", "service create": "aetherium-gateway", "placement": "aetherium-gateway", "call vms.wake": "aetherium-gateway",
		"answer vms.wake": "aetherium-worker", "job vm.converge": "aetherium-worker", "start session": "aetherium-worker",
		"POST /vms/{vm}/execute": "aetherium-gateway", "call executions.run": "aetherium-gateway", "answer executions.run": "aetherium-worker",
		"execution": "aetherium-worker",
	} {
		var path []string
		for _, x := range all {
			if x.GetName() != name || x.service != service {
				continue
			}
			for path = []string{name}; path[len(path)-1] != begun; {
				up := hex.EncodeToString(x.GetParentSpanId())
				above, known := all[up]
				if !known && up != begun {
					t.Errorf("above %v there is %s, which nobody sent", path, up)
					break
				}
				x, path = above, append(path, map[bool]string{true: above.GetName(), false: up}[known])
			}
			break
		}
		if len(path) < 2 {
			t.Errorf("%s sent no %q", service, name)
		}
	}
	if len(told) != len("00-")+32+len("-")+16+len("-01") || told[3:35] != trace {
		t.Fatalf("the guest was told %q", told)
	}
	x, ok := all[told[36:52]]
	if !ok || x.GetName() != "execution" {
		t.Fatalf("the guest's parent is %v", x)
	}
	code := int64(-1)
	for _, a := range x.GetAttributes() {
		if a.GetKey() == "process.exit.code" {
			code = a.GetValue().GetIntValue()
		}
	}
	if code != 7 {
		t.Errorf("the execution's span says that it ended with %d", code)
	}
}
