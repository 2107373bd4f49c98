package guest_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/guest"
	guestv1 "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1"
	"github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1/guestv1connect"
	processpb "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/process"
	"github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/process/processpbconnect"
	"github.com/aetherium/aetherium/services/core/pkg/journal"
)

func TestExec(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	h := newHost(t, m.dial, newJournals(t), domain.NewID())
	if a, err := h.client.Handshake(t.Context()); err != nil || a.Protocol != 1 || a.BootID == "" || !a.Has("executions") {
		t.Fatalf("handshake: %+v, %v", a, err)
	}
	id := h.start(t, sh("echo out; echo err >&2; exit 3"))
	got := h.output(t, id)
	if got.stdout.String() != "out\n" || got.stderr.String() != "err\n" || got.end != (domain.ExecutionEnd{ExitCode: 3}) {
		t.Errorf("%+v", got)
	}
	if end, err := h.Wait(t.Context(), id); err != nil || end.ExitCode != 3 {
		t.Errorf("wait: %+v, %v", end, err)
	}
	if st := <-h.started; st.ID != id || st.PID < 1 || st.Found {
		t.Errorf("started: %+v", st)
	}
	if e := <-h.ended; e.ID != id || e.OutputBytes != 8 || e.End.ExitCode != 3 {
		t.Errorf("ended: %+v", e)
	}
}

// TestForgottenOnceRecorded has the process die between an execution's end and
// its record: the next one is told all that there is to make the record of.
func TestForgottenOnceRecorded(t *testing.T) {
	t.Parallel()
	m, journals, vm := newMachine(t), newJournals(t), domain.NewID()
	h := newHost(t, m.dial, journals, vm)
	cmd := sh("echo out; exit 3")
	id := h.start(t, cmd)
	first := <-h.ended
	if first.ID != id || first.Met != nil {
		t.Fatalf("%+v", first)
	}
	h.Close() // nothing was recorded

	h = newHost(t, m.dial, journals, vm)
	again := <-h.ended
	if again.ID != id || again.End.ExitCode != 3 || again.OutputBytes != 4 || again.Met == nil || again.Met.Foreign ||
		again.Met.PID < 1 || !slices.Equal(again.Met.Command.Args, cmd.Args) {
		t.Fatalf("%+v %+v", again, again.Met)
	}
	again.Recorded()
	awaitForgotten(t, m)
	h.Close()

	h = newHost(t, m.dial, journals, vm)
	last := h.start(t, sh("exit 4")) // told after all that the agent remembers
	if e := <-h.ended; e.ID != last {
		t.Errorf("an execution that was recorded was told again: %+v", e)
	}
}

// awaitForgotten waits until the agent remembers nothing.
func awaitForgotten(t *testing.T, m *machine) {
	t.Helper()
	agent := guestv1connect.NewExecutionServiceClient(h2c(m.dial), "http://agent")
	for {
		list, err := agent.List(t.Context(), connect.NewRequest(&guestv1.ListRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		if len(list.Msg.GetExecutions()) == 0 {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// breaking is a connection that breaks once so many bytes have come and gone,
// wherever in a message that is.
type breaking struct {
	net.Conn
	left atomic.Int64
}

func (c *breaking) count(n int, err error) (int, error) {
	if c.left.Add(-int64(n)) < 0 {
		_ = c.Close()
	}
	return n, err
}

func (c *breaking) Read(p []byte) (int, error)  { return c.count(c.Conn.Read(p)) }
func (c *breaking) Write(p []byte) (int, error) { return c.count(c.Conn.Write(p)) }

// TestEveryByteOnce breaks the channel again and again under a command that
// reads and writes much; afterwards every byte must have gone each way once.
func TestEveryByteOnce(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	h := newHost(t, func(ctx context.Context) (net.Conn, error) {
		c, err := m.dial(ctx)
		if err != nil {
			return nil, err
		}
		b := &breaking{Conn: c}
		b.left.Store(64<<10 + rand.Int64N(512<<10))
		return b, nil
	}, newJournals(t), domain.NewID())
	c := domain.Command{Args: []string{"/bin/sh", "-c", "tee /dev/stderr"}, Stdin: true}
	id := h.start(t, c)
	src := make([]byte, 12<<20)
	_, _ = rand.NewChaCha8([32]byte{3}).Read(src)
	var feeding sync.WaitGroup
	feeding.Go(func() {
		for rest := src; len(rest) > 0; {
			n := min(len(rest), 100_000)
			if err := h.WriteStdin(t.Context(), id, -1, rest[:n]); err != nil {
				t.Error(err)
				return
			}
			rest = rest[n:]
		}
		if err := h.CloseStdin(t.Context(), id); err != nil {
			t.Error(err)
		}
	})
	got := h.output(t, id)
	feeding.Wait()
	want := sha256.Sum256(src)
	if sha256.Sum256(got.stdout.Bytes()) != want || sha256.Sum256(got.stderr.Bytes()) != want {
		t.Errorf("%d and %d bytes came back of %d, or not the right ones", got.stdout.Len(), got.stderr.Len(), len(src))
	}
	if got.end != (domain.ExecutionEnd{}) || len(got.gaps) > 0 {
		t.Errorf("end %+v, gaps %v", got.end, got.gaps)
	}
	if m.dialled() < 30 {
		t.Errorf("the channel was dialled %d times: nothing was broken", m.dialled())
	}
}

// TestHostDiesAndReturns abandons sessions without a goodbye, and the journals
// as kill -9 leaves them.
func TestHostDiesAndReturns(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	dir, vm := t.TempDir(), domain.NewID()
	open := func(known ...domain.ID) (*host, *journal.Store) {
		s, err := journal.OpenStore(dir, journal.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return newHost(t, m.dial, s, vm, known...), s
	}
	h, store := open()
	c := sh("i=0; while [ $i -lt 30000 ]; do echo line $i; i=$((i+1)); done; cat; exit 4")
	c.Stdin = true
	long := h.start(t, c)
	silent := h.start(t, domain.Command{Args: []string{"/bin/sleep", "1000"}})
	var short domain.ID
	for range 4 {
		short = h.start(t, sh("sleep 0.02; echo short"))
		m.cut()
		h.Close()
		_ = store.Close()
		h, store = open(long, short) // silent has no row: the crash came before it
	}
	if err := h.WriteStdin(t.Context(), long, 0, []byte("input")); err != nil {
		t.Fatal(err)
	}
	if err := h.CloseStdin(t.Context(), long); err != nil {
		t.Fatal(err)
	}
	got := h.output(t, long)
	lines := strings.Split(got.stdout.String(), "\n")
	if len(lines) != 30001 || lines[30000] != "input" || got.end.ExitCode != 4 {
		t.Fatalf("%d lines, end %+v", len(lines), got.end)
	}
	for i, line := range lines[:30000] {
		if line != fmt.Sprint("line ", i) {
			t.Fatalf("line %d is %q", i, line)
		}
	}
	if got := h.output(t, short); got.stdout.String() != "short\n" {
		t.Errorf("%q", got.stdout.String())
	}
	// The one without a row is found.
	for {
		st := <-h.started
		if st.ID != silent {
			continue
		}
		if !st.Found || st.Foreign || st.PID < 1 || strings.Join(st.Command.Args, " ") != "/bin/sleep 1000" {
			t.Errorf("%+v", st)
		}
		break
	}
	if err := h.Signal(t.Context(), silent, 9); err != nil {
		t.Fatal(err)
	}
	if end, err := h.Wait(t.Context(), silent); err != nil || end.Signal != 9 {
		t.Errorf("%+v, %v", end, err)
	}
}

// TestSignalThatEndsIt: whoever sent the signal that ended a command is not told
// that it came too late, however fast the end is.
func TestSignalThatEndsIt(t *testing.T) {
	t.Parallel()
	l := &liar{attach: func(_ context.Context, _ *guestv1.AttachRequest, s *attachStream) error {
		if err := s.Send(started(1)); err != nil {
			return err
		}
		if _, err := s.Receive(); err != nil {
			return err
		}
		return s.Send(&guestv1.AttachResponse{Response: &guestv1.AttachResponse_End{End: &guestv1.End{ExitCode: 137, Signal: 9}}})
	}}
	h := newHost(t, l.dial(t), newJournals(t), domain.NewID())
	for range 300 {
		id := h.start(t, sh("sleep 1000"))
		if err := h.Signal(t.Context(), id, 9); err != nil {
			t.Fatal(err)
		}
		if end, err := h.Wait(t.Context(), id); err != nil || end.Signal != 9 {
			t.Fatalf("%+v, %v", end, err)
		}
		if err := h.Signal(t.Context(), id, 9); !errors.HasCode(err, errors.Conflict) {
			t.Fatalf("a signal after the end: %v", err)
		}
	}
}

// TestSignalAfterTheEndWasRead: whoever has read the end of a command is told that
// a signal comes too late, however soon it does.
func TestSignalAfterTheEndWasRead(t *testing.T) {
	t.Parallel()
	l := &liar{attach: func(_ context.Context, _ *guestv1.AttachRequest, s *attachStream) error {
		return errors.Join(s.Send(started(1)), s.Send(&guestv1.AttachResponse{Response: &guestv1.AttachResponse_End{End: &guestv1.End{}}}))
	}}
	h := newHost(t, l.dial(t), newJournals(t), domain.NewID())
	for range 300 {
		id := h.start(t, sh("true"))
		h.output(t, id)
		if err := h.Signal(t.Context(), id, 15); !errors.HasCode(err, errors.Conflict) {
			t.Fatalf("a signal after the end: %v", err)
		}
	}
}

func TestKnownButUnknownToTheAgent(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	id := domain.NewID()
	h := newHost(t, m.dial, newJournals(t), domain.NewID(), id)
	if e := <-h.ended; e.ID != id || e.End.LostReason == "" {
		t.Errorf("%+v", e)
	}
	if end, err := h.Wait(t.Context(), id); err != nil || end.LostReason == "" {
		t.Errorf("%+v, %v", end, err)
	}
}

func TestEndIsToldAgainAfterARestart(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	journals, vm := newJournals(t), domain.NewID()
	h := newHost(t, m.dial, journals, vm)
	id := h.start(t, sh("exit 6"))
	if _, err := h.Wait(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	h.Close()
	// The record of it was lost with the process; the journal was not.
	h = newHost(t, m.dial, journals, vm, id)
	if e := <-h.ended; e.ID != id || e.End.ExitCode != 6 {
		t.Errorf("%+v", e)
	}
}

// Input that a client gives a process of its own is none that the host sent.
func TestForeignInput(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	h := newHost(t, m.dial, newJournals(t), domain.NewID())
	envd := processpbconnect.NewProcessClient(h2c(m.dial), "http://agent")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	stream, err := envd.Start(ctx, connect.NewRequest(&processpb.StartRequest{
		Process: &processpb.ProcessConfig{Cmd: "/bin/sh", Args: []string{"-c", "read a; read b; read c; echo $a $b $c"}},
	}))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stream.Close() }()
	st := <-h.started
	if !stream.Receive() {
		t.Fatal(stream.Err())
	}
	process := &processpb.ProcessSelector{Selector: &processpb.ProcessSelector_Pid{Pid: stream.Msg().GetEvent().GetStart().GetPid()}}
	send := func(text string) {
		t.Helper()
		_, err := envd.SendInput(ctx, connect.NewRequest(&processpb.SendInputRequest{
			Process: process, Input: &processpb.ProcessInput{Input: &processpb.ProcessInput_Stdin{Stdin: []byte(text)}},
		}))
		if err != nil {
			t.Fatal(err)
		}
	}
	send("one of many\n")
	send("two\n")
	send("three\n")
	if got := h.output(t, st.ID); got.stdout.String() != "one of many two three\n" || got.end.ExitCode != 0 {
		t.Errorf("%+v", got)
	}
}

func TestForeignExecutions(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	journals, vm := newJournals(t), domain.NewID()
	h := newHost(t, m.dial, journals, vm)
	envd := processpbconnect.NewProcessClient(h2c(m.dial), "http://agent")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	start := func(script string) int32 {
		stream, err := envd.Start(ctx, connect.NewRequest(&processpb.StartRequest{
			Process: &processpb.ProcessConfig{Cmd: "/bin/sh", Args: []string{"-c", script}, Envs: map[string]string{"K": "V"}},
		}))
		if err != nil {
			t.Fatal(err)
		}
		if !stream.Receive() {
			t.Fatal(stream.Err())
		}
		pid := stream.Msg().GetEvent().GetStart().GetPid()
		t.Cleanup(func() { _ = stream.Close() })
		go func() {
			for stream.Receive() {
			}
		}()
		return int32(pid)
	}
	pid := start("echo foreign $K; exit 2")
	st := <-h.started
	if !st.Foreign || !st.Found || st.PID != pid || st.Command.Env["K"] != "V" {
		t.Fatalf("%+v, want process %d", st, pid)
	}
	got := h.output(t, st.ID)
	if got.stdout.String() != "foreign V\n" || got.end.ExitCode != 2 {
		t.Errorf("%+v", got)
	}
	// After a restart one that goes on has the same ID.
	start("echo more; exec sleep 1000")
	st = <-h.started
	h.Close()
	h = newHost(t, m.dial, journals, vm, st.ID)
	if again := <-h.started; again.ID != st.ID || again.PID != st.PID || again.Found {
		t.Errorf("%+v, then %+v", st, again)
	}
	r, err := journals.Read(journal.Key{VM: vm, Epoch: 1, Execution: st.ID}, 0, true)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	if _, err := r.Next(t.Context()); err != nil { // it has spoken
		t.Fatal(err)
	}
	if err := h.Signal(t.Context(), st.ID, 9); err != nil {
		t.Fatal(err)
	}
	if got := h.output(t, st.ID); got.stdout.String() != "more\n" || got.end.Signal != 9 {
		t.Errorf("%+v", got)
	}
}

func TestGone(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	h := newHost(t, m.dial, newJournals(t), domain.NewID())
	id := h.start(t, sh("echo last words; exec sleep 1000"))
	waiting := make(chan error, 1)
	go func() {
		_, err := h.Wait(t.Context(), id)
		waiting <- err
	}()
	m.kill()
	h.Gone(t.Context(), "the host rebooted")
	if got := h.output(t, id); got.end.LostReason != "the host rebooted" {
		t.Errorf("%+v", got)
	}
	if err := <-waiting; err != nil {
		t.Error(err)
	}
	if e := <-h.ended; e.ID != id || e.End.LostReason != "the host rebooted" {
		t.Errorf("%+v", e)
	}
	if _, err := h.Start(t.Context(), guest.StartRequest{ID: domain.NewID(), Command: sh("true")}); !errors.HasCode(err, errors.Conflict) {
		t.Errorf("start in a machine that is gone: %v", err)
	}
	h.Gone(t.Context(), "twice")
	h.Close()
}

// TestGoneIsLeftAlone: nobody tries to reach a machine that is known to be gone.
func TestGoneIsLeftAlone(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	var tries atomic.Int64
	h := newHost(t, func(ctx context.Context) (net.Conn, error) {
		tries.Add(1)
		return m.dial(ctx)
	}, newJournals(t), domain.NewID())
	h.start(t, sh("exec sleep 1000"))
	m.kill()
	before := tries.Load()
	h.Gone(t.Context(), "it ended")
	// The command and the watch may each have been about to.
	if n := tries.Load() - before; n > 2 {
		t.Errorf("dialled %d times", n)
	}
}

// TestWarmUp leaves no trace of itself.
func TestWarmUp(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	c := guest.New(m.dial, guest.Options{})
	t.Cleanup(c.Close)
	if err := c.WarmUp(t.Context(), guest.Config{}); err != nil {
		t.Fatal(err)
	}
	if err := c.WarmUp(t.Context(), guest.Config{DefaultUser: "nobody-by-this-name"}); err != nil {
		t.Errorf("a user whom the machine does not know: %v", err)
	}
	if err := c.Configure(t.Context(), guest.Config{}); err != nil {
		t.Fatal(err)
	}
	h := newHost(t, m.dial, newJournals(t), domain.NewID())
	id := h.start(t, sh("true"))
	h.output(t, id)
	if st := <-h.started; st.ID != id {
		t.Errorf("met %+v", st)
	}
	select {
	case st := <-h.started:
		t.Errorf("met %+v, too", st)
	default:
	}
	m.kill()
	if err := c.WarmUp(t.Context(), guest.Config{}); err == nil {
		t.Error("a machine that is gone was warmed up")
	}
}

// TestGracefulEnd: what the agent still says of a machine that is stopped counts.
func TestGracefulEnd(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	h := newHost(t, m.dial, newJournals(t), domain.NewID())
	id := h.start(t, sh("trap 'echo goodbye; exit 8' TERM; echo ready; while :; do sleep 0.05; done"))
	r, err := h.journals.Read(journal.Key{VM: h.vm, Epoch: 1, Execution: id}, 0, true)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	if _, err := r.Next(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.stop(5*time.Second, func() { h.Gone(t.Context(), "stopped") })
	if got := h.output(t, id); got.stdout.String() != "ready\ngoodbye\n" || got.end.ExitCode != 8 {
		t.Errorf("%q, %+v", got.stdout.String(), got.end)
	}
}

func TestStdinBlocksAndIsReleased(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	h := newHost(t, m.dial, newJournals(t), domain.NewID())
	id := h.start(t, domain.Command{Args: []string{"/bin/sleep", "1000"}, Stdin: true})
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := h.WriteStdin(ctx, id, -1, make([]byte, 4<<20)); !errors.HasCode(err, errors.DeadlineExceeded) {
		t.Errorf("writing to one who does not read: %v", err)
	}
	blocked := make(chan error, 1)
	go func() { blocked <- h.WriteStdin(t.Context(), id, -1, make([]byte, 4<<20)) }()
	if err := h.Signal(t.Context(), id, 9); err != nil {
		t.Fatal(err)
	}
	if err := <-blocked; !errors.HasCode(err, errors.Conflict) {
		t.Errorf("writing to one who ended: %v", err)
	}
}

func TestUnknownExecution(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	h := newHost(t, m.dial, newJournals(t), domain.NewID())
	id := domain.NewID()
	_, waited := h.Wait(t.Context(), id)
	_, offset := h.StdinOffset(id)
	for name, err := range map[string]error{
		"wait": waited, "offset": offset, "signal": h.Signal(t.Context(), id, 9), "close": h.CloseStdin(t.Context(), id),
		"write": h.WriteStdin(t.Context(), id, 0, nil), "resize": h.Resize(t.Context(), id, domain.PTYSize{Cols: 1, Rows: 1}),
	} {
		if !errors.HasCode(err, errors.NotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := h.Start(t.Context(), guest.StartRequest{ID: "not an ID", Command: sh("true")}); !errors.HasCode(err, errors.InvalidArgument) {
		t.Errorf("start: %v", err)
	}
}

// TestManyShortOnes must leave nothing behind: not here, not in the agent.
func TestManyShortOnes(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	h := newHost(t, m.dial, newJournals(t), domain.NewID())
	var all sync.WaitGroup
	for w := range 8 {
		all.Go(func() {
			for i := range 25 {
				want := fmt.Sprintf("%d-%d", w, i)
				id := h.start(t, domain.Command{Args: []string{"/bin/echo", want}})
				if got := h.output(t, id); got.stdout.String() != want+"\n" {
					t.Errorf("%q, want %q", got.stdout.String(), want)
				}
			}
		})
	}
	all.Wait()
	for range 200 {
		<-h.ended
	}
	if n := h.Running(); n != 0 {
		t.Errorf("%d are still supervised", n)
	}
}

func TestDialPort(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	c := guest.New(m.dial, guest.Options{})
	defer c.Close()
	l := listen(t)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = io.Copy(conn, conn)
		_ = conn.Close()
	}()
	conn, err := c.DialPort(t.Context(), port(l))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := io.WriteString(conn, "hello"); err != nil {
		t.Fatal(err)
	}
	// The end of the stream is passed on, and the answer still comes.
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); err != nil || string(got) != "hello" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := c.DialPort(t.Context(), deafPort(t)); !errors.HasCode(err, errors.Unavailable) {
		t.Errorf("closed port: %v", err)
	}
	if _, err := c.DialPort(t.Context(), 0); !errors.HasCode(err, errors.InvalidArgument) {
		t.Errorf("port 0: %v", err)
	}
}

func BenchmarkExecTrue(b *testing.B) {
	m := newMachine(b)
	h := newHost(b, m.dial, newJournals(b), domain.NewID())
	for b.Loop() {
		id := domain.NewID()
		if _, err := h.Start(b.Context(), guest.StartRequest{ID: id, Command: domain.Command{Args: []string{"/bin/true"}}}); err != nil {
			b.Fatal(err)
		}
		if _, err := h.Wait(b.Context(), id); err != nil {
			b.Fatal(err)
		}
	}
}
