package attack

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/services/core/pkg/guest"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

var agentAttacks = map[string]func(*testing.T, *bed, *machine){
	"its own agent":       attackAgent,
	"links in a maze":     attackLinks,
	"endless output":      attackOutput,
	"the way to a socket": attackSockets,
}

// attackAgent shuts the agent's sockets, floods its connections and stops it. The
// machine is the guest's to break, not more: calls end, and the host can end it.
func attackAgent(t *testing.T, b *bed, m *machine) {
	const all = "all was tried" // or it ended before that
	b.Lab.Hits()
	m.begin(t, "agent", netip.AddrPortFrom(publicIP, dataPort).String(), all).let()
	b.Lab.await(t, all, m.ended(t))
	hasty := guest.New(func(ctx context.Context) (net.Conn, error) { return m.driver.Dial(ctx, m.id, vmm.AgentPort) }, guest.Options{CallTimeout: time.Second})
	defer hasty.Close()
	if _, err := hasty.Handshake(limited(t)); err != nil {
		t.Log("an agent under attack:", err) // or it answered: that is its own affair
	}
	m.anew(t)
}

// ended is closed when the machine has ended by itself.
func (m *machine) ended(t *testing.T) <-chan struct{} {
	ended := make(chan struct{})
	go func() {
		if _, err := m.driver.Wait(t.Context(), m.id); err == nil {
			close(ended)
		}
	}()
	return ended
}

// anew stops a machine, whatever became of it, and starts it again. It is as good
// as before.
func (m *machine) anew(t *testing.T) {
	t.Helper()
	if err := m.driver.Stop(limited(t), m.id, 0); err != nil {
		t.Fatalf("stopping the machine: %v", err)
	}
	m.session.Gone(limited(t), "the machine was stopped")
	if _, err := m.client.Handshake(limited(t)); err == nil {
		t.Error("an agent that ended shook hands")
	}
	m.detach()
	m.start(t)
	m.admit(t) // what nobody had written to its disk is not there after such an end
	m.alive(t, "the machine that was started again")
}

// attackLinks has the host read, list, pack and write below a name that the
// guest swaps all the while for links to a file of the host.
func attackLinks(t *testing.T, b *bed, m *machine) {
	path := marker(t)
	dir, base := filepath.Split(path)
	maze := m.begin(t, "maze", path)
	maze.until("ready")
	root := vmm.FileOptions{User: "root"}
	rounds := 60
	if !b.Shared {
		rounds = 10 // no file of the host is in reach of its kernel, at whatever moment
	}
	for range rounds {
		var got bytes.Buffer
		for _, name := range []string{"/maze/now/" + base, "/maze/now/file", "/maze/link/" + base, "/proc/1/root" + path, "/proc/self/cwd" + path} {
			if _, body, err := m.client.Read(limited(t), name, root); err == nil {
				_, _ = io.Copy(&got, body)
				_ = body.Close()
			}
		}
		if body, err := m.client.TarDown(limited(t), "/maze/now", root); err == nil {
			_, _ = io.Copy(&got, body)
			_ = body.Close()
		}
		if entries, err := m.client.List(limited(t), "/maze/now", 3, root); err == nil {
			for _, e := range entries {
				if e.Name == base {
					t.Fatalf("the host's directory was listed: %+v", e)
				}
			}
		}
		if strings.Contains(got.String(), secret) {
			t.Fatal("the host's file was read")
		}
		_, _ = m.client.Write(limited(t), "/maze/now/planted", strings.NewReader("planted"), root)
	}
	maze.end()
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("the host's directory has %v, %v", left, err)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != secret {
		t.Errorf("the host's file is %q, %v", text, err)
	}
}

// attackOutput writes more than any journal holds, of what terminals obey. The
// journal stays within its bound and the machine answers.
func attackOutput(t *testing.T, _ *bed, m *machine) {
	x := m.begin(t, "flood")
	if _, err := m.session.Wait(limited(t), x.id); err != nil {
		t.Errorf("the flood: %v", err)
	}
	m.alive(t, "the machine that flooded")
}

// attackSockets makes links where the agent's socket could be thought to be.
// The host dials what it bound itself, not what a guest names.
func attackSockets(t *testing.T, _ *bed, m *machine) {
	root := vmm.FileOptions{User: "root"}
	for _, dir := range []string{"/dev/.aetherium", "/run/aetherium", "/.aetherium"} {
		_, _ = m.client.MakeDir(limited(t), dir, root)
		for _, name := range []string{"agent.sock", "fc-agent.sock", "listener"} {
			_, _ = m.client.Write(limited(t), dir+"/"+name, strings.NewReader("not a socket"), root)
		}
	}
	m.alive(t, "the machine with sockets of its own")
}
