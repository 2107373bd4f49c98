package cli_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/internal/cli"
	"github.com/aetherium/aetherium/services/core/internal/cli/apifake"
)

// frozenClock is the environment variable that stops the clock of the tests'
// program: the ages it prints do not depend on when a test got its turn.
const frozenClock = "AETHERIUM_TEST_NOW"

// TestMain lets the test binary be the command line, for scripts and terminals.
func TestMain(m *testing.M) {
	// The race detector's default is to sleep a second at the end of every process.
	if err := os.Setenv("GORACE", "atexit_sleep_ms=0 "+os.Getenv("GORACE")); err != nil {
		panic(err)
	}
	testscript.Main(m, map[string]func(){
		"aetherium": func() {
			host, release := cli.Process()
			host.SystemDir = "" // whatever this host runs is no business of the tests
			if at := os.Getenv(frozenClock); at != "" {
				now, err := time.Parse(time.RFC3339Nano, at)
				if err != nil {
					panic(err)
				}
				host.Now = func() time.Time { return now }
			}
			code := cli.Main(context.Background(), os.Args[1:], host)
			release()
			os.Exit(code)
		},
	})
}

type fakeKey struct{}

// withoutServer leaves out of a search path where a server's program is
// installed: doctor would find it.
func withoutServer(path string) string {
	dirs := filepath.SplitList(path)
	return strings.Join(slices.DeleteFunc(dirs, func(dir string) bool {
		_, err := os.Stat(filepath.Join(dir, "aetherium-standalone"))
		return err == nil
	}), string(filepath.ListSeparator))
}

func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		UpdateScripts:       os.Getenv("UPDATE_SCRIPTS") != "",
		Setup: func(env *testscript.Env) error {
			fake := apifake.New(env.T().(testing.TB))
			env.Values[fakeKey{}] = fake
			for k, v := range map[string]string{
				"AETHERIUM_URL": fake.URL(), "AETHERIUM_API_KEY": apifake.Key, "HOME": env.WorkDir, "URL": fake.URL(), "KEY": apifake.Key,
				"WEB_DIR": fake.Dir("web"), "TERM": "dumb", "GORACE": os.Getenv("GORACE"),
				"PATH": withoutServer(env.Getenv("PATH")),
			} {
				env.Setenv(k, v)
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			// exits CODE ARG…: runs aetherium and expects an exit code.
			"exits": func(ts *testscript.TestScript, _ bool, args []string) {
				want, err := strconv.Atoi(args[0])
				ts.Check(err)
				err = ts.Exec("aetherium", args[1:]...)
				got := 0
				var e interface{ ExitCode() int }
				if x, ok := err.(interface{ ExitCode() int }); ok {
					e = x
					got = e.ExitCode()
				} else if err != nil {
					ts.Fatalf("%v", err)
				}
				if got != want {
					ts.Fatalf("aetherium exited with %d, want %d", got, want)
				}
			},
			// vms N: so many VMs exist.
			"vms": func(ts *testscript.TestScript, _ bool, args []string) {
				want, err := strconv.Atoi(args[0])
				ts.Check(err)
				if got := ts.Value(fakeKey{}).(*apifake.Server).VMCount(); got != want {
					ts.Fatalf("there are %d VMs, want %d", got, want)
				}
			},
			// stored NAME VALUE: a secret has a value, written with \n for a line end.
			"stored": func(ts *testscript.TestScript, _ bool, args []string) {
				want := strings.ReplaceAll(args[1], `\n`, "\n")
				if got := ts.Value(fakeKey{}).(*apifake.Server).Secret(args[0]); got != want {
					ts.Fatalf("the secret is %q, want %q", got, want)
				}
			},
			// server kill|start|break ROUTE CODE
			"server": func(ts *testscript.TestScript, _ bool, args []string) {
				fake := ts.Value(fakeKey{}).(*apifake.Server)
				switch args[0] {
				case "kill":
					fake.Kill()
				case "start":
					fake.Start()
				case "fail":
					fake.Fail(args[1]+" "+args[2], api.Problem{
						Title: "t", Status: 507, Code: args[3], Detail: "it is full", Hint: "make room", RequestID: "req-7",
					})
				}
			},
		},
	})
}
