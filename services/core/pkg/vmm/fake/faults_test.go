package fake_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/guest"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/fake"
)

func boot(t *testing.T, d *fake.Driver) string {
	t.Helper()
	id := string(domain.NewID())
	if _, err := d.Create(t.Context(), vmm.Spec{MachineID: id}); err != nil {
		t.Fatal(err)
	}
	if err := d.Start(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	return id
}

func client(t *testing.T, d *fake.Driver, id string) *guest.Client {
	c := guest.New(func(ctx context.Context) (net.Conn, error) { return d.Dial(ctx, id, vmm.AgentPort) }, guest.Options{})
	t.Cleanup(c.Close)
	return c
}

func TestFailNext(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	d := fake.New(n)
	defer func() { _ = d.Close() }()
	full := errors.New(errors.NoSpace, "full")
	n.FailNext(fake.OpCreate, full)
	spec := vmm.Spec{MachineID: string(domain.NewID())}
	if _, err := d.Create(t.Context(), spec); !errors.HasCode(err, errors.NoSpace) {
		t.Errorf("create: %v", err)
	}
	if leaks := n.Leaks(); len(leaks) > 0 {
		t.Errorf("left by the failure: %v", leaks)
	}
	if _, err := d.Create(t.Context(), spec); err != nil {
		t.Errorf("the next one: %v", err)
	}
	n.FailNext(fake.OpStart, full)
	if err := d.Start(t.Context(), spec.MachineID); !errors.Is(err, full) {
		t.Errorf("start: %v", err)
	}
}

func TestHangNext(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	d := fake.New(n)
	defer func() { _ = d.Close() }()
	id := string(domain.NewID())
	if _, err := d.Create(t.Context(), vmm.Spec{MachineID: id}); err != nil {
		t.Fatal(err)
	}
	release := n.HangNext(fake.OpStart)
	started := make(chan error, 1)
	go func() { started <- d.Start(t.Context(), id) }()
	select {
	case err := <-started:
		t.Fatalf("it did not hang: %v", err)
	default:
	}
	release()
	if err := <-started; err != nil {
		t.Error(err)
	}
	// A deletion ends a creation that hangs.
	n.HangNext(fake.OpCreate)
	other := string(domain.NewID())
	go func() {
		_, err := d.Create(t.Context(), vmm.Spec{MachineID: other})
		started <- err
	}()
	for deleted := false; !deleted; {
		states, err := d.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		deleted = len(states) == 2
	}
	if err := d.Delete(t.Context(), other); err != nil {
		t.Error(err)
	}
	if err := <-started; err == nil {
		t.Error("the deleted machine was created")
	}
}

func TestLieNext(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	d := fake.New(n)
	defer func() { _ = d.Close() }()
	n.LieNext(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "lies") }))
	if _, err := client(t, d, boot(t, d)).Handshake(t.Context()); !errors.HasCode(err, errors.GuestFault) {
		t.Errorf("the liar: %v", err)
	}
	if _, err := client(t, d, boot(t, d)).Handshake(t.Context()); err != nil {
		t.Errorf("the next machine: %v", err)
	}
}

func TestKillAndCut(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	d := fake.New(n)
	defer func() { _ = d.Close() }()
	id := boot(t, d)
	c := client(t, d, id)
	for range 5 {
		if _, err := c.Handshake(t.Context()); err != nil {
			t.Fatal(err)
		}
		n.Cut(id)
		// A call that was under way may fail; the next one finds the channel again.
		_, _ = c.Handshake(t.Context())
	}
	n.Kill(id, vmm.Exit{Known: true, Code: 137, Signal: 9, OOM: true})
	exit, err := d.Wait(t.Context(), id)
	if err != nil || !exit.OOM || exit.Signal != 9 || exit.At.IsZero() {
		t.Errorf("%+v, %v", exit, err)
	}
	if _, err := d.Dial(t.Context(), id, vmm.AgentPort); !errors.HasCode(err, errors.Conflict) {
		t.Errorf("dial: %v", err)
	}
	if err := d.Start(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if _, err := client(t, d, id).Handshake(t.Context()); err != nil {
		t.Errorf("started again: %v", err)
	}
}
