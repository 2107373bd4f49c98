package worker_test

import (
	"context"
	"sync"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/seal"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/worker"
)

// remoteKeys is a keyring that can be away.
type remoteKeys struct {
	seal.Keyring
	mu             sync.Mutex
	wraps, unwraps bool          // are answered
	asked          chan struct{} // gets one for each unwrap that was refused, if there is room
}

func (r *remoteKeys) set(wraps, unwraps bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wraps, r.unwraps = wraps, unwraps
}

func (r *remoteKeys) answers(what *bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if *what {
		return nil
	}
	return errors.New(errors.Unavailable, "the keys are away")
}

func (r *remoteKeys) Wrap(ctx context.Context, key []byte) (string, []byte, error) {
	if err := r.answers(&r.wraps); err != nil {
		return "", nil, err
	}
	return r.Keyring.Wrap(ctx, key)
}

func (r *remoteKeys) Unwrap(ctx context.Context, id string, wrapped []byte) ([]byte, error) {
	if err := r.answers(&r.unwraps); err != nil {
		select {
		case r.asked <- struct{}{}:
		default:
		}
		return nil, err
	}
	return r.Keyring.Unwrap(ctx, id, wrapped)
}

// withRemoteKeys makes a bed whose keys can be away, and a function that waits
// until somebody was refused.
func withRemoteKeys(t *testing.T, options ...func(*worker.Config)) (*bed, *remoteKeys, func()) {
	t.Helper()
	b := newBed(t, options...)
	keys, err := seal.Parse(seal.NewKey())
	must(t, err)
	remote := &remoteKeys{Keyring: keys, wraps: true, unwraps: true, asked: make(chan struct{}, 1)}
	b.down()
	b.sealer = seal.New(remote)
	b.up()
	return b, remote, func() {
		t.Helper()
		select {
		case <-remote.asked:
		case <-b.ctx.Done():
			t.Fatal("nobody asked for the key")
		}
	}
}

// While the keys are away, VMs wait for their environment: none fails, none
// runs without it, and what needs a key to be stored is refused.
func TestVMsOutliveAnOutageOfTheKeys(t *testing.T) {
	t.Parallel()
	b, remote, refused := withRemoteKeys(t)
	env := vmm.CreateVM{Env: map[string]string{"A": "value"}}
	stopped := b.running(env)
	_, err := b.StopVM(b.ctx, b.by, stopped.ID)
	must(t, err)
	_, err = b.WaitVM(b.ctx, b.by, stopped.ID)
	must(t, err)
	runs := b.running(env)

	remote.set(true, false)
	fresh, err := b.CreateVM(b.ctx, b.by, env)
	must(t, err)
	refused()
	_, err = b.StartVM(b.ctx, b.by, stopped.ID)
	must(t, err)
	refused()
	if out, _ := b.sh(runs.ID, "echo $A"); out != "value\n" {
		t.Errorf("a VM that runs: %q", out)
	}
	remote.set(false, false)
	if vm, err := b.CreateVM(b.ctx, b.by, env); !errors.HasCode(err, errors.Unavailable) {
		t.Errorf("what cannot be stored: %+v, %v", vm, err)
	}
	if _, err := b.PutSecret(b.ctx, b.by, "S", "v"); !errors.HasCode(err, errors.Unavailable) {
		t.Errorf("a secret: %v", err)
	}
	b.crash()
	select { // what the dead worker was refused is no news
	case <-remote.asked:
	default:
	}
	go func() { // the next one is refused first
		select {
		case <-remote.asked:
		case <-b.ctx.Done():
		}
		remote.set(true, true)
	}()
	b.up()
	for _, vm := range []*domain.VM{fresh, stopped, runs} {
		now, err := b.WaitVM(b.ctx, b.by, vm.ID)
		if err != nil || now.Observed != domain.Running {
			t.Fatalf("the VM is %s (%s), %v", now.Observed, now.Reason, err)
		}
		if out, _ := b.sh(vm.ID, "echo $A"); out != "value\n" {
			t.Errorf("afterwards: %q", out)
		}
	}
	list, err := b.ListVMs(b.ctx, b.by, vmm.VMFilter{IncludeDeleted: true})
	if err != nil || len(list.Items) != 3 {
		t.Errorf("%d VMs, %v", len(list.Items), err)
	}
}

// The same for a VM that gets a machine that runs already, with a secret and a
// policy: the policy is in force, and the secret there, once it runs.
func TestAMachineOfThePoolWaitsForKeys(t *testing.T) {
	t.Parallel()
	b, remote, refused := withRemoteKeys(t, func(c *worker.Config) { c.Pool = worker.PoolConfig{Size: 1, Kinds: 1} })
	_, err := b.PutSecret(b.ctx, b.by, "S", "sesame")
	must(t, err)
	b.running(vmm.CreateVM{Network: domain.NetworkNAT})
	_, err = b.worker.PoolReady(b.ctx)
	must(t, err)
	remote.set(true, false)
	vm, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{
		Network: domain.NetworkNAT, Egress: &closed, Env: map[string]string{"A": "value"}, Secrets: []domain.SecretUse{{Name: "S", Env: "TOKEN"}},
	})
	must(t, err)
	refused()
	refused()
	remote.set(true, true)
	vm, err = b.WaitVM(b.ctx, b.by, vm.ID)
	if err != nil || vm.Observed != domain.Running {
		t.Fatalf("the VM is %s (%s), %v", vm.Observed, vm.Reason, err)
	}
	b.inForce("after the outage", vm.ID, closed)
	if out, _ := b.sh(vm.ID, "echo $A $TOKEN"); out != "value sesame\n" {
		t.Errorf("%q", out)
	}
}
