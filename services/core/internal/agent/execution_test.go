package agent_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	guestv1 "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1"
)

func TestCommands(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, tc := range []struct {
		name           string
		command        *guestv1.Command
		stdout, stderr string
		code, signal   int32
		timedOut       bool
	}{
		{name: "true", command: &guestv1.Command{Args: []string{"true"}}},
		{name: "streams apart", command: shell("echo out; echo err >&2; exit 7"), stdout: "out\n", stderr: "err\n", code: 7},
		{name: "killed by itself", command: shell("kill -TERM $$"), code: 143, signal: 15},
		{name: "stdin is empty without stdin", command: shell("wc -c"), stdout: "0\n"},
		{name: "environment", command: &guestv1.Command{Args: []string{"sh", "-c", "echo $A-$HOME"}, Env: map[string]string{"A": "b", "HOME": "/x"}}, stdout: "b-/x\n"},
		{name: "directory", command: &guestv1.Command{Args: []string{"pwd"}, Cwd: "/usr/bin"}, stdout: "/usr/bin\n"},
		{name: "timeout kills the group", command: &guestv1.Command{Args: []string{"sh", "-c", "sleep 1000 | sleep 1000"}, TimeoutMs: 50}, code: 137, signal: 9, timedOut: true},
		{name: "own process group and session", command: shell("test $$ = $(ps -o pgid= -p $$) && test $$ = $(ps -o sid= -p $$) && echo yes"), stdout: "yes\n"},
		{name: "no signal is blocked or ignored", command: shell("grep -E '^Sig(Blk|Ign)' /proc/self/status | sort"), stdout: "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := *r
			r.t = t
			o := r.run(tc.command)
			if o.stdout.String() != tc.stdout || o.stderr.String() != tc.stderr {
				t.Errorf("stdout %q stderr %q, want %q %q", o.stdout.String(), o.stderr.String(), tc.stdout, tc.stderr)
			}
			if o.end.GetExitCode() != tc.code || o.end.GetSignal() != tc.signal || o.end.GetTimedOut() != tc.timedOut {
				t.Errorf("end %v, want code %d signal %d timed out %v", o.end, tc.code, tc.signal, tc.timedOut)
			}
		})
	}
}

func shell(script string) *guestv1.Command {
	return &guestv1.Command{Args: []string{"sh", "-c", script}, User: "root"}
}

func TestStartErrors(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	must(t, os.WriteFile(r.home+"/plain", []byte("data"), 0o644))
	must(t, os.WriteFile(r.home+"/script", []byte("#!/no/such/interpreter\n"), 0o755))
	must(t, os.WriteFile(r.home+"/noexec", []byte("just text\n"), 0o755))
	for _, tc := range []struct {
		name    string
		command *guestv1.Command
		code    connect.Code
		message string
	}{
		{"nothing", &guestv1.Command{}, connect.CodeInvalidArgument, "no program is given"},
		{"not in PATH", &guestv1.Command{Args: []string{"no-such-program"}}, connect.CodeInvalidArgument, `"no-such-program" was not found in PATH`},
		{"the child's PATH counts", &guestv1.Command{Args: []string{"sh"}, Env: map[string]string{"PATH": "/nowhere"}}, connect.CodeInvalidArgument, "was not found in PATH"},
		{"no file", &guestv1.Command{Args: []string{"/no/such"}}, connect.CodeInvalidArgument, `"/no/such" does not exist`},
		{"not executable", &guestv1.Command{Args: []string{"./plain"}}, connect.CodeInvalidArgument, "permission denied"},
		{"a directory", &guestv1.Command{Args: []string{"/usr"}}, connect.CodeInvalidArgument, "is a directory"},
		{"interpreter", &guestv1.Command{Args: []string{"./script"}}, connect.CodeInvalidArgument, "interpreter does not exist"},
		{"format", &guestv1.Command{Args: []string{"./noexec"}}, connect.CodeInvalidArgument, "not a program"},
		{"cwd missing", &guestv1.Command{Args: []string{"true"}, Cwd: "/no/such"}, connect.CodeInvalidArgument, `working directory "/no/such" does not exist`},
		{"cwd is a file", &guestv1.Command{Args: []string{"true"}, Cwd: "/etc/passwd"}, connect.CodeInvalidArgument, "is not a directory"},
		{"user", &guestv1.Command{Args: []string{"true"}, User: "nobody-here"}, connect.CodeUnauthenticated, "unknown user"},
		{"NUL", &guestv1.Command{Args: []string{"a\x00b"}}, connect.CodeInvalidArgument, "NUL"},
		{"environment name", &guestv1.Command{Args: []string{"true"}, Env: map[string]string{"A=B": "c"}}, connect.CodeInvalidArgument, "environment variable"},
		{"timeout", &guestv1.Command{Args: []string{"true"}, TimeoutMs: -1}, connect.CodeInvalidArgument, "timeout"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			id := newID()
			for range 2 { // what could not start leaves nothing behind
				s := r.executions.Attach(r.ctx)
				must(t, s.Send(start(id, tc.command)))
				_, err := s.Receive()
				if connect.CodeOf(err) != tc.code || !strings.Contains(err.Error(), tc.message) {
					t.Fatalf("error %v, want %v %q", err, tc.code, tc.message)
				}
			}
		})
	}
	s := r.executions.Attach(r.ctx)
	must(t, s.Send(start("Not An ID", shell("true"))))
	if _, err := s.Receive(); connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("malformed ID: %v", err)
	}
	s = r.executions.Attach(r.ctx)
	must(t, s.Send(resume(newID(), 0)))
	if _, err := s.Receive(); connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("resume of an unknown ID: %v", err)
	}
}

func TestACommandRunsOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id := newID()
	command := shell("echo run >> " + r.home + "/count; cat")
	command.Stdin = true
	const racers = 8
	streams := make(chan *attachStream, racers)
	for range racers {
		go func() {
			s := r.executions.Attach(r.ctx)
			// Either may fail: a faster one may have taken it over meanwhile.
			_ = s.Send(start(id, command))
			_, _ = s.Receive()
			streams <- s
		}()
	}
	for range racers {
		<-streams
	}
	s, started := r.attach(resume(id, 0))
	if !started.GetAlready() {
		t.Error("resume says that it was not known")
	}
	must(t, s.Send(closeStdin(0)))
	r.drain(s, 0)
	again, started := r.attach(start(id, command))
	if !started.GetAlready() {
		t.Error("a second start says that it was not known")
	}
	r.drain(again, 0)
	if b, _ := os.ReadFile(r.home + "/count"); string(b) != "run\n" {
		t.Errorf("ran: %q", b)
	}
}

func TestANewerAttachTakesOver(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id := newID()
	command := shell("cat")
	command.Stdin = true
	older, _ := r.attach(start(id, command))
	newer, _ := r.attach(resume(id, 0))
	for {
		if _, err := older.Receive(); err != nil {
			if connect.CodeOf(err) != connect.CodeAborted {
				t.Errorf("older attach ends with %v", err)
			}
			break
		}
	}
	must(t, newer.Send(stdin(0, "hello")))
	must(t, newer.Send(closeStdin(5)))
	if o := r.drain(newer, 0); o.stdout.String() != "hello" {
		t.Errorf("stdout %q", o.stdout.String())
	}
}

func TestInput(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id := newID()
	command := shell("cat")
	command.Stdin = true
	s, _ := r.attach(start(id, command))
	must(t, s.Send(stdin(0, "hello ")))
	must(t, s.Send(stdin(0, "hello wor"))) // the first six again
	must(t, s.Send(stdin(9, "ld")))
	must(t, s.Send(closeStdin(11)))
	var acked int64
	o := &output{}
	for {
		msg, err := s.Receive()
		must(t, err)
		acked = max(acked, msg.GetStdinAck().GetOffset())
		if o.take(t, msg) {
			break
		}
	}
	if o.stdout.String() != "hello world" || acked != 11 {
		t.Errorf("stdout %q, acknowledged %d", o.stdout.String(), acked)
	}

	t.Run("a hole ends the attach", func(t *testing.T) {
		s, _ := r.attach(start(newID(), command))
		must(t, s.Send(stdin(3, "x")))
		wantCode(t, s, connect.CodeOutOfRange)
	})
	t.Run("so does too much", func(t *testing.T) {
		sleeper := shell("sleep 1000")
		sleeper.Stdin = true
		s, _ := r.attach(start(newID(), sleeper))
		piece := strings.Repeat("x", 256<<10)
		for i := range 8 { // 2 MiB, of which a pipe takes 64 KiB
			_ = s.Send(stdin(int64(i*len(piece)), piece))
		}
		wantCode(t, s, connect.CodeResourceExhausted)
	})
	t.Run("input for a command that does not read is taken", func(t *testing.T) {
		closed := shell("exec 0<&-; echo closed; sleep 1000")
		closed.Stdin = true
		s, _ := r.attach(start(newID(), closed))
		msg, err := s.Receive()
		must(t, err)
		if string(msg.GetOutput().GetData()) != "closed\n" {
			t.Fatalf("got %v", msg)
		}
		must(t, s.Send(stdin(0, "nobody reads this")))
		msg, err = s.Receive()
		must(t, err)
		if msg.GetStdinAck().GetOffset() != 17 {
			t.Errorf("got %v", msg)
		}
	})
	t.Run("none without stdin", func(t *testing.T) {
		s, _ := r.attach(start(newID(), shell("sleep 1000")))
		must(t, s.Send(stdin(0, "x")))
		wantCode(t, s, connect.CodeInvalidArgument)
	})
}

// wantCode reads a stream until its error.
func wantCode(t *testing.T, s *attachStream, code connect.Code) {
	t.Helper()
	for {
		if _, err := s.Receive(); err != nil {
			if connect.CodeOf(err) != code {
				t.Errorf("ends with %v, want %v", err, code)
			}
			return
		}
	}
}

func TestTerminal(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	command := shell("stty size; trap 'stty size; exit 3' WINCH; echo ready; while :; do read line; done")
	command.Pty = &guestv1.TerminalSize{Cols: 100, Rows: 40}
	s, _ := r.attach(start(newID(), command))
	o := &output{}
	for !strings.Contains(o.pty.String(), "ready") {
		msg, err := s.Receive()
		must(t, err)
		o.take(t, msg)
	}
	must(t, s.Send(&guestv1.AttachRequest{Request: &guestv1.AttachRequest_Resize{Resize: &guestv1.TerminalSize{Cols: 33, Rows: 22}}}))
	must(t, s.Send(stdin(0, "\n")))
	rest := r.drain(s, o.next)
	if got := o.pty.String() + rest.pty.String(); !strings.Contains(got, "40 100") || !strings.Contains(got, "22 33") {
		t.Errorf("terminal shows %q", got)
	}
	if rest.end.GetExitCode() != 3 {
		t.Errorf("end %v", rest.end)
	}
	t.Run("end of input", func(t *testing.T) {
		cat := shell("cat >/dev/null; tty; echo done > $(tty)")
		cat.User, cat.Pty = "", &guestv1.TerminalSize{}
		s, _ := r.attach(start(newID(), cat))
		must(t, s.Send(closeStdin(0)))
		if o := r.drain(s, 0); !strings.Contains(o.pty.String(), "/dev/pts/") || !strings.Contains(o.pty.String(), "done") {
			t.Errorf("terminal shows %q", o.pty.String())
		}
	})
}

func TestSignalReachesTheGroup(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s, _ := r.attach(start(newID(), shell("sleep 1000 & echo $!; wait")))
	msg, err := s.Receive()
	must(t, err)
	child := strings.TrimSpace(string(msg.GetOutput().GetData()))
	pid, err := strconv.Atoi(child)
	must(t, err)
	background, err := unix.PidfdOpen(pid, 0)
	must(t, err)
	defer func() { _ = unix.Close(background) }()
	must(t, s.Send(signalGroup(15)))
	o := r.drain(s, msg.GetOutput().GetOffset()+int64(len(msg.GetOutput().GetData())))
	if o.end.GetSignal() != 15 {
		t.Errorf("end %v", o.end)
	}
	// A pidfd can be read when its process has ended (pidfd_open(2)).
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(background), Events: unix.POLLIN}}, int(limit.Milliseconds()))
	if n != 1 {
		t.Errorf("the background process lives (%v)", err)
	}
}

// A background process that holds the output does not hold up the end, keeps
// running, and can go on writing.
func TestBackgroundProcess(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	fifo := r.home + "/fifo"
	o := r.sh("root", "mkfifo "+fifo+"; (read go < "+fifo+"; seq 100000; echo alive > "+fifo+") & echo started")
	if o.stdout.String() != "started\n" || o.end.GetExitCode() != 0 {
		t.Fatalf("stdout %q end %v", o.stdout.String(), o.end)
	}
	if got := r.sh("root", "echo go > "+fifo+"; cat "+fifo); got.stdout.String() != "alive\n" {
		t.Errorf("the background process says %q", got.stdout.String())
	}
}

// hundredMB is a program that writes 100 MB of lines and their checksum.
const hundredMB = `yes 0123456789abcdefghijklmnopqrstuvwxyz | head -c 100000000`

func hundredMBSum() string {
	h := sha256.New()
	const line, size = "0123456789abcdefghijklmnopqrstuvwxyz\n", 100_000_000
	block := []byte(strings.Repeat(line, 1000))
	left := size
	for ; left >= len(block); left -= len(block) {
		h.Write(block)
	}
	h.Write(block[:left])
	return hex.EncodeToString(h.Sum(nil))
}

// A host that reads without acknowledging gets no more than the window, and a
// reader that stops never makes the agent grow.
func TestWindowBoundsMemory(t *testing.T) {
	r := newRig(t)
	id := newID()
	s, _ := r.attach(start(id, shell(hundredMB)))
	o := &output{}
	for o.next < 1<<20 {
		msg, err := s.Receive()
		must(t, err)
		o.take(t, msg)
	}
	if o.next != 1<<20 {
		t.Fatalf("%d bytes without an acknowledgement", o.next)
	}
	// The command is blocked now: acknowledging one byte lets one byte come.
	must(t, s.Send(ack(1)))
	msg, err := s.Receive()
	must(t, err)
	if n := len(msg.GetOutput().GetData()); n != 1 {
		t.Errorf("%d bytes after acknowledging one", n)
	}
	o.take(t, msg)

	h := sha256.New()
	h.Write(o.stdout.Bytes())
	o.stdout.Reset()
	var before, now runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	must(t, s.Send(ack(o.next)))
	var most uint64
	for reads := 0; ; reads++ {
		msg, err := s.Receive()
		must(t, err)
		ended := o.take(t, msg)
		h.Write(o.stdout.Bytes())
		o.stdout.Reset()
		if ended {
			break
		}
		if reads%4 == 0 { // lag behind by a few messages
			_ = s.Send(ack(o.next)) // fails when the end has come
		}
		if reads%256 == 0 {
			runtime.ReadMemStats(&now)
			most = max(most, now.HeapInuse)
		}
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != hundredMBSum() {
		t.Error("the output differs")
	}
	if most > before.HeapInuse+48<<20 {
		t.Errorf("heap grew from %d to %d bytes", before.HeapInuse, most)
	}
}

// A host that dies and returns at any byte gets every byte once.
func TestReattachLosesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id := newID()
	random := rand.New(rand.NewPCG(1, 2))
	command := shell(`i=0; while [ $i -lt 40000 ]; do echo "out $i"; echo "err $i" >&2; i=$((i+1)); done`)
	streams := map[guestv1.Stream]*strings.Builder{
		guestv1.Stream_STREAM_STDOUT: {}, guestv1.Stream_STREAM_STDERR: {},
	}
	var next int64
	attaches := 0
	for ended := false; !ended; attaches++ {
		first := start(id, command)
		if attaches > 0 {
			first = resume(id, next)
		}
		s, _ := r.attach(first)
		// Read some, acknowledge less, forget a part of what was read, go.
		leave := random.IntN(60)
		for range leave {
			msg, err := s.Receive()
			must(t, err)
			if end := msg.GetEnd(); end != nil {
				if end.GetOutputBytes() != next {
					t.Errorf("end at %d after %d bytes", end.GetOutputBytes(), next)
				}
				ended = true
				break
			}
			piece := msg.GetOutput()
			if piece.GetOffset() != next {
				t.Fatalf("output at %d, want %d", piece.GetOffset(), next)
			}
			data := piece.GetData()
			keep := len(data)
			lose := random.IntN(8) == 0
			if lose {
				keep = random.IntN(len(data) + 1)
			}
			streams[piece.GetStream()].Write(data[:keep])
			next += int64(keep)
			_ = s.Send(ack(next - int64(random.IntN(int(min(next, 1000))+1))))
			if lose {
				break
			}
		}
		_ = s.CloseRequest()
		_ = s.CloseResponse()
	}
	for name, stream := range map[string]guestv1.Stream{"out": guestv1.Stream_STREAM_STDOUT, "err": guestv1.Stream_STREAM_STDERR} {
		var want strings.Builder
		for i := range 40000 {
			fmt.Fprintf(&want, "%s %d\n", name, i)
		}
		if streams[stream].String() != want.String() {
			t.Errorf("%s differs after %d attaches", name, attaches)
		}
	}
}

func TestListWatchForget(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	running := newID()
	command := shell("cat")
	command.Stdin, command.Tag = true, "mine"
	held, _ := r.attach(start(running, command))
	watch, err := r.executions.Watch(r.ctx, connect.NewRequest(&guestv1.WatchRequest{}))
	must(t, err)
	next := func() *guestv1.ExecutionInfo {
		t.Helper()
		if !watch.Receive() {
			t.Fatal(watch.Err())
		}
		return watch.Msg().GetExecution()
	}
	if got := next(); got.GetExecutionId() != running || got.GetCommand().GetTag() != "mine" || got.GetForeign() {
		t.Errorf("first is %v", got)
	}
	// One of an SDK is told as well, and its output is there for the host.
	r.startSDK(`{"process":{"cmd":"sh","args":["-c","echo theirs; exit 4"]},"tag":"t"}`).readAll()
	foreign := next()
	if !foreign.GetForeign() || foreign.GetCommand().GetTag() != "t" {
		t.Errorf("second is %v", foreign)
	}
	s, _ := r.attach(resume(foreign.GetExecutionId(), 0))
	if o := r.drain(s, 0); o.stdout.String() != "theirs\n" || o.end.GetExitCode() != 4 {
		t.Errorf("stdout %q end %v", o.stdout.String(), o.end)
	}
	_, err = r.executions.Forget(r.ctx, connect.NewRequest(&guestv1.ForgetRequest{
		ExecutionIds: []string{foreign.GetExecutionId(), running, "unknown"},
	}))
	must(t, err)
	list, err := r.executions.List(r.ctx, connect.NewRequest(&guestv1.ListRequest{}))
	must(t, err)
	if got := list.Msg.GetExecutions(); len(got) != 1 || got[0].GetExecutionId() != running {
		t.Errorf("after forgetting: %v", got)
	}
	must(t, held.Send(closeStdin(0)))
	r.drain(held, 0)
}

func TestHandshakeAndConfigure(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	hello, err := r.machine.Handshake(r.ctx, connect.NewRequest(&guestv1.HandshakeRequest{Protocol: 3}))
	must(t, err)
	if hello.Msg.GetProtocol() != 1 || hello.Msg.GetBootId() == "" || len(hello.Msg.GetFeatures()) == 0 {
		t.Errorf("handshake %v", hello.Msg)
	}
	if _, err := r.machine.Handshake(r.ctx, connect.NewRequest(&guestv1.HandshakeRequest{})); connect.CodeOf(err) != connect.CodeFailedPrecondition {
		t.Errorf("protocol 0: %v", err)
	}
	_, err = r.machine.Configure(r.ctx, connect.NewRequest(&guestv1.ConfigureRequest{
		Env: map[string]string{"MACHINE": "m", "BOTH": "machine"}, DefaultUser: "root", DefaultWorkdir: "/usr",
	}))
	must(t, err)
	o := r.run(&guestv1.Command{
		Args: []string{"sh", "-c", "echo $MACHINE $BOTH $USER $LOGNAME $HOME $PWD"}, Env: map[string]string{"BOTH": "request"},
	})
	if got := o.stdout.String(); got != "m request root root /root /usr\n" {
		t.Errorf("environment %q", got)
	}
	_, err = r.machine.Configure(r.ctx, connect.NewRequest(&guestv1.ConfigureRequest{Env: map[string]string{"": "x"}}))
	if connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("an empty name: %v", err)
	}
	_, err = r.machine.Quiesce(r.ctx, connect.NewRequest(&guestv1.QuiesceRequest{}))
	must(t, err)
	_, err = r.machine.Thaw(r.ctx, connect.NewRequest(&guestv1.ThawRequest{Entropy: []byte("seed")}))
	must(t, err)
}

func BenchmarkExecTrue(b *testing.B) {
	r := newRig(b)
	command := &guestv1.Command{Args: []string{"true"}, User: "root"}
	for b.Loop() {
		r.run(command)
	}
}

func BenchmarkStdout(b *testing.B) {
	r := newRig(b)
	const size = 64 << 20
	b.SetBytes(size)
	for b.Loop() {
		s, _ := r.attach(start(newID(), shell(fmt.Sprintf("head -c %d /dev/zero", size))))
		var next int64
		for {
			msg, err := s.Receive()
			must(b, err)
			if msg.GetEnd() != nil {
				break
			}
			next += int64(len(msg.GetOutput().GetData()))
			_ = s.Send(ack(next))
		}
		if next != size {
			b.Fatal(next)
		}
	}
}
