package vmmtest

import (
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/guest"
)

var execTests = []behaviour{
	{"exit codes", nil, testExitCodes},
	{"what cannot be started", nil, testBadStarts},
	{"stdout and stderr apart", nil, testStreamsApart},
	{"environment, directory, user", nil, testSurroundings},
	{"signals reach the process group", nil, testSignals},
	{"timeout", nil, testTimeout},
	{"an execution runs once", nil, testOnce},
	{"many at once", nil, testMany},
	{"sudo", sudo, testSudo},
}

func testExitCodes(t *testing.T, b *bed) {
	x := b.machine(t)
	for _, tc := range []struct {
		name string
		cmd  domain.Command
		want domain.ExecutionEnd
	}{
		{"true", domain.Command{Args: []string{"true"}}, domain.ExecutionEnd{}},
		{"false", domain.Command{Args: []string{"false"}}, domain.ExecutionEnd{ExitCode: 1}},
		{"any", shell("exit 42"), domain.ExecutionEnd{ExitCode: 42}},
		{"not found by the shell", shell("no-such-program-here"), domain.ExecutionEnd{ExitCode: 127}},
		{"killed", shell("kill -KILL $$"), domain.ExecutionEnd{ExitCode: 137, Signal: 9}},
		{"terminated", shell("kill -TERM $$"), domain.ExecutionEnd{ExitCode: 143, Signal: 15}},
		{"255", shell("exit 255"), domain.ExecutionEnd{ExitCode: 255}},
	} {
		if got := x.run(t, tc.cmd); got.end != tc.want {
			t.Errorf("%s: %+v, want %+v; it said %q", tc.name, got.end, tc.want, got.stderr)
		}
	}
}

func testBadStarts(t *testing.T, b *bed) {
	x := b.machine(t)
	for name, c := range map[string]domain.Command{
		"no program":        {Args: []string{"no-such-program-here"}},
		"no absolute path":  {Args: []string{"/no/such/program"}},
		"a directory":       {Args: []string{"/tmp"}},
		"no such directory": {Args: []string{"true"}, Cwd: "/no/such/directory"},
		"no such user":      {Args: []string{"true"}, User: "nobody-of-that-name"},
		"nothing":           {},
	} {
		_, err := x.session.Start(timeout(t), guest.StartRequest{ID: domain.NewID(), Command: c})
		if !errors.HasCode(err, errors.InvalidArgument) {
			t.Errorf("%s: %v, want invalid_argument", name, err)
		}
	}
	if n := x.session.Running(); n != 0 {
		t.Errorf("%d executions are left of what never ran", n)
	}
}

func testStreamsApart(t *testing.T, b *bed) {
	got := b.machine(t).run(t, shell("echo to stdout; echo to stderr >&2; echo again"))
	if got.stdout != "to stdout\nagain\n" || got.stderr != "to stderr\n" {
		t.Errorf("%+v", got)
	}
}

func testSurroundings(t *testing.T, b *bed) {
	x := b.machine(t)
	c := shell(`echo "$ONE|$(pwd -P)|$USER"`)
	c.Env, c.Cwd, c.User = map[string]string{"ONE": "a b'c\"d\n"}, "/tmp", "user"
	if got := x.run(t, c).stdout; got != "a b'c\"d\n|/tmp|user\n" {
		t.Errorf("got %q", got)
	}
	for _, user := range []string{"user", "root"} {
		c := shell(`echo "$USER $HOME"; cd; pwd; touch mine && rm mine`)
		c.User = user
		got := x.run(t, c)
		lines := strings.Split(got.stdout, "\n")
		if got.end.ExitCode != 0 || len(lines) < 2 || lines[0] != user+" "+lines[1] {
			t.Errorf("as %s: %+v", user, got)
		}
	}
	if x.sh(t, "cat /proc/self/stat >/dev/null; umask") == "" {
		t.Error("no umask")
	}
}

func testSignals(t *testing.T, b *bed) {
	x := b.machine(t)
	// The background process holds the output open: only when it dies as well
	// does the output end.
	id := x.start(t, shell("sleep 1000 & echo ready; sleep 1000"))
	f := x.follow(t, id)
	f.until("ready")
	if err := x.session.Signal(timeout(t), id, 15); err != nil {
		t.Fatal(err)
	}
	if got := f.rest(); got.end != (domain.ExecutionEnd{ExitCode: 143, Signal: 15}) {
		t.Errorf("%+v", got.end)
	}
	if err := x.session.Signal(timeout(t), id, 15); !errors.HasCode(err, errors.Conflict) {
		t.Errorf("signal after the end: %v", err)
	}
	// One that is handled.
	id = x.start(t, shell(`trap 'echo hup; exit 5' HUP; echo ready; while :; do sleep 0.1; done`))
	f = x.follow(t, id)
	f.until("ready")
	if err := x.session.Signal(timeout(t), id, 1); err != nil {
		t.Fatal(err)
	}
	if got := f.rest(); got.end.ExitCode != 5 || !strings.Contains(got.stdout, "hup") {
		t.Errorf("%+v", got)
	}
}

func testTimeout(t *testing.T, b *bed) {
	c := shell("sleep 1000 & sleep 1000")
	c.Timeout = 200 * time.Millisecond
	if got := b.machine(t).run(t, c); !got.end.TimedOut || got.end.Signal != 9 || got.end.ExitCode != 137 {
		t.Errorf("%+v", got.end)
	}
}

func testOnce(t *testing.T, b *bed) {
	x := b.machine(t)
	req := guest.StartRequest{ID: domain.NewID(), Command: shell("echo run >> runs; cat"), Tag: "tag"}
	req.Command.Stdin = true
	first, err := x.session.Start(timeout(t), req)
	if err != nil {
		t.Fatal(err)
	}
	again, err := x.session.Start(timeout(t), req)
	if err != nil || again.PID != first.PID || !again.Already {
		t.Errorf("the second start: %+v, %v; the first: %+v", again, err, first)
	}
	if err := x.session.CloseStdin(timeout(t), req.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := x.session.Wait(timeout(t), req.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := x.session.Start(timeout(t), req); !errors.HasCode(err, errors.Conflict) {
		t.Errorf("a start after the end: %v, want conflict", err)
	}
	if got := x.sh(t, "cat runs"); got != "run" {
		t.Errorf("it ran as often: %q", got)
	}
}

func testMany(t *testing.T, b *bed) {
	x := b.machine(t)
	ids := make([]domain.ID, 40)
	for i := range ids {
		ids[i] = x.start(t, shell("echo $$; sleep 0.1; echo $$"))
	}
	for _, id := range ids {
		got := x.follow(t, id).rest()
		pid, again, _ := strings.Cut(strings.TrimSpace(got.stdout), "\n")
		if got.end.ExitCode != 0 || pid == "" || pid != again {
			t.Errorf("%+v", got)
		}
	}
}

func testSudo(t *testing.T, b *bed) {
	c := shell("id -u; sudo -n id -u; sudo -n sh -c 'echo x > /root/by-root && cat /root/by-root'")
	c.User = "user"
	got := b.machine(t).run(t, c)
	lines := strings.Fields(got.stdout)
	if got.end.ExitCode != 0 || len(lines) != 3 || lines[0] == "0" || lines[1] != "0" || lines[2] != "x" {
		t.Errorf("%+v", got)
	}
}
