package fleet

import (
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/tests/internal/server"
)

// A one-time link that one gateway made is opened at any, once in all, also when
// the one that made it is gone, or those that open it at once are many.
func TestOneTimeLinksOfAFleet(t *testing.T) {
	f := newField(t)
	one, other := f.gateway("gateway-1"), f.gateway("gateway-2")
	c := f.client(one)
	f.worker("worker", one)
	if out, err := one.CLI(f.ctx, "template", "build", "first", "--dir", f.rootfs); err != nil {
		t.Fatal(err, out)
	}
	vm, err := c.CreateVM(f.ctx, api.CreateVM{Template: "first", Network: "none"})
	must(t, err)
	visitor := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	defer visitor.CloseIdleConnections()
	open := func(at *server.Server, link string) int {
		t.Helper()
		u, err := url.Parse(link)
		must(t, err)
		req, err := http.NewRequestWithContext(f.ctx, http.MethodGet, at.URL+"/?"+u.RawQuery, nil)
		must(t, err)
		req.Host = u.Host // as whatever is in front of the gateways passes it on
		resp, err := visitor.Do(req)
		must(t, err)
		must(t, resp.Body.Close())
		return resp.StatusCode
	}
	linked := func() string {
		t.Helper()
		link, err := c.CreateLink(f.ctx, vm.ID, 8080, api.CreateLink{})
		must(t, err)
		return link.URL
	}
	const opened, refused = http.StatusSeeOther, http.StatusUnauthorized

	link := linked()
	if got := open(other, link); got != opened {
		t.Fatalf("at the other gateway: %d", got)
	}
	for _, at := range []*server.Server{other, one} {
		if got := open(at, link); got != refused {
			t.Errorf("once more at %s: %d", at.DataDir, got)
		}
	}

	link = linked()
	var won atomic.Int32
	var all sync.WaitGroup
	for n := range 20 {
		all.Go(func() {
			switch got := open([]*server.Server{one, other}[n%2], link); got {
			case opened:
				won.Add(1)
			case refused:
			default:
				t.Errorf("of many: %d", got)
			}
		})
	}
	all.Wait()
	if won.Load() != 1 {
		t.Errorf("%d of many have opened it", won.Load())
	}

	link, used := linked(), linked()
	if got := open(one, used); got != opened {
		t.Errorf("where it was made: %d", got)
	}
	must(t, one.Kill())
	if got := open(other, link); got != opened {
		t.Errorf("without the gateway that made it: %d", got)
	}
	must(t, one.Run(f.ctx))
	for _, spent := range []string{link, used} {
		if got := open(one, spent); got != refused {
			t.Errorf("after a restart: %d", got)
		}
	}
}
