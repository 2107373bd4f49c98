package gateway_test

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/pkg/client"
	"github.com/aetherium/aetherium/services/gateway/internal/fake"
)

// flaky is a network whose connections break after a while, as often as told.
type flaky struct {
	mu    sync.Mutex
	rand  *rand.Rand
	cuts  int
	inner net.Dialer
}

func (f *flaky) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := f.inner.DialContext(ctx, network, addr)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil && f.cuts > 0 {
		f.cuts--
		c = &cutConn{Conn: c, left: 2_000 + int64(f.rand.IntN(150_000))}
	}
	return c, err
}

// TestClient checks the contract with the product's own client.
func TestClient(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	net := &flaky{rand: rand.New(rand.NewPCG(1, 9))}
	c, err := client.New(client.Options{URL: l.server.URL(), Key: l.admin, Patience: 30 * time.Second, Transport: &http.Transport{DialContext: net.DialContext}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	ctx := t.Context()
	vm, err := c.CreateVM(ctx, wire.CreateVM{Name: "c"})
	if err != nil || vm.State != "running" {
		t.Fatal(vm, err)
	}
	r, err := c.Execute(ctx, "c", wire.Execute{Command: wire.Command{Args: []string{"echo", "hi"}}})
	if err != nil || r.Stdout != "hi\n" {
		t.Fatal(r, err)
	}
	if _, err := c.Execute(ctx, "c", wire.Execute{Command: wire.Command{Args: []string{"none"}}}); !errors.HasCode(err, errors.InvalidArgument) {
		t.Fatal(err)
	}
	file := client.File{VM: "c", Path: "/a/b"}
	content := bytes.Repeat([]byte("0123456789"), 100_000)
	if _, err := c.WriteFile(ctx, file, bytes.NewReader(content), int64(len(content)), 0o755); err != nil {
		t.Fatal(err)
	}
	net.mu.Lock()
	net.cuts = 3
	net.mu.Unlock()
	c.Close() // idle connections, so that new ones are cut
	var back bytes.Buffer
	if _, err := c.ReadFile(ctx, file, &back); err != nil || !bytes.Equal(back.Bytes(), content) {
		t.Fatalf("%d bytes, %v", back.Len(), err)
	}
	if port, err := c.Port(ctx, "c", 80); err != nil || port.Token == "" {
		t.Fatal(port, err)
	}
	if link, err := c.CreateLink(ctx, "c", 80, wire.CreateLink{}); err != nil || link.URL == "" {
		t.Fatal(link, err)
	}
	if list, err := client.Collect(c.VMs(ctx, client.VMFilter{States: []string{"running"}})); err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	if err := c.DropVM(ctx, "c"); err != nil {
		t.Fatal(err)
	}
}

// TestClientStreamOverABadNetwork sends and receives a lot while connections break.
func TestClientStreamOverABadNetwork(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	vm := l.vm().ID
	l.core.Program("tee", func(p *fake.Process) int {
		n, _ := io.Copy(p.Stdout, p.Stdin)
		if n != 1<<20 {
			return 1
		}
		return 0
	})
	network := &flaky{rand: rand.New(rand.NewPCG(2, 9)), cuts: 20}
	c, err := client.New(client.Options{URL: l.server.URL(), Key: l.user, Patience: 30 * time.Second, Transport: &http.Transport{DialContext: network.DialContext}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	s, err := c.Start(t.Context(), vm, wire.StartExecution{Command: wire.Command{Args: []string{"tee"}}, Stdin: true}, client.StreamOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	want := make([]byte, 1<<20)
	r := rand.New(rand.NewPCG(3, 9))
	for i := range want {
		want[i] = byte(r.Uint32())
	}
	go func() {
		for rest := want; len(rest) > 0; {
			n := min(1+r.IntN(30_000), len(rest))
			if _, err := s.Write(rest[:n]); err != nil {
				return
			}
			rest = rest[n:]
		}
		s.CloseStdin()
	}()
	var got []byte
	for {
		ev, err := s.Next(t.Context())
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case ev.Exit != nil && ev.Exit.ExitCode != 0:
			t.Fatalf("exit %+v", ev.Exit)
		case ev.Gap != nil || ev.Warning != nil:
			t.Fatalf("event %+v", ev)
		}
		got = append(got, ev.Data...)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("%d bytes came back of %d, or not the same", len(got), len(want))
	}
	network.mu.Lock()
	defer network.mu.Unlock()
	if network.cuts > 15 {
		t.Fatal("hardly a connection broke: the test tests nothing")
	}
}
