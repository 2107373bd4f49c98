package docker

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/moby/moby/client"

	"github.com/aetherium/aetherium/services/core/internal/pipes"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/turns"
)

// TestUndoingAStartHasAnEnd has an engine that takes what it is asked, and does
// not answer any more: a real one would have to be waited for.
func TestUndoingAStartHasAnEnd(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		const machine = `{"Id":"c","State":{"Status":"created"},"HostConfig":{},"Config":{"Hostname":"m","Labels":{"` +
			labelInstance + `":"i","` + labelMachine + `":"m","` + labelNetwork + `":"none"}}}`
		var asked atomic.Int32
		server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if asked.Add(1) > 1 {
				<-r.Context().Done()
				return
			}
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, machine)
		})}
		listener := pipes.Listen()
		go func() { _ = server.Serve(listener) }()
		defer server.Close()
		engine, err := client.New(client.WithHost("http://engine"), client.WithAPIVersion("1.44"), client.WithDialContext(func(ctx context.Context, _, _ string) (net.Conn, error) {
			return listener.Dial(ctx)
		}))
		if err != nil {
			t.Fatal(err)
		}
		defer engine.Close()
		d := &Driver{
			cfg: Config{Instance: "i", RuntimeDir: dir, AgentPath: dir + "/none"}, engine: engine,
			log: slog.New(slog.DiscardHandler), turns: turns.New("boot"), watches: map[string]*watch{}, ctx: t.Context(),
		}
		begun := time.Now()
		err = d.Start(t.Context(), "m")
		if err == nil || !strings.Contains(err.Error(), "the guest agent is not installed") || asked.Load() < 2 {
			t.Errorf("%v, with %d questions", err, asked.Load())
		}
		if took := time.Since(begun); took > engineTimeout {
			t.Errorf("it took %v", took)
		}
		_, done, err := d.turns.Begin(t.Context(), "m", true)
		if err != nil {
			t.Fatal(err)
		}
		done()
	})
}
