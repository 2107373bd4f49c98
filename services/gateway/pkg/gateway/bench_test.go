package gateway_test

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/gateway/internal/fake"
	"github.com/aetherium/aetherium/services/gateway/pkg/gateway"
)

func quiet(_ *gateway.Config, d *gateway.Deps) {
	d.Logger = slog.New(slog.NewJSONHandler(io.Discard, nil))
}

// BenchmarkExecute measures what the gateway adds to running true: by its
// handler alone, over loopback HTTP, and, to be taken off, the fake core.
func BenchmarkExecute(b *testing.B) {
	l := newLab(b, quiet)
	vm := l.vm().ID
	body := []byte(`{"args":["true"]}`)
	b.Run("core", func(b *testing.B) {
		by := vmm.Caller{ProjectID: l.project}
		for b.Loop() {
			x, err := l.core.StartExecution(b.Context(), by, domain.ID(vm), vmm.StartExecution{Command: domain.Command{Args: []string{"true"}}})
			if err != nil {
				b.Fatal(err)
			}
			out, _ := l.core.Output(b.Context(), by, x.ID, 0, true)
			if _, err := out.Next(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("handler", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			r := httptest.NewRequest(http.MethodPost, "http://localhost"+wire.BasePath+"/vms/"+vm+"/execute", bytes.NewReader(body))
			r.Header.Set("X-API-Key", l.admin)
			w := httptest.NewRecorder()
			l.gateway.ServeHTTP(w, r)
			if w.Code != http.StatusOK {
				b.Fatal(w.Body)
			}
		}
	})
	b.Run("loopback", func(b *testing.B) {
		for b.Loop() {
			resp, err := l.client.Do(l.request(req{method: "POST", path: "/vms/" + vm + "/execute", body: string(body)}))
			if err != nil {
				b.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
		}
	})
}

// BenchmarkOutput measures a large output from the journal to a client.
func BenchmarkOutput(b *testing.B) {
	l := newLab(b, quiet)
	vm := l.vm().ID
	const size = 256 << 20
	l.core.Program("flood", func(p *fake.Process) int {
		piece := make([]byte, 32<<10)
		for range size / len(piece) {
			_, _ = p.Stdout.Write(piece)
		}
		return 0
	})
	x := get[wire.Execution](l, 201, req{method: "POST", path: "/vms/" + vm + "/executions?wait=true", body: `{"args":["flood"]}`})
	b.Run("websocket", func(b *testing.B) {
		b.SetBytes(size)
		for b.Loop() {
			s := l.mustDial("/executions/" + x.ID + "/stream")
			n := 0
			for n < size {
				_, r, err := s.conn.Reader(s.ctx)
				if err != nil {
					b.Fatal(err)
				}
				m, _ := io.Copy(io.Discard, r)
				if m > wire.FrameHeaderBytes && m != 0 {
					n += int(m) - wire.FrameHeaderBytes
				}
			}
			_ = s.conn.CloseNow()
		}
	})
	for name, accept := range map[string]string{"raw": "application/octet-stream", "sse": "text/event-stream"} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				resp, err := l.client.Do(l.request(req{method: "GET", path: "/executions/" + x.ID + "/output", header: map[string]string{"Accept": accept}}))
				if err != nil {
					b.Fatal(err)
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
			}
		})
	}
}

// BenchmarkAgent measures a request to an agent through the gateway, beside the
// same to the agent itself. Of those that change something most are counted in
// the audit log, for they come faster than each is recorded.
func BenchmarkAgent(b *testing.B) {
	agent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{}") }))
	b.Cleanup(agent.Close)
	l := newLab(b, quiet, recorded(b))
	made := l.sandbox(`{"templateID":"base"}`)
	l.core.Expose(domain.ID(made.SandboxID), vmm.AgentPort, agent.Listener.Addr().String())
	for name, path := range map[string]string{"looking": "/process.Process/List", "changing": "/process.Process/Start"} {
		q := l.toAgent(made, "POST", path, "{}")
		for where, at := range map[string]string{"gateway": q.path, "direct": agent.URL + path} {
			q.path = at
			client := l.client
			if where == "direct" {
				client = agent.Client()
			}
			b.Run(name+"/"+where, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					resp, err := client.Do(l.request(q))
					if err != nil {
						b.Fatal(err)
					}
					_, _ = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
				}
			})
		}
	}
}
