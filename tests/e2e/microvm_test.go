package e2e

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/pkg/client"
	"github.com/aetherium/aetherium/tests/internal/server"
)

// microVMs are the tests of machines with a kernel of their own, which take
// long to boot without KVM: what is made once is used for all of them.
type microVMs struct {
	*guest
	c        *client.Client
	driver   string
	programs []string // of the processes that a VM runs in
}

// counting counts in memory alone, and tells how far it is.
const counting = `i=0; while :; do i=$((i+1)); echo $i; echo $i > /tmp/n.new; mv /tmp/n.new /tmp/n; sleep 0.1; done`

// The whole product on the qemu driver: what users do with VMs of any kind, and
// what only a machine can that has its memory to itself.
func TestMicroVMs(t *testing.T) {
	m := &microVMs{driver: "qemu", programs: []string{"qemu-system-x86_64"}}
	// Templates are made by the oci driver.
	m.doAll(t, "AETHERIUM_DRIVERS=oci,qemu")
}

// The same on firecracker, and with no other driver: in the machine that
// tests/scenarios/firecracker boots.
func TestMicroVMsOnFirecracker(t *testing.T) {
	if os.Getenv("AETHERIUM_TEST_FIRECRACKER") == "" {
		t.Skip("AETHERIUM_TEST_FIRECRACKER names no firecracker")
	}
	m := &microVMs{driver: "firecracker", programs: []string{"firecracker", "jailer", "aetherium-fc-pager"}}
	t.Cleanup(func() { m.nobodyRuns(t) }) // after the server is down; nobody else has VMs in there
	m.doAll(t, "AETHERIUM_DRIVERS=firecracker", "AETHERIUM_VM_DRIVER=auto")
}

// doAll does a user's day, on a server with further settings.
func (m *microVMs) doAll(t *testing.T, settings ...string) {
	kernel := os.Getenv("AETHERIUM_TEST_KERNEL")
	if kernel == "" {
		t.Skip("AETHERIUM_TEST_KERNEL names no kernel for guests")
	}
	if !apart(t) {
		return
	}
	i := newInternet(t)
	s := i.server(append(settings, "AETHERIUM_MICROVM_KERNEL="+kernel, "AETHERIUM_POOL_SIZE=0")...)
	// A server that was killed may take long to be back.
	c, err := client.New(client.Options{URL: s.URL, Key: s.Key, UserAgent: "aetherium-tests", Patience: limit(t)})
	check(t, err)
	t.Cleanup(c.Close)
	m.c = c
	var vm api.VM
	var counter string // an execution in it
	var more []string  // VMs that go on from its memory
	for _, step := range []struct {
		name string
		do   func()
	}{
		{"is listed", m.isListed},
		{"is chosen", func() {
			vm = m.create("--driver", "auto", "--isolation", "microvm", "--name", "origin", "--deny", inetSecond)
			if vm.Driver != m.driver || vm.Isolation != "microvm" || vm.Memory {
				m.t.Errorf("%+v", vm)
			}
			m.want("origin", "cat /proc/1/comm; cat /proc/sys/kernel/osrelease", "0", release(m.t, kernel))
			m.tracesABoot(vm.ID)
		}},
		{"answers a command", func() { m.answersACommand("origin") }},
		{"streams", func() { m.streams(vm.ID) }},
		{"keeps the policy", func() { m.keepsThePolicy("origin") }},
		{"shows a port", func() {
			counter = strings.TrimSpace(m.cli("exec", "-d", "origin", "--", "sh", "-c", counting))
			m.showsAPort(vm.ID)
		}},
		{"pauses", func() { m.pauses(vm.ID, counter) }},
		{"outlives the server", func() { m.outlivesTheServer(vm.ID, counter) }},
		{"forks", func() {
			more = m.forks(vm.ID, counter)
			m.keepsThePolicy(more[0])
		}},
		{"goes on from a snapshot", func() { more = append(more, m.goesOnFromASnapshot(vm.ID, counter)) }},
		{"leaves nothing", func() {
			for _, id := range append(more, vm.ID) {
				m.cli("vm", "rm", id)
			}
			m.leaveNothing()
		}},
		{"has tools", m.hasTools},
		{"begins started", m.beginStarted},
		{"goes on from what is kept", m.goOnFromKept},
	} {
		// Each needs what those before it did.
		if !t.Run(step.name, func(t *testing.T) {
			m.guest = &guest{t, s}
			step.do()
		}) {
			return
		}
	}
}

// release is the version of the kernel that guests are to run.
func release(t *testing.T, kernel string) string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(kernel, "lib/modules/*"))
	if err != nil || len(names) != 1 {
		t.Fatalf("kernels in %s: %v, %v", kernel, names, err)
	}
	return filepath.Base(names[0])
}

func (m *microVMs) create(args ...string) api.VM {
	m.t.Helper()
	var vm api.VM
	check(m.t, m.s.JSON(limited(m.t), &vm, append([]string{"vm", "create", "--memory", "256MiB", "--cpus", "1"}, args...)...))
	return vm
}

// isListed waits until the driver was tried out, by a boot, and is told of.
func (m *microVMs) isListed() {
	m.t.Helper()
	ctx := limited(m.t)
	for {
		drivers, err := m.c.Drivers(ctx)
		check(m.t, err)
		i := slices.IndexFunc(drivers, func(d api.Driver) bool { return d.Name == m.driver })
		if i < 0 {
			m.t.Fatalf("the drivers are %+v", drivers)
		}
		if d := drivers[i]; d.Usable {
			for _, can := range []string{"pause:memory", "snapshot:memory", "fork:memory"} {
				if !slices.Contains(d.Capabilities, can) {
					m.t.Errorf("%s has no %s: %v", m.driver, can, d.Capabilities)
				}
			}
			break
		}
		select {
		case <-time.After(50 * time.Millisecond): // nobody is told
		case <-ctx.Done():
			m.t.Fatalf("%s cannot be used: %+v", m.driver, drivers[i])
		}
	}
	doctor := m.cli("doctor")
	if !slices.ContainsFunc(strings.Split(doctor, "\n"), func(line string) bool {
		return strings.Contains(line, m.driver) && strings.Contains(line, "microvm")
	}) {
		m.t.Errorf("the doctor says %s", doctor)
	}
}

// tracesABoot reads how the VM's start went.
func (m *microVMs) tracesABoot(vm string) {
	m.t.Helper()
	lines := strings.Split(m.cli("vm", "get", vm, "--trace"), "\n")
	for phase, want := range map[string]bool{"start.monitor": true, "start.restore": false} {
		if has := slices.ContainsFunc(lines, func(line string) bool { return slices.Contains(strings.Fields(line), phase) }); has != want {
			m.t.Errorf("%s is in the trace of a VM that booted: %v\n%s", phase, has, strings.Join(lines, "\n"))
		}
	}
}

// answersACommand keeps a command's outputs apart, hands it what it is to read,
// and ends as it does.
func (m *microVMs) answersACommand(vm string) {
	m.t.Helper()
	cmd := m.s.Command(limited(m.t), "exec", "-i", vm, "--", "sh", "-c", "cat; echo err >&2; exit 7")
	var stdout, stderr strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader("in\n"), &stdout, &stderr
	err := cmd.Run()
	if stdout.String() != "in\n" || stderr.String() != "err\n" || cmd.ProcessState.ExitCode() != 7 {
		m.t.Errorf("%q, %q, %v", stdout.String(), stderr.String(), err)
	}
}

// streams sees output before its command ends, and files pass both ways.
func (m *microVMs) streams(vm string) {
	m.t.Helper()
	ctx := limited(m.t)
	st, err := m.c.Start(ctx, vm, api.StartExecution{Command: api.Command{Args: []string{"sh", "-c", `echo first; until [ -e /tmp/in ]; do sleep 0.05; done; rev /tmp/in > /tmp/out; echo second >&2; exit 5`}}}, client.StreamOptions{})
	check(m.t, err)
	defer st.Close()
	var seen strings.Builder
	for sent := false; ; {
		ev, err := st.Next(ctx)
		check(m.t, err)
		seen.Write(ev.Data)
		if !sent && seen.String() == "first\n" {
			sent = true
			in := filepath.Join(m.t.TempDir(), "in")
			check(m.t, os.WriteFile(in, []byte("drawer\n"), 0o600))
			m.cli("cp", in, vm+":/tmp/in.new")
			m.want(vm, "mv /tmp/in.new /tmp/in", "0")
		}
		if ev.Exit == nil {
			continue
		}
		if seen.String() != "first\nsecond\n" || ev.Exit.ExitCode != 5 {
			m.t.Errorf("%q, %+v", seen.String(), ev.Exit)
		}
		break
	}
	out := filepath.Join(m.t.TempDir(), "out")
	m.cli("cp", vm+":/tmp/out", out)
	if text, err := os.ReadFile(out); err != nil || string(text) != "reward\n" {
		m.t.Errorf("%q, %v", text, err)
	}
}

// keepsThePolicy asks for what may be reached and for what may not.
func (m *microVMs) keepsThePolicy(vm string) {
	m.t.Helper()
	m.want(vm, curl+"http://any.test/", "0", inetPublic+" for any.test")
	m.want(vm, curl+"http://"+inetSecond+"/", "7")
	m.want(vm, curl+"http://"+inetMetadata+"/", "7")
}

// showsAPort reaches a server in the VM from outside.
func (m *microVMs) showsAPort(vm string) {
	m.t.Helper()
	m.cli("exec", "-d", vm, "--", "sh", "-c", "mkdir -p /tmp/www && cd /tmp/www && echo hello > index.html && exec python3 -m http.server 8000")
	m.want(vm, "until "+curl+"-f http://127.0.0.1:8000/ 2>/dev/null; do sleep 0.1; done", "0", "hello")
	m.answers(vm, 8000, "hello\n")
}

// answers asks a port of a VM by its preview.
func (m *microVMs) answers(vm string, port int, want string) {
	m.t.Helper()
	ctx := limited(m.t)
	p, err := m.c.Port(ctx, vm, port)
	check(m.t, err)
	code, body, err := fetch(ctx, m.s.URL+"/", hostOf(p.URL), map[string]string{"X-Aetherium-Token": p.Token})
	if err != nil || code != http.StatusOK || body != want {
		m.t.Errorf("port %d: %d %q %v", port, code, body, err)
	}
}

// count is how far the counter of a VM is.
func (m *microVMs) count(vm string) int {
	m.t.Helper()
	out, _ := m.sh(vm, "cat /tmp/n")
	n, err := strconv.Atoi(out)
	check(m.t, err)
	return n
}

// goesOn waits until the counter has passed a number.
func (m *microVMs) goesOn(vm string, from int) {
	m.t.Helper()
	m.want(vm, "until [ $(cat /tmp/n) -gt "+strconv.Itoa(from)+" ]; do sleep 0.05; done", "0")
}

// monitors are the processes that machines run in.
func (m *microVMs) monitors() []int {
	var all []int
	for _, program := range m.programs {
		all = append(all, m.s.Helpers(program)...)
	}
	return all
}

// held is the memory that they take for themselves, in bytes.
func (m *microVMs) held() (sum int64) {
	m.t.Helper()
	for _, pid := range m.monitors() {
		n, err := server.PrivateMemory(pid)
		if err != nil && !os.IsNotExist(err) && !errors.Is(err, unix.ESRCH) { // it has ended
			m.t.Fatal(err)
		}
		sum += n
	}
	return sum
}

// nobodyRuns looks at every process of the host, whosever it is.
func (m *microVMs) nobodyRuns(t *testing.T) {
	names, err := filepath.Glob("/proc/[0-9]*/cmdline")
	check(t, err)
	for _, name := range names {
		line, _ := os.ReadFile(name) // none of one that has ended
		program, _, _ := strings.Cut(string(line), "\x00")
		if slices.Contains(m.programs, filepath.Base(program)) {
			t.Errorf("it runs after all was taken down: %q", line)
		}
	}
}

// pauses sees a VM's memory freed, and its processes go on where they were.
func (m *microVMs) pauses(vm, counter string) {
	m.t.Helper()
	m.goesOn(vm, 1)
	ctx := limited(m.t)
	ran, held := m.monitors(), m.held()
	paused, err := m.c.PauseVM(ctx, vm, "")
	if err != nil || paused.State != "paused" || paused.PauseMode != "memory" {
		m.t.Fatalf("%+v, %v", paused, err)
	}
	// Another may stand by, with nothing of the VM's memory.
	if left := m.monitors(); slices.ContainsFunc(left, func(pid int) bool { return slices.Contains(ran, pid) }) || m.held() > held/2 {
		m.t.Errorf("of processes %v with %d bytes %v with %d are there when the VM is paused", ran, held, left, m.held())
	}
	told, err := m.c.Execution(ctx, counter)
	check(m.t, err)
	m.cli("vm", "resume", vm)
	n := m.count(vm)
	m.goesOn(vm, n)
	after, err := m.c.Execution(limited(m.t), counter)
	if err != nil || after.State != "running" || after.Epoch != told.Epoch || after.PID != told.PID {
		m.t.Errorf("%+v, %v", after, err)
	}
	m.counted(counter, n, true)
}

// counted reads the output of the counter up to a number: each number comes
// once. Only the one of a fork begins later than with 1.
func (m *microVMs) counted(execution string, upTo int, whole bool) {
	m.t.Helper()
	ctx := limited(m.t)
	st, err := m.c.Attach(ctx, execution, client.StreamOptions{})
	check(m.t, err)
	defer st.Close()
	var text string
	last := 0
	for last < upTo {
		ev, err := st.Next(ctx)
		check(m.t, err)
		if ev.Exit != nil || ev.Gap != nil && (whole || last > 0) {
			m.t.Fatalf("after %d the counter says %+v", last, ev)
		}
		text += string(ev.Data)
		for {
			line, rest, ok := strings.Cut(text, "\n")
			if !ok {
				break
			}
			text = rest
			n, err := strconv.Atoi(line)
			if last == 0 && !whole {
				last = n // what came before may have been told in the middle of a line
				continue
			}
			if err != nil || n != last+1 {
				m.t.Fatalf("%q follows %d", line, last)
			}
			last = n
		}
	}
}

// outlivesTheServer kills the server while a command writes.
func (m *microVMs) outlivesTheServer(vm, counter string) {
	m.t.Helper()
	const lines = 1000
	ctx := limited(m.t)
	script := "i=0; while [ $i -lt " + strconv.Itoa(lines) + " ]; do i=$((i+1)); echo line $i; [ $((i % 20)) = 0 ] && sleep 0.05; done; exit 7"
	st, err := m.c.Start(ctx, vm, api.StartExecution{Command: api.Command{Args: []string{"sh", "-c", script}}}, client.StreamOptions{})
	check(m.t, err)
	defer st.Close()
	before := m.monitors()
	check(m.t, m.s.Kill())
	started := make(chan error, 1)
	go func() { started <- m.s.Start(context.WithoutCancel(ctx)) }()
	var out strings.Builder
	for {
		ev, err := st.Next(ctx)
		check(m.t, err)
		if ev.Gap != nil || ev.Warning != nil {
			m.t.Errorf("%+v", ev)
		}
		out.Write(ev.Data)
		if ev.Exit == nil {
			continue
		}
		if ev.Exit.ExitCode != 7 || ev.Exit.LostReason != "" || out.String() != numbered(lines) {
			m.t.Errorf("%+v after %q", ev.Exit, tail(out.String(), 5))
		}
		break
	}
	check(m.t, <-started)
	// The driver's trial has one of its own for a while.
	for after := m.monitors(); !slices.Equal(after, before); after = m.monitors() {
		if len(before) != 1 || !slices.Contains(after, before[0]) || ctx.Err() != nil {
			m.t.Fatalf("the VM ran in %v, and runs in %v", before, after)
		}
		time.Sleep(50 * time.Millisecond) // nobody is told
	}
	n := m.count(vm)
	m.goesOn(vm, n)
	m.counted(counter, n, true)
}

// forks go on from memory, each by itself.
func (m *microVMs) forks(vm, counter string) []string {
	m.t.Helper()
	n := m.count(vm)
	ids := strings.Fields(m.cli("vm", "fork", vm, "-n", "2", "-q"))
	if len(ids) != 2 {
		m.t.Fatalf("the forks are %v", ids)
	}
	origin, err := m.c.VM(limited(m.t), vm)
	check(m.t, err)
	seen := map[string]string{}
	m.isItself(origin, seen)
	for _, id := range ids {
		fork, err := m.c.VM(limited(m.t), id)
		if err != nil || !fork.Memory || fork.State != "running" || fork.Isolation != "microvm" {
			m.t.Errorf("%+v, %v", fork, err)
		}
		m.isItself(fork, seen)
		m.goesOn(id, n)
		m.counted(m.from(id, counter), n+1, false)
		m.answers(id, 8000, "hello\n")
		m.want(id, "echo mine > /tmp/www/index.html", "0")
	}
	m.goesOn(vm, m.count(vm))
	m.answers(vm, 8000, "hello\n") // as it was: the forks wrote to theirs
	return ids
}

// goesOnFromASnapshot makes a VM of the memory that another had.
func (m *microVMs) goesOnFromASnapshot(vm, counter string) string {
	m.t.Helper()
	n := m.count(vm)
	snapshot := strings.TrimSpace(m.cli("vm", "snapshot", vm, "--memory", "-q"))
	m.goesOn(vm, m.count(vm))
	var made api.VM
	check(m.t, m.s.JSON(limited(m.t), &made, "vm", "create", "--from", snapshot))
	if !made.Memory || made.State != "running" || made.Driver != m.driver || made.SnapshotID != snapshot {
		m.t.Errorf("%+v", made)
	}
	origin, err := m.c.VM(limited(m.t), vm)
	check(m.t, err)
	seen := map[string]string{}
	m.isItself(origin, seen)
	m.isItself(made, seen)
	m.cli("snapshot", "rm", snapshot)
	m.goesOn(made.ID, n)
	m.counted(m.from(made.ID, counter), n+1, false)
	return made.ID
}

// from finds the execution of a VM that goes on from another's.
func (m *microVMs) from(vm, origin string) string {
	m.t.Helper()
	for x, err := range m.c.Executions(limited(m.t), vm, client.ExecutionFilter{}) {
		check(m.t, err)
		if x.OriginID == origin {
			if x.State != "running" || x.ID == origin {
				m.t.Errorf("%+v", x)
			}
			return x.ID
		}
	}
	m.t.Fatalf("VM %s has none that goes on from %s", vm, origin)
	return ""
}

// leaveNothing waits until there is nothing of VMs that were deleted.
func (m *microVMs) leaveNothing() {
	m.t.Helper()
	ctx := limited(m.t)
	for {
		stray, err := m.s.Stray(ctx, server.Limits{SparePairs: 100, Draining: true})
		if err == nil && len(stray) == 0 && len(m.monitors()) == 0 {
			return
		}
		select {
		case <-time.After(20 * time.Millisecond): // nothing tells that a process has gone
		case <-ctx.Done():
			m.t.Fatalf("without an owner: %v, %v\n%s", m.monitors(), err, strings.Join(stray, "\n"))
		}
	}
}

// hasTools makes a VM with a tool of which there are two versions in the cache. They
// are put there as if they had been installed, which TestTools does for real: here
// nothing can be fetched, and on firecracker alone nothing installed.
func (m *microVMs) hasTools() {
	m.t.Helper()
	cache := filepath.Join(m.s.DataDir, "tools", "linux-"+runtime.GOARCH)
	for _, version := range []string{"1.0.0", "2.0.0"} {
		dir := filepath.Join(cache, "hello", version)
		check(m.t, os.MkdirAll(filepath.Join(dir, "bin"), 0o755)) //nolint:gosec // seen in VMs
		check(m.t, os.WriteFile(filepath.Join(dir, "bin/hello"), []byte("#!/bin/sh\necho hello "+version+"\n"), 0o755))
		manifest := `{"name":"hello","version":"` + version + `","backend":"none","bins":["bin"],"env":{"HELLO":"set"}}`
		check(m.t, os.WriteFile(filepath.Join(dir, ".aetherium-tool.json"), []byte(manifest), 0o644)) //nolint:gosec // seen in VMs
	}
	check(m.t, m.s.Stop(limited(m.t)))
	check(m.t, m.s.Start(limited(m.t)))
	m.create("--driver", m.driver, "--name", "tooled", "--tool", "hello@2.0.0")
	m.cli("vm", "fork", "tooled", "--name", "tooled-fork") // with its memory
	for _, vm := range []string{"tooled", "tooled-fork"} {
		m.want(vm, "hello; bash -lc hello; echo $HELLO", "0", "hello 2.0.0\nhello 2.0.0\nset")
		m.want(vm, "ls -A /opt/aetherium/tools /opt/aetherium/tools/hello | xargs", "0", "/opt/aetherium/tools: hello /opt/aetherium/tools/hello: 2.0.0")
	}
	for _, name := range []string{"/opt/aetherium/tools/hello/2.0.0/bin/hello", "/etc/profile.d/zz-aetherium-tools.sh"} {
		m.want("tooled", "sudo touch "+name, "1", "Read-only file system")
	}
	m.cli("vm", "rm", "tooled")
	m.cli("vm", "rm", "tooled-fork")
	m.leaveNothing()
}

// beginStarted makes a template whose VMs begin with a server that answers.
func (m *microVMs) beginStarted() {
	m.t.Helper()
	m.cli("template", "build", "warm", "--dir", os.Getenv(apartEnv), "--driver", m.driver, "--vm-memory", "256MiB", "--cpus", "1", "--memory",
		"--start", "mkdir -p /tmp/www && cd /tmp/www && echo warm > index.html && exec python3 -m http.server 8000",
		"--ready", "curl -fs http://127.0.0.1:8000/")
	var vm api.VM
	check(m.t, m.s.JSON(limited(m.t), &vm, "vm", "create", "--template", "warm", "--driver", m.driver))
	if !vm.Memory || vm.Isolation != "microvm" {
		m.t.Errorf("%+v", vm)
	}
	m.answers(vm.ID, 8000, "warm\n")
	n := 0
	for x, err := range m.c.Executions(limited(m.t), vm.ID, client.ExecutionFilter{}) {
		check(m.t, err)
		n++
		if x.OriginID == "" || x.State != "running" {
			m.t.Errorf("%+v", x)
		}
	}
	if n != 1 {
		m.t.Errorf("%d executions in a VM that begins with one", n)
	}
	m.cli("vm", "rm", vm.ID)
	m.cli("template", "rm", "warm")
	m.leaveNothing()
}

// ofItself is what each VM must have for itself, a line each, in the order of ownFacts,
// and told what one of the template keyed must, in the order of facts.
const (
	ofItself = `hostname; cat /etc/machine-id /sys/class/net/eth0/address; hostname -I
cat /proc/sys/kernel/random/uuid; head -c 16 /dev/urandom | od -An -tx1`
	told = `cat /etc/ssh/ssh_host_ed25519_key.pub; echo $WHO; date +%s`
)

var (
	ownFacts = []string{"hostname", "machine-id", "MAC address", "IP address", "UUID", "random bytes"}
	facts    = []string{"SSH host key", "environment", "clock"}
)

// asks has a VM tell facts.
func (m *microVMs) asks(vm, script string, facts []string) []string {
	m.t.Helper()
	out, code := m.sh(vm, script)
	lines := strings.Split(out, "\n")
	if code != "0" || len(lines) != len(facts) {
		m.t.Fatalf("%s ends with %s: %q", script, code, out)
	}
	return lines
}

// isItself compares what a VM has for itself with what those have that were seen,
// as facts and who has them.
func (m *microVMs) isItself(vm api.VM, seen map[string]string) {
	m.t.Helper()
	lines := m.asks(vm.ID, ofItself, ownFacts)
	for i, fact := range ownFacts {
		if other, ok := seen[fact+" "+lines[i]]; ok || lines[i] == "" {
			m.t.Errorf("%s and %s have the same %s: %q", vm.ID, other, fact, lines[i])
		}
		seen[fact+" "+lines[i]] = vm.ID
	}
	if lines[0] != vm.Hostname {
		m.t.Errorf("VM %s is called %s, and was to be %s", vm.ID, lines[0], vm.Hostname)
	}
}

// goOnFromKept makes VMs of one kind: two boot, and later ones go on from the memory
// that is kept of the kind. What each has for itself is compared.
func (m *microVMs) goOnFromKept() {
	m.t.Helper()
	ctx := limited(m.t)
	keep := func(most string) {
		m.s.Env = append(m.s.Env, "AETHERIUM_MICROVM_BOOTED_MAX="+most)
		check(m.t, m.s.Stop(ctx))
		check(m.t, m.s.Start(ctx))
		m.isListed()
	}
	keep("2")
	m.cli("template", "build", "keyed", "--dir", m.keyed())
	seen := map[string]string{"the template": "the template"}
	for i := range 4 {
		if i == 2 {
			m.counts(`aetherium_booted_memories_total{driver="` + m.driver + `",event="made"} 1`)
		}
		name := "kept" + strconv.Itoa(i)
		before := time.Now().Unix()
		vm := m.create("--isolation", "microvm", "--template", "keyed", "--name", name, "--env", "WHO="+name)
		traced, err := m.c.VMTrace(limited(m.t), vm.ID)
		check(m.t, err)
		how := map[bool]string{true: "start.restore", false: "start.monitor"}
		for kept, phase := range how {
			if has := slices.ContainsFunc(traced.Phases, func(p api.Phase) bool { return p.Name == phase }); has != (kept == (i >= 2)) {
				m.t.Errorf("VM %d: %s is in its trace: %v: %+v", i, phase, has, traced.Phases)
			}
		}
		m.isItself(vm, seen)
		lines := m.asks(vm.ID, told, facts)
		// Since it was asked for: it may take long from when its clock is set until it
		// tells it, and one that is not set is the kept memory's, which is older. One
		// second for what is cut off, one for what setting a clock takes.
		clock, err := strconv.ParseInt(lines[2], 10, 64)
		if after := time.Now().Unix(); err != nil || clock < before-2 || clock > after+2 {
			m.t.Errorf("the clock of %s stands at %s, between %d and %d", name, lines[2], before, after)
		}
		// A VM that boots has the template's key, as any that is made of it.
		if other, ok := seen[lines[0]]; i >= 2 && (ok || lines[0] == "") {
			m.t.Errorf("%s and %s have the same SSH host key: %q", name, other, lines[0])
		}
		seen[lines[0]] = name
		if lines[1] != name {
			m.t.Errorf("%s was not told its environment: %q", name, lines)
		}
	}
	m.counts(`aetherium_booted_memories_total{driver="` + m.driver + `",event="used"} 2`)
	for i := range 4 {
		m.cli("vm", "rm", "kept"+strconv.Itoa(i))
	}
	m.cli("template", "rm", "keyed")
	keep("0") // removes what is kept
	m.leaveNothing()
}

// keyed is the base template's root with an SSH server's host key in it.
func (m *microVMs) keyed() string {
	m.t.Helper()
	dir, root := m.t.TempDir(), m.t.TempDir()
	keys := filepath.Join(dir, "upper/etc/ssh")
	check(m.t, os.MkdirAll(keys, 0o755))
	check(m.t, os.Mkdir(filepath.Join(dir, "work"), 0o700))
	for _, name := range []string{"ssh_host_ed25519_key", "ssh_host_ed25519_key.pub"} {
		check(m.t, os.WriteFile(filepath.Join(keys, name), []byte("the template\n"), 0o600))
	}
	check(m.t, os.Chmod(filepath.Join(keys, "ssh_host_ed25519_key.pub"), 0o644)) //nolint:gosec // as one is
	layers := "lowerdir=" + os.Getenv(apartEnv) + ",upperdir=" + dir + "/upper,workdir=" + dir + "/work"
	check(m.t, unix.Mount("overlay", root, "overlay", 0, layers))
	m.t.Cleanup(func() { check(m.t, unix.Unmount(root, unix.MNT_DETACH)) })
	return root
}

// counts waits until a metric has a value.
func (m *microVMs) counts(line string) {
	m.t.Helper()
	ctx := limited(m.t)
	for {
		code, body, err := fetch(ctx, m.s.URL+"/metrics", "", map[string]string{"Authorization": "Bearer " + m.s.Key})
		if err == nil && code == http.StatusOK && slices.Contains(strings.Split(body, "\n"), line) {
			return
		}
		select {
		case <-time.After(50 * time.Millisecond): // nobody is told
		case <-ctx.Done():
			m.t.Fatalf("no %s: %d %v %s", line, code, err, body)
		}
	}
}
