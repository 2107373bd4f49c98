package attack

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/guest"
	"github.com/aetherium/aetherium/services/core/pkg/journal"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// patience bounds every call and command; it only ends a test that hangs.
const patience = 5 * time.Minute

func limited(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// machine is one that runs, with what a worker holds of it, and the intruder
// in it as /intruder.
type machine struct {
	driver   vmm.Driver
	permits  func(string) string
	id       string
	client   *guest.Client
	session  *guest.Session
	journals *journal.Store
}

// boot makes a machine; it is deleted with the test.
func (b *bed) boot(t *testing.T, change ...func(*vmm.Spec)) *machine {
	t.Helper()
	s := b.Spec
	s.MachineID = string(domain.NewID())
	s.Hostname = "host-" + s.MachineID[:8]
	s.DiskFrom, s.Memory = b.memory, b.memory != ""
	for _, c := range change {
		c(&s)
	}
	m := &machine{driver: b.Driver, permits: b.Permits, id: s.MachineID}
	t.Cleanup(func() {
		if err := b.Driver.Delete(context.WithoutCancel(t.Context()), m.id); err != nil {
			t.Errorf("deleting the machine: %v", err)
		}
	})
	if _, err := b.Driver.Create(limited(t), s); err != nil {
		t.Fatalf("creating a machine: %v", err)
	}
	m.start(t)
	if s.Memory {
		return m
	}
	m.admit(t)
	return m
}

// admit puts the intruder into the machine.
func (m *machine) admit(t *testing.T) {
	t.Helper()
	program, err := os.Open(os.Getenv(intruderEnv))
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	if _, err := m.client.Write(limited(t), "/intruder", program, vmm.FileOptions{User: "root", Mode: 0o755}); err != nil {
		t.Fatalf("putting the intruder into the machine: %v", err)
	}
}

// afresh has a machine be none that goes on from another's memory.
func afresh(s *vmm.Spec) { s.DiskFrom, s.Memory = "", false }

// remember keeps a machine's memory for the test; its other machines go on from it.
func (b *bed) remember(t *testing.T, m *machine) string {
	t.Helper()
	s, ok := b.Driver.(vmm.Snapshotter)
	if !ok {
		t.Fatal("the driver forks memories and keeps none")
	}
	id := string(domain.NewID())
	t.Cleanup(func() {
		if err := s.DeleteSnapshot(context.WithoutCancel(t.Context()), id); err != nil {
			t.Errorf("deleting the snapshot: %v", err)
		}
	})
	if _, err := s.Snapshot(limited(t), m.id, id, domain.SnapshotMemory); err != nil {
		t.Fatalf("keeping a machine's memory: %v", err)
	}
	return id
}

// start starts the machine and attaches to it as a worker does.
func (m *machine) start(t *testing.T) {
	t.Helper()
	if err := m.driver.Start(limited(t), m.id); err != nil {
		t.Fatalf("starting a machine: %v", err)
	}
	m.client = guest.New(func(ctx context.Context) (net.Conn, error) { return m.driver.Dial(ctx, m.id, vmm.AgentPort) }, guest.Options{})
	if _, err := m.client.Handshake(limited(t)); err != nil {
		t.Fatalf("shaking hands: %v", err)
	}
	var err error
	if m.journals, err = journal.OpenStore(t.TempDir(), journal.Options{MaxBytes: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	m.session = guest.Open(guest.SessionConfig{Client: m.client, Journals: m.journals, VM: domain.ID(m.id), Epoch: 1})
	t.Cleanup(m.detach)
}

func (m *machine) detach() {
	m.session.Close()
	m.client.Close()
	_ = m.journals.Close()
}

// permit has attempts that begin so succeed, for a reason.
func (m *machine) permit(why string, attempts ...string) {
	others := m.permits
	m.permits = func(attempt string) string {
		switch {
		case slices.ContainsFunc(attempts, func(a string) bool { return strings.HasPrefix(attempt, a) }):
			return why
		case others != nil:
			return others(attempt)
		}
		return ""
	}
}

// run is an intruder at work.
type run struct {
	t    *testing.T
	m    *machine
	id   domain.ID
	r    *journal.Reader
	text bytes.Buffer
}

// begin starts the intruder as root.
func (m *machine) begin(t *testing.T, part string, args ...string) *run {
	t.Helper()
	x := &run{t: t, m: m, id: domain.NewID()}
	c := domain.Command{Args: append([]string{"/intruder", part}, args...), User: "root", Stdin: true}
	if _, err := m.session.Start(limited(t), guest.StartRequest{ID: x.id, Command: c}); err != nil {
		t.Fatalf("starting the intruder: %v", err)
	}
	var err error
	if x.r, err = m.journals.Read(journal.Key{VM: domain.ID(m.id), Epoch: 1, Execution: x.id}, 0, true); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = x.r.Close() })
	return x
}

// until reads until the intruder has said something, and gives all that it said.
func (x *run) until(text string) string {
	x.t.Helper()
	for ctx := limited(x.t); !strings.Contains(x.text.String(), text); {
		e, err := x.r.Next(ctx)
		if err != nil || e.End != nil {
			x.t.Fatalf("the intruder ended before it said %q: %+v, %v\n%s", text, e.End, err, x.text.String())
		}
		x.text.Write(e.Data)
	}
	return x.text.String()
}

// let waits until the intruder is about to begin with what may end it, and lets it.
func (x *run) let() {
	x.t.Helper()
	x.until("begun")
	if err := x.m.session.CloseStdin(limited(x.t), x.id); err != nil {
		x.t.Fatal(err)
	}
}

// end closes its input and reads the rest.
func (x *run) end() (string, domain.ExecutionEnd) {
	x.t.Helper()
	_ = x.m.session.CloseStdin(limited(x.t), x.id)
	for ctx := limited(x.t); ; {
		e, err := x.r.Next(ctx)
		if errors.Is(err, io.EOF) {
			return x.text.String(), domain.ExecutionEnd{}
		}
		if err != nil {
			x.t.Fatalf("reading what the intruder says: %v", err)
		}
		if e.End != nil {
			return x.text.String(), *e.End
		}
		x.text.Write(e.Data)
	}
}

// intrude runs a part of the intruder to its end. Every attempt that was not
// refused fails the test; so do fewer attempts than there must be, for a suite
// that tries nothing proves nothing.
func (m *machine) intrude(t *testing.T, atLeast int, part string, args ...string) {
	t.Helper()
	text, end := m.begin(t, part, args...).end()
	m.verdict(t, atLeast, text)
	if end != (domain.ExecutionEnd{}) || !strings.HasSuffix(text, "done\n") {
		t.Errorf("the intruder ended with %+v: %s", end, tail(text))
	}
}

// assail has the intruder take powers over the kernel. Where that is the host's
// they must be refused; else they are the machine's own to take, and to fall by.
func (b *bed) assail(t *testing.T, m *machine, atLeast int, part string, args ...string) {
	t.Helper()
	if b.Shared {
		m.intrude(t, atLeast, part, args...)
		return
	}
	text, end := m.begin(t, part, args...).end()
	made := 0
	for line := range strings.Lines(text) {
		kind, _, _ := strings.Cut(line, " ")
		if kind == "held" || kind == "BREACH" {
			made++
		}
	}
	if made < atLeast {
		t.Errorf("only %d attempts were made, not %d: %+v, %s", made, atLeast, end, tail(text))
	}
}

func (m *machine) verdict(t *testing.T, atLeast int, text string) {
	t.Helper()
	held := 0
	for line := range strings.Lines(text) {
		switch kind, what, _ := strings.Cut(strings.TrimSpace(line), " "); kind {
		case "BREACH":
			if m.permits != nil {
				if why := m.permits(what); why != "" {
					held++
					t.Logf("%s; permitted: %s", what, why)
					continue
				}
			}
			t.Error(what)
		case "held":
			held++
			t.Log(strings.TrimSpace(line))
		case "note":
			t.Log(what)
		}
	}
	if held < atLeast {
		t.Errorf("only %d attempts were made and refused, not %d: %s", held, atLeast, tail(text))
	}
}

func tail(s string) string { return s[max(0, len(s)-2000):] }

// alive checks that the agent answers, files can be written, and a program runs.
func (m *machine) alive(t *testing.T, who string) {
	t.Helper()
	text := fmt.Sprintf("%s is well", who)
	if _, err := m.client.Write(limited(t), "/root/well", strings.NewReader(text), vmm.FileOptions{User: "root"}); err != nil {
		t.Errorf("%s: writing a file: %v", who, err)
	}
	if out, end := m.begin(t, "show-capabilities").end(); end != (domain.ExecutionEnd{}) {
		t.Errorf("%s: running a program: %+v %s", who, end, tail(out))
	}
}
