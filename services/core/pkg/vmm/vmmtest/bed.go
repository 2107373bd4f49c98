package vmmtest

import (
	"bytes"
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/guest"
	"github.com/aetherium/aetherium/services/core/pkg/journal"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// bed is what a behaviour is tested in.
type bed struct {
	*Harness
	config Config
	info   domain.DriverInfo
}

// box is a running machine with what a worker holds of it.
type box struct {
	id       string
	vm       domain.ID
	client   *guest.Client
	session  *guest.Session
	dir      string // of the journals
	journals *journal.Store
}

// machine creates a machine, starts it and shakes hands. It is deleted with the test.
func (b *bed) machine(t *testing.T, change ...func(*vmm.Spec)) *box {
	t.Helper()
	s := b.spec()
	for _, c := range change {
		c(&s)
	}
	b.create(t, s)
	b.start(t, s.MachineID)
	return b.attach(t, s.MachineID, t.TempDir())
}

func (b *bed) create(t *testing.T, s vmm.Spec) {
	t.Helper()
	t.Cleanup(func() {
		if err := b.Driver.Delete(context.WithoutCancel(t.Context()), s.MachineID); err != nil {
			t.Errorf("deleting the machine: %v", err)
		}
	})
	if _, err := b.Driver.Create(timeout(t), s); err != nil {
		t.Fatalf("creating the machine: %v", err)
	}
}

func (b *bed) start(t *testing.T, id string) {
	t.Helper()
	if err := b.Driver.Start(timeout(t), id); err != nil {
		t.Fatalf("starting the machine: %v", err)
	}
}

// attach does what a worker does with a machine that runs.
func (b *bed) attach(t *testing.T, id, dir string, known ...domain.ID) *box {
	t.Helper()
	x := b.greet(t, id, dir)
	x.open(t, known...)
	return x
}

// greet shakes hands with a machine that runs.
func (b *bed) greet(t *testing.T, id, dir string) *box {
	t.Helper()
	driver := b.Driver
	x := &box{id: id, vm: domain.ID(id), dir: dir}
	x.client = guest.New(func(ctx context.Context) (net.Conn, error) { return driver.Dial(ctx, id, vmm.AgentPort) }, guest.Options{})
	if _, err := x.client.Handshake(timeout(t)); err != nil {
		t.Fatalf("shaking hands: %v", err)
	}
	var err error
	// As large as the largest output: the suite reads every byte.
	if x.journals, err = journal.OpenStore(dir, journal.Options{MaxBytes: 256 << 20}); err != nil {
		t.Fatal(err)
	}
	return x
}

// open begins to supervise what runs in a machine.
func (x *box) open(t *testing.T, known ...domain.ID) {
	x.session = guest.Open(guest.SessionConfig{Client: x.client, Journals: x.journals, VM: x.vm, Epoch: 1}, known...)
	t.Cleanup(x.detach)
}

// detach lets go of the machine as a worker that ends does. Twice is fine.
func (x *box) detach() {
	x.session.Close()
	x.client.Close()
	_ = x.journals.Close()
}

func timeout(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), callTimeout)
	t.Cleanup(cancel)
	return ctx
}

// result is what a command did.
type result struct {
	stdout, stderr, pty string
	end                 domain.ExecutionEnd
}

func (x *box) start(t *testing.T, c domain.Command) domain.ID {
	t.Helper()
	id := domain.NewID()
	if _, err := x.session.Start(timeout(t), guest.StartRequest{ID: id, Command: c}); err != nil {
		t.Fatalf("starting %q: %v", c.Args, err)
	}
	return id
}

// follow reads an execution's output from its start.
func (x *box) follow(t *testing.T, id domain.ID) *follower {
	t.Helper()
	r, err := x.journals.Read(journal.Key{VM: x.vm, Epoch: 1, Execution: id}, 0, true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return &follower{t: t, r: r}
}

// follower reads output and checks that no byte is missing or comes twice.
type follower struct {
	t      *testing.T
	r      *journal.Reader
	offset int64
	midway bool         // what came first was told to another reader
	text   bytes.Buffer // what until has read
}

// next gives the next event, or false at the end.
func (f *follower) next() (domain.OutputEvent, bool) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), callTimeout) // for each: a keeper's are all of its machine's life
	defer cancel()
	e, err := f.r.Next(ctx)
	if errors.Is(err, io.EOF) {
		return e, false
	}
	if err != nil {
		f.t.Fatalf("reading output: %v", err)
	}
	if f.midway && e.Gap != nil && e.Gap.From == 0 && f.offset == 0 {
		f.offset = e.Gap.To
		return f.next()
	}
	if e.Offset != f.offset || e.Gap != nil {
		f.t.Fatalf("output at offset %d (gap %v), want %d", e.Offset, e.Gap, f.offset)
	}
	f.offset += int64(len(e.Data))
	return e, true
}

// until reads until all output so far contains text.
func (f *follower) until(text string) {
	f.t.Helper()
	for !strings.Contains(f.text.String(), text) {
		f.more(text)
	}
}

// more reads on to where awaited may be.
func (f *follower) more(awaited string) {
	f.t.Helper()
	e, ok := f.next()
	if !ok || e.End != nil {
		f.t.Fatalf("the command ended before it said %q; it said %q", awaited, f.text.String())
	}
	f.text.Write(e.Data)
}

// rest reads to the end.
func (f *follower) rest() result {
	f.t.Helper()
	var r result
	var out, err, pty bytes.Buffer
	for {
		e, ok := f.next()
		if !ok {
			r.stdout, r.stderr, r.pty = out.String(), err.String(), pty.String()
			return r
		}
		switch {
		case e.End != nil:
			r.end = *e.End
		case e.Stream == domain.Stdout:
			out.Write(e.Data)
		case e.Stream == domain.Stderr:
			err.Write(e.Data)
		default:
			pty.Write(e.Data)
		}
	}
}

// run runs a command to its end.
func (x *box) run(t *testing.T, c domain.Command) result {
	t.Helper()
	return x.follow(t, x.start(t, c)).rest()
}

// sh runs a script that must succeed and gives what it printed, trimmed.
func (x *box) sh(t *testing.T, script string) string {
	t.Helper()
	r := x.run(t, shell(script))
	if r.end != (domain.ExecutionEnd{}) {
		t.Fatalf("%q ended with %+v; it said %q and %q", script, r.end, r.stdout, r.stderr)
	}
	return strings.TrimSpace(r.stdout)
}

func shell(script string) domain.Command {
	return domain.Command{Args: []string{"/bin/sh", "-c", script}}
}

func python(script string, args ...string) domain.Command {
	return domain.Command{Args: append([]string{"python3", "-c", script}, args...)}
}

func asRoot(c domain.Command) domain.Command {
	c.User = "root"
	return c
}

// settle is how long nothing must happen for the suite to believe that nothing will.
const settle = 300 * time.Millisecond
