package gateway_test

import (
	"context"
	"sync"
	"testing"

	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/gateway/pkg/auth"
	"github.com/aetherium/aetherium/services/gateway/pkg/gateway"
)

// aheadSpy notes what is known of each request when its credentials are looked up.
type aheadSpy struct {
	auth.Authenticator

	mu   sync.Mutex
	seen [][2]domain.ID
}

func (s *aheadSpy) Authenticate(ctx context.Context, token string) (vmm.Caller, error) {
	if vm, execution, ok := vmm.AheadOf(ctx).Begin(); ok {
		s.mu.Lock()
		s.seen = append(s.seen, [2]domain.ID{vm, execution})
		s.mu.Unlock()
	}
	return s.Authenticator.Authenticate(ctx, token)
}

func (s *aheadSpy) take() [][2]domain.ID {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := s.seen
	s.seen = nil
	return seen
}

// Whoever looks up credentials knows what the request is about, for it can be read along.
func TestWhatARequestIsAboutIsKnownFirst(t *testing.T) {
	t.Parallel()
	spy := &aheadSpy{}
	l := newLab(t, func(_ *gateway.Config, d *gateway.Deps) {
		spy.Authenticator = d.Authenticator
		d.Authenticator = spy
	})
	vm, x := l.vm(), domain.NewID()
	spy.take()
	for _, tc := range []struct {
		req  req
		want [2]domain.ID
	}{
		{req{method: "GET", path: "/vms/" + vm.ID}, [2]domain.ID{domain.ID(vm.ID), ""}},
		{req{method: "POST", path: "/vms/" + vm.ID + "/execute", header: map[string]string{wire.HeaderExecution: x.String()},
			body: wire.Execute{ID: x.String(), Command: wire.Command{Args: []string{"true"}}}}, [2]domain.ID{domain.ID(vm.ID), x}},
	} {
		l.want(200, tc.req)
		if seen := spy.take(); len(seen) != 1 || seen[0] != tc.want {
			t.Errorf("%s %s is about %v", tc.req.method, tc.req.path, seen)
		}
	}
	l.want(200, req{method: "GET", path: "/vms"})
	if seen := spy.take(); len(seen) != 0 {
		t.Errorf("a list is about %v", seen)
	}
}
