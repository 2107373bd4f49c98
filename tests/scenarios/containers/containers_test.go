// Package containers runs config/docker-compose.yml as docs/CONTAINERS.md tells, by a
// Docker engine and a Compose of its own. It needs root and a network namespace
// without a way out: tests/scenarios/containers/run.sh.
package containers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/aetherium/aetherium/services/core/pkg/vmm/docker/dockertest"
	"github.com/aetherium/aetherium/tests/internal/server"
)

// What the script gives: the program Compose, Debian as an archive, and the root
// filesystem of the base template.
const (
	composeEnv = "AETHERIUM_CONTAINERS_COMPOSE"
	baseEnv    = "AETHERIUM_CONTAINERS_BASE"
	rootfsEnv  = "AETHERIUM_TEST_ROOTFS"
)

// TestMain is the program of the image that stands in for Loki, too.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "loki" {
		serveLoki()
	}
	os.Exit(m.Run())
}

// serveLoki takes lines as Loki does (POST /loki/api/v1/push) and gives all back on
// GET /pushed.
func serveLoki() {
	pushed := make(chan []byte, 1<<16)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /loki/api/v1/push", func(w http.ResponseWriter, r *http.Request) {
		raw, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		pushed <- raw
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("GET /pushed", func(w http.ResponseWriter, _ *http.Request) {
		for range len(pushed) {
			_, _ = w.Write(append(<-pushed, '\n'))
		}
	})
	s := &http.Server{Addr: ":3100", Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	panic(s.ListenAndServe())
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// field is a copy of the parts of the repository that an installation needs, and an
// engine that it is on.
type field struct {
	t      *testing.T
	root   string
	engine *dockertest.Engine
	env    []string
}

func newField(t *testing.T) *field {
	t.Helper()
	program, base := os.Getenv(composeEnv), os.Getenv(baseEnv)
	if program == "" || base == "" || os.Getenv(rootfsEnv) == "" {
		t.Skip("it needs what tests/scenarios/containers/run.sh makes")
	}
	from, err := server.Root()
	must(t, err)
	f := &field{t: t, root: t.TempDir(), engine: dockertest.StartBridged(t)}
	plugins := filepath.Join(t.TempDir(), "cli-plugins")
	must(t, os.MkdirAll(plugins, 0o700))
	must(t, os.Symlink(program, filepath.Join(plugins, "docker-compose")))
	f.env = append(os.Environ(), "DOCKER_HOST=unix://"+f.engine.Socket, "DOCKER_CONFIG="+filepath.Dir(plugins))

	for _, part := range []string{
		".dockerignore", "bin", "config", "docs/CONTAINERS.md", "infrastructure", "scripts",
		"services/core/Dockerfile.worker", "services/core/Dockerfile.migrate", "services/gateway/Dockerfile", "services/standalone/Dockerfile",
	} {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(f.root, part)), 0o755)) //nolint:gosec // as in a clone
		f.run("cp", "-a", "--reflink=auto", filepath.Join(from, part), filepath.Join(f.root, part))
	}
	_ = os.Remove(filepath.Join(f.root, "config/.env")) // another installation's

	f.run("docker", "import", base, "debian:bookworm-slim")
	f.run("docker", "build", "--tag", "postgres:17", "testdata/postgres")
	f.run("docker", "build", "--tag", "redis:7.4", "testdata/redis")
	loki := t.TempDir()
	self, err := os.Executable()
	must(t, err)
	f.run("cp", self, loki+"/loki")
	must(t, os.WriteFile(loki+"/Dockerfile", []byte("FROM scratch\nCOPY loki /usr/bin/loki\nUSER 10001\nENTRYPOINT [\"/usr/bin/loki\"]\n"), 0o600))
	f.run("docker", "build", "--tag", "grafana/loki:3.5.0", loki)
	return f
}

// command is one that speaks with the engine.
func (f *field) command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(f.t.Context(), args[0], args[1:]...)
	cmd.Env = f.env
	return cmd
}

// run runs a command that must end well, and returns what it printed.
func (f *field) run(args ...string) string {
	f.t.Helper()
	var out, said bytes.Buffer
	cmd := f.command(args...)
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		f.t.Fatalf("%s: %v\n%s%s", strings.Join(args, " "), err, out.String(), said.String())
	}
	return out.String()
}

// script is what `make docker-…` runs.
func (f *field) script(what string, settings ...string) string {
	f.t.Helper()
	return f.run(slices.Concat([]string{"env"}, settings, []string{filepath.Join(f.root, "scripts/docker.sh"), what})...)
}

// in is f in a part of the test.
func (f *field) in(t *testing.T) *field {
	part := *f
	part.t = t
	return &part
}

// composed is a command of Compose.
func (f *field) composed(args ...string) []string {
	return append([]string{"docker", "compose", "-f", filepath.Join(f.root, "config/docker-compose.yml")}, args...)
}

func (f *field) compose(args ...string) string {
	f.t.Helper()
	return f.run(f.composed(args...)...)
}

// archive runs a command that takes the root filesystem of the base template.
func (f *field) archive(cmd *exec.Cmd) {
	f.t.Helper()
	tar := exec.CommandContext(f.t.Context(), "tar", "--numeric-owner", "-C", os.Getenv(rootfsEnv), "-c", ".")
	pipe, err := tar.StdoutPipe()
	must(f.t, err)
	cmd.Stdin = pipe
	must(f.t, tar.Start())
	out, err := cmd.CombinedOutput()
	if terr := tar.Wait(); err != nil || terr != nil {
		f.t.Fatalf("%v: %v, %v\n%s", cmd.Args, err, terr, out)
	}
}

func (f *field) get(url string) string {
	f.t.Helper()
	r, err := http.NewRequestWithContext(f.t.Context(), http.MethodGet, url, nil)
	must(f.t, err)
	answer, err := http.DefaultClient.Do(r)
	must(f.t, err)
	defer func() { _ = answer.Body.Close() }()
	raw, err := io.ReadAll(answer.Body)
	must(f.t, err)
	return string(raw)
}

// cli is the command line in the gateway's container.
func (f *field) cli(args ...string) string {
	f.t.Helper()
	return f.compose(append([]string{"exec", "-T", "gateway", "aetherium"}, args...)...)
}

// vms are the states of VMs by their names.
func (f *field) vms() map[string]string {
	f.t.Helper()
	var all []struct{ Name, State string }
	must(f.t, json.Unmarshal([]byte(f.cli("vm", "ls", "--all", "-o", "json")), &all))
	states := map[string]string{}
	for _, v := range all {
		states[v.Name] = v.State
	}
	return states
}

// until waits for what nobody tells of.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("never: %s", what)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// groups are the control groups on the host that workers made beside their containers.
func groups(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, pattern := range []string{"/sys/fs/cgroup/aetherium*", "/sys/fs/cgroup/*/aetherium*"} {
		found, err := filepath.Glob(pattern)
		must(t, err)
		all = append(all, found...)
	}
	return all
}

// withoutPrivilege looks at the first process of a service.
func (f *field) withoutPrivilege(service string) {
	f.t.Helper()
	pid := strings.TrimSpace(f.run("docker", "inspect", "--format", "{{.State.Pid}}", "aetherium-"+service+"-1"))
	status, err := os.ReadFile("/proc/" + pid + "/status")
	must(f.t, err)
	for _, want := range []string{"\nUid:\t65532\t65532\t65532\t65532\n", "\nCapEff:\t0000000000000000\n", "\nCapBnd:\t0000000000000000\n", "\nNoNewPrivs:\t1\n"} {
		if !strings.Contains(string(status), want) {
			f.t.Errorf("%s: not %q in\n%s", service, want, status)
		}
	}
	if err := os.WriteFile("/proc/"+pid+"/root/etc/new", nil, 0o600); !errors.Is(err, syscall.EROFS) {
		f.t.Errorf("its root is written to: %v", err)
	}
}

// holds starts a VM, which must have what was written to it.
func (f *field) holds(vm string) {
	f.t.Helper()
	f.cli("vm", "start", vm)
	if got := f.cli("exec", vm, "--", "cat", "/var/tmp/file"); got != "hello\n" {
		f.t.Errorf("%s has %q", vm, got)
	}
}

// nothingRuns tells what is left of containers, and of what they made beside them.
func (f *field) nothingRuns(before []string) {
	f.t.Helper()
	if left := f.run("docker", "ps", "--all", "--quiet"); left != "" {
		f.t.Errorf("containers are left: %s", f.run("docker", "ps", "--all"))
	}
	for _, g := range groups(f.t) {
		if !slices.Contains(before, g) {
			f.t.Errorf("the control group %s is left", g)
		}
	}
}

// nothingKept tells what is left of data.
func (f *field) nothingKept() {
	f.t.Helper()
	if left := f.run("docker", "volume", "ls", "--quiet"); left != "" {
		f.t.Errorf("volumes are left: %s", left)
	}
	if _, err := os.Stat(filepath.Join(f.root, "config/.env")); !os.IsNotExist(err) {
		f.t.Errorf("passwords are left: %v", err)
	}
}

func TestContainers(t *testing.T) {
	f := newField(t)
	f.script("build", "BUILD_ARGS=--network none")
	for image, most := range map[string]int64{"aetherium-gateway": 64 << 20, "aetherium-migrate": 32 << 20} {
		var size int64
		must(t, json.Unmarshal([]byte(f.run("docker", "image", "inspect", "--format", "{{.Size}}", image)), &size))
		if size > most {
			t.Errorf("%s has %d bytes", image, size)
		}
	}
	t.Run("compose", func(t *testing.T) { f.in(t).installation() })
	t.Run("infrastructure", func(t *testing.T) { f.in(t).infrastructure() })
	t.Run("standalone", func(t *testing.T) { f.in(t).standalone() })
}

// installation makes one, uses it, and ends it, twice: with its data kept, and without.
func (f *field) installation() {
	t := f.t
	before := groups(t)
	t.Cleanup(func() {
		if t.Failed() {
			cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "docker", f.composed("logs", "--no-color", "--tail", "40")[1:]...)
			cmd.Env = f.env
			out, _ := cmd.CombinedOutput()
			t.Logf("%s", out)
		}
	})
	if said := f.script("up"); !strings.Contains(said, "the API is at http://127.0.0.1:7300") {
		t.Fatalf("up: %s", said)
	}
	if got := strings.Fields(f.cli("worker", "ls", "--quiet")); !slices.Equal(got, []string{"worker-1", "worker-2"}) {
		t.Errorf("workers: %q", got)
	}
	f.archive(f.command(f.composed("exec", "-T", "gateway", "aetherium", "template", "build", "base", "--tar", "-")...))
	f.withoutPrivilege("gateway")
	cmd := f.command(f.composed("exec", "-T", "gateway", "aetherium", "run", "--", "sh", "-c", "echo hello; exit 7")...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	var exit *exec.ExitError
	if err := cmd.Run(); !errors.As(err, &exit) || exit.ExitCode() != 7 || out.String() != "hello\n" {
		t.Errorf("%v: %q %s", err, out.String(), said.String())
	}
	loki := "http://" + strings.TrimSpace(f.run("docker", "inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", "aetherium-loki-1")) + ":3100"
	pushed := f.get(loki + "/pushed")
	for _, name := range []string{"aetherium-gateway", "aetherium-worker"} {
		if !strings.Contains(pushed, name) {
			t.Errorf("nothing of %s in Loki: %.2000s", name, pushed)
		}
	}

	f.cli("vm", "create", "--name", "kept")
	f.cli("exec", "kept", "--", "sh", "-c", "echo hello >/var/tmp/file && sync")
	f.compose("restart", "worker-1", "worker-2")
	until(t, "the VM is stopped", func() bool { return f.vms()["kept"] == "stopped" })
	f.holds("kept")

	f.script("down")
	f.nothingRuns(before)
	f.script("up")
	f.holds("kept")
	if got := strings.Fields(f.cli("worker", "ls", "--quiet")); !slices.Equal(got, []string{"worker-1", "worker-2"}) {
		t.Errorf("workers after down and up: %q", got)
	}
	if said := f.compose("run", "--rm", "migrate", "status"); !strings.Contains(said, "version") {
		t.Errorf("status: %s", said)
	}
	f.script("down", "PURGE=1")
	f.nothingRuns(before)
	f.nothingKept()
}

// infrastructure: services alone are there for processes of the host, by what the
// script prints.
func (f *field) infrastructure() {
	t := f.t
	said := f.script("infrastructure")
	settings := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^export (\w+)='?([^'\n]+)'?$`).FindAllStringSubmatch(said, -1) {
		settings[m[1]] = m[2]
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(f.root, "bin/aetherium-migrate"), "up")
	cmd.Env = append(os.Environ(), "AETHERIUM_DATABASE="+settings["AETHERIUM_DATABASE"])
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	options, err := redis.ParseURL(settings["AETHERIUM_QUEUE"])
	must(t, err)
	c := redis.NewClient(options)
	defer func() { _ = c.Close() }()
	must(t, c.Ping(t.Context()).Err())
	if pushed := f.get(settings["AETHERIUM_LOG_LOKI"] + "/pushed"); pushed != "" {
		t.Errorf("pushed before anybody was told to: %s", pushed)
	}
	f.script("down", "PURGE=1")
	f.nothingRuns(groups(t))
	f.nothingKept()
}

// standalone: one container is all of it, by the commands of docs/CONTAINERS.md.
func (f *field) standalone() {
	t := f.t
	before := groups(t)
	text, err := os.ReadFile(filepath.Join(f.root, "docs/CONTAINERS.md"))
	must(t, err)
	block := regexp.MustCompile("(?s)```\n(\\$ needs=.*?)```").FindSubmatch(text)
	if block == nil {
		t.Fatal("docs/CONTAINERS.md tells no commands")
	}
	commands := strings.Split(strings.TrimPrefix(string(block[1]), "$ "), "\n$ ")
	if len(commands) != 4 {
		t.Fatalf("docs/CONTAINERS.md tells %q", commands)
	}
	shell := func(command string) { f.run("bash", "-ec", commands[0]+"\n"+command) }
	shell(commands[1])
	until(t, "it is healthy", func() bool {
		return strings.TrimSpace(f.run("docker", "inspect", "--format", "{{.State.Health.Status}}", "aetherium")) == "healthy"
	})
	f.archive(f.command("docker", "exec", "-i", "aetherium", "aetherium", "template", "build", "base", "--tar", "-"))
	if out := f.run("docker", "exec", "aetherium", "aetherium", "run", "--", "echo", "hello"); out != "hello\n" {
		t.Errorf("printed %q", out)
	}
	shell(commands[3])
	f.nothingRuns(before)
}
