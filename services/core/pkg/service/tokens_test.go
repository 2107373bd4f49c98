package service_test

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/seal"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/watch"
)

// counted counts what is opened.
type counted struct {
	seal.Sealer
	opened atomic.Int32
}

func (c *counted) Open(ctx context.Context, place string, sealed []byte) ([]byte, error) {
	c.opened.Add(1)
	return c.Sealer.Open(ctx, place, sealed)
}

// tokenBench is a service over a bench's store whose sealer is counted and whose
// clock is the test's.
func tokenBench(t testing.TB) (b *bench, opened *atomic.Int32, clock *time.Time) {
	t.Helper()
	b = newBench(t)
	sealer, now := &counted{Sealer: b.sealer}, b.now()
	b.Service = service.New(b.config, service.Deps{
		Store: b.store, Nodes: nodes{}, Sealer: sealer, Changes: new(watch.Hub[domain.ID]), Log: slog.New(slog.DiscardHandler),
		Now: func() time.Time { return now },
	})
	return b, &sealer.opened, &now
}

// change writes a VM's row as another part of the server would.
func (b *bench) change(t testing.TB, id domain.ID, f func(*domain.VM)) {
	t.Helper()
	must(t, b.store.Update(b.ctx, func(tx storage.Tx) error {
		vm, err := tx.VMs().Get(b.ctx, storage.System, id)
		if err != nil {
			return err
		}
		f(vm)
		return tx.VMs().Update(b.ctx, vm)
	}))
}

// Tokens are opened once for many requests, and what a row says counts at once
// for all that.
func TestTokensAreRemembered(t *testing.T) {
	t.Parallel()
	b, opened, now := tokenBench(t)
	vm, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{})
	must(t, err)
	ask := func() (preview, agent string) {
		t.Helper()
		shown, err := b.Preview(b.ctx, vm.ID)
		must(t, err)
		access, err := b.AgentAccess(b.ctx, vm.ID)
		must(t, err)
		return shown.Token, access.Token
	}
	preview, agent := ask()
	for range 3 {
		if p, a := ask(); p != preview || a != agent {
			t.Fatalf("the tokens are %q and %q, they were %q and %q", p, a, preview, agent)
		}
	}
	if n := opened.Load(); n != 1 {
		t.Errorf("they were opened %d times", n)
	}
	*now = now.Add(time.Hour)
	if ask(); opened.Load() != 2 {
		t.Errorf("they are remembered for an hour")
	}

	// Other tokens.
	sealed, err := b.sealer.Seal(b.ctx, storage.SealedVMToken(vm.ID), []byte("0123456789012345678901234567890123456789other"))
	must(t, err)
	b.change(t, vm.ID, func(vm *domain.VM) { vm.TokenSealed = sealed })
	if p, a := ask(); p == preview || a != "other" {
		t.Errorf("the tokens are %q and %q", p, a)
	}
	// Who may visit its previews.
	b.change(t, vm.ID, func(vm *domain.VM) { vm.Spec.Previews.Public = true })
	if shown, err := b.Preview(b.ctx, vm.ID); err != nil || !shown.Public {
		t.Errorf("%+v, %v", shown, err)
	}
	// Paused: it has its tokens, and is not reached by them.
	b.change(t, vm.ID, func(vm *domain.VM) { vm.Desired, vm.Observed = domain.WantPaused, domain.Paused })
	if _, a := ask(); a != "other" {
		t.Errorf("paused: %q", a)
	}
	if _, err := b.Awake(b.ctx, vm.ID); !errors.HasCode(err, errors.Conflict) {
		t.Errorf("paused: %v", err)
	}
	if _, err := b.DialAgent(b.ctx, vm.ID, false); !errors.HasCode(err, errors.Conflict) {
		t.Errorf("paused: %v", err)
	}
}

// A VM that is killed, by its owner or another part of the server, has no tokens
// from then on; and those of one VM are nobody else's.
func TestNoTokenOutlivesItsVM(t *testing.T) {
	t.Parallel()
	b, _, _ := tokenBench(t)
	for name, kill := range map[string]func(id domain.ID){
		"by its owner": func(id domain.ID) {
			_, err := b.DeleteVM(b.ctx, b.by, id)
			must(t, err)
		},
		"by another part": func(id domain.ID) {
			b.change(t, id, func(vm *domain.VM) { vm.Desired = domain.WantDeleted })
		},
	} {
		vm, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{})
		must(t, err)
		other, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{Name: "other"})
		must(t, err)
		access, err := b.AgentAccess(b.ctx, vm.ID)
		must(t, err)
		theirs, err := b.AgentAccess(b.ctx, other.ID)
		must(t, err)
		if access.Token == theirs.Token {
			t.Errorf("%s: two VMs have one token", name)
		}
		kill(vm.ID)
		if access, err := b.AgentAccess(b.ctx, vm.ID); !errors.HasCode(err, errors.Gone) || access.Token != "" {
			t.Errorf("%s: the agent's is %q, %v", name, access.Token, err)
		}
		if shown, err := b.Preview(b.ctx, vm.ID); !errors.HasCode(err, errors.Gone) || shown.Token != "" {
			t.Errorf("%s: that of previews is %q, %v", name, shown.Token, err)
		}
		kill(other.ID)
	}
}

// live is a fleet whose worker has a VM's row in memory, as of VMs that run.
type live struct {
	nodes
	vm *domain.VM
}

func (l live) Here() service.Node { return liveNode{vm: l.vm} }

type liveNode struct {
	node
	vm *domain.VM
}

func (n liveNode) Live(domain.ID) (*domain.VM, bool) { return n.vm, true }

// BenchmarkAgentAccess is what a request to the agent of a VM that runs costs to
// be judged: with its tokens remembered, and with them opened each time.
func BenchmarkAgentAccess(b *testing.B) {
	s, _, _ := tokenBench(b)
	vm, err := s.CreateVM(s.ctx, s.by, vmm.CreateVM{})
	must(b, err)
	for name, step := range map[string]time.Duration{"remembered": 0, "opened": time.Hour} {
		b.Run(name, func(b *testing.B) {
			now := s.now()
			running := service.New(s.config, service.Deps{
				Store: s.store, Nodes: live{vm: vm}, Sealer: s.sealer, Changes: new(watch.Hub[domain.ID]), Log: slog.New(slog.DiscardHandler),
				Now: func() time.Time { now = now.Add(step); return now },
			})
			b.ReportAllocs()
			for b.Loop() {
				if _, err := running.AgentAccess(s.ctx, vm.ID); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
