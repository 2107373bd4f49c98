package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/pkg/client"
	"github.com/aetherium/aetherium/tests/internal/server"
)

const (
	// kernelEnv is the directory of an unpacked kernel package; without it one is fetched.
	kernelEnv = "AETHERIUM_TEST_KERNEL"
	// rootfsEnv is a root filesystem to make templates of; without it the base template's is taken.
	rootfsEnv = "AETHERIUM_TEST_ROOTFS"

	microVMDriver = "qemu"
	microVMMemory = 128 << 20
	microVMForks  = 8
)

// microVMs are three servers whose machines have kernels of their own.
type microVMs struct {
	log     io.Writer
	dir     string
	kernel  string
	cold    *site  // makes each machine when it is asked for
	kept    *site  // keeps memories of booted machines
	pool    *site  // has one ready of each kind
	lacking string // why there can be none here
}

// shape is that of all machines here: little, for what is emulated is slow.
func shape() *api.Resources {
	return &api.Resources{MilliCPU: 1000, MemoryBytes: microVMMemory, DiskBytes: 1 << 30}
}

// of asks for a machine of a template.
func of(template string) api.CreateVM {
	return api.CreateVM{Template: template, Driver: microVMDriver, Network: "none", Resources: shape()}
}

func (b *bench) microVMClaims(ctx context.Context, name string) ([]Result, error) {
	return b.withMicroVMs(ctx, name, (*microVMs).claims)
}

func (b *bench) microVMStarts(ctx context.Context, name string) ([]Result, error) {
	return b.withMicroVMs(ctx, name, (*microVMs).starts)
}

func (b *bench) microVMForks(ctx context.Context, name string) ([]Result, error) {
	return b.withMicroVMs(ctx, name, (*microVMs).forks)
}

// withMicroVMs measures machines of the qemu driver, where there can be such.
func (b *bench) withMicroVMs(ctx context.Context, name string, do func(*microVMs, context.Context, string, int) ([]Result, error)) ([]Result, error) {
	if b.micro == nil {
		b.micro = &microVMs{log: b.log, dir: filepath.Join(b.dir, "microvm")}
		if err := os.Mkdir(b.micro.dir, 0o700); err != nil {
			return nil, err
		}
		var err error
		if b.micro.lacking, err = b.micro.start(ctx, b); err != nil {
			b.micro.lacking = err.Error()
			return nil, err
		}
	}
	if b.micro.lacking != "" {
		fmt.Fprintf(b.log, "left out: %s\n", b.micro.lacking)
		return nil, nil
	}
	return do(b.micro, ctx, name, b.rounds)
}

// start brings up the servers, on the rootfs that the others have. A reason is
// why there can be no such machines here.
func (m *microVMs) start(ctx context.Context, b *bench) (reason string, err error) {
	if m.kernel = os.Getenv(kernelEnv); m.kernel == "" {
		m.kernel = filepath.Join(m.dir, "kernel")
	}
	settings := []string{"AETHERIUM_DRIVERS=oci,qemu", "AETHERIUM_BASE_SKIP=true", "AETHERIUM_MICROVM_KERNEL=" + m.kernel, "AETHERIUM_POOL_KINDS=2"}
	for _, s := range []struct {
		site                  *(*site)
		name                  string
		size, booted, standby int
	}{{&m.cold, "cold", 0, 0, 2}, {&m.kept, "kept", 0, 1, 0}, {&m.pool, "pool", 1, 0, 0}} {
		if *s.site, err = b.prepare("microvm/"+s.name, append(slices.Clip(settings), "AETHERIUM_POOL_SIZE="+strconv.Itoa(s.size),
			"AETHERIUM_MICROVM_BOOTED_MAX="+strconv.Itoa(s.booted), "AETHERIUM_MICROVM_STANDBY_MAX="+strconv.Itoa(s.standby))...); err != nil {
			return "", err
		}
		if _, err := os.Stat(m.kernel); err != nil {
			if _, err := (*s.site).Standalone(ctx, "kernel", "install"); err != nil {
				return err.Error(), nil //nolint:nilerr // there is no kernel to be had: the others are measured
			}
		}
		if err := (*s.site).begin(ctx); err != nil {
			return "", err
		}
		if reason, err := usable(ctx, (*s.site).c); err != nil || reason != "" {
			return reason, err
		}
		if _, err := (*s.site).CLI(ctx, "template", "build", "base", "--dir", b.rootfs); err != nil {
			return "", err
		}
	}
	_, err = m.pool.CLI(ctx, "template", "build", "warm", "--dir", b.rootfs, "--memory", "--driver", microVMDriver, "--network", "none",
		"--cpus", "1", "--vm-memory", strconv.Itoa(microVMMemory>>20)+"MiB")
	return "", err
}

// usable waits until a server knows whether it can make the machines.
func usable(ctx context.Context, c *client.Client) (reason string, err error) {
	for {
		drivers, err := c.Drivers(ctx)
		if err != nil {
			return "", err
		}
		i := slices.IndexFunc(drivers, func(d api.Driver) bool { return d.Name == microVMDriver })
		switch {
		case i < 0:
			return "the driver " + microVMDriver + " cannot be opened here", nil
		case drivers[i].Usable:
			return "", nil
		case drivers[i].Reason != "" && drivers[i].Version != "":
			return drivers[i].Reason, nil
		}
		if err := pause(ctx); err != nil {
			return "", err
		}
	}
}

// begun makes a machine and returns when it has answered a command.
func (s *site) begun(ctx context.Context, req api.CreateVM) (string, error) {
	vm, err := s.c.CreateVM(ctx, req)
	if err != nil {
		return "", err
	}
	return vm.ID, s.says(ctx, vm.ID)
}

// says has a machine run echo.
func (s *site) says(ctx context.Context, vm string) error {
	res, err := s.c.Execute(ctx, vm, api.Execute{Command: api.Command{Args: []string{"echo", "hi"}}})
	if err == nil && res.Stdout != "hi\n" {
		err = fmt.Errorf("echo wrote %q", res.Stdout)
	}
	return err
}

// creation is of a machine, to its output; it is removed outside the measure.
func (s *site) creation(name string, req api.CreateVM) contender { return s.traced(name, req, nil) }

// traced is a creation whose phases are noted.
func (s *site) traced(name string, req api.CreateVM, into *phases) contender {
	return contender{name, func(ctx context.Context) (time.Duration, error) {
		start := time.Now()
		vm, err := s.begun(ctx, req)
		took := time.Since(start)
		if into != nil && err == nil {
			err = into.note(ctx, s, vm, took)
		}
		if vm != "" {
			_, derr := s.c.DeleteVM(context.WithoutCancel(ctx), vm)
			err = errors.Join(err, derr)
		}
		return took, errors.Join(err, pause(ctx))
	}}
}

// claim is a creation that takes a machine from the pool. When it returns, the
// next one is there.
func (s *site) claim(name string, req api.CreateVM) contender {
	c := s.creation(name, req)
	return contender{name, func(ctx context.Context) (time.Duration, error) {
		if err := s.filled(ctx, req.Driver); err != nil {
			return 0, err
		}
		took, err := c.once(ctx)
		return took, errors.Join(err, s.filled(ctx, req.Driver))
	}}
}

// keeps makes machines until one goes on from the memory that is kept of their kind.
func (s *site) keeps(ctx context.Context, req api.CreateVM) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	for {
		p := &phases{}
		if _, err := s.traced("", req, p).once(ctx); err != nil {
			return fmt.Errorf("no memory is kept: %w", err)
		}
		if slices.Contains(p.names, "start.restore") {
			return nil
		}
	}
}

// filled waits until a driver's machine is ready in the pool.
func (s *site) filled(ctx context.Context, driver string) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	for {
		ready, err := s.Pooled(ctx, driver)
		if err != nil || ready > 0 {
			return errors.Join(err, pause(ctx)) // what was done last is done
		}
		if err := pause(ctx); err != nil {
			return fmt.Errorf("no machine is ready: %w", err)
		}
	}
}

// execution is echo in a machine that runs.
func (s *site) execution(name, vm string) contender {
	return contender{name, func(ctx context.Context) (time.Duration, error) {
		start := time.Now()
		err := s.says(ctx, vm)
		return time.Since(start), err
	}}
}

// claims compares a machine from the pool with one that runs already.
func (m *microVMs) claims(ctx context.Context, name string, rounds int) ([]Result, error) {
	s := m.pool
	container := api.CreateVM{Template: "base", Driver: "oci", Network: "none", Resources: shape()}
	var results []Result
	for _, req := range []api.CreateVM{container, of("warm")} {
		driver := req.Driver
		vm, err := s.begun(ctx, req) // from here on the kind is kept ready
		if err != nil {
			return results, err
		}
		cs := []contender{s.claim("claim", req), s.execution("exec", vm)}
		if driver == microVMDriver {
			// The least that is asked of an agent: one question, one answer.
			cs = append(cs, contender{"round trip", func(ctx context.Context) (time.Duration, error) {
				start := time.Now()
				_, err := s.c.StatFile(ctx, client.File{VM: vm, Path: "/"})
				return time.Since(start), err
			}})
		}
		took, err := turns(ctx, name, rounds, cs)
		_, derr := s.c.DeleteVM(context.WithoutCancel(ctx), vm)
		if err = errors.Join(err, derr); err != nil {
			return results, err
		}
		claim := newResult(name+": "+driver+", from the pool to first output", "ms", sample(took[0]))
		claim.against("echo in a running VM", sample(took[1]))
		more := make([]float64, rounds)
		for i := range more {
			more[i] = float64((took[0][i] - took[1][i]).Microseconds()) / 1000
		}
		over := newResult(name+": "+driver+", what a claim takes more than an exec", "ms", distribution(more))
		if driver == microVMDriver {
			twice := make([]time.Duration, rounds)
			for i, d := range took[2] {
				twice[i] = 2 * d
			}
			over.goal("two round trips to the agent", sample(twice), 1)
		} else {
			over.goal("2 ms", sample([]time.Duration{2 * time.Millisecond}), 1)
		}
		results = append(results, claim, over)
	}
	return results, nil
}

// starts compares the ways to a machine that runs with a cold boot, and that
// with the least that QEMU takes.
func (m *microVMs) starts(ctx context.Context, name string, rounds int) ([]Result, error) {
	s := m.cold
	vm, err := s.begun(ctx, of("base"))
	if err != nil {
		return nil, err
	}
	defer func() { _, _ = s.c.DeleteVM(context.WithoutCancel(ctx), vm) }()
	bare, err := m.floor(ctx, vm)
	if err != nil {
		return nil, err
	}
	snapshot, err := s.c.CreateSnapshot(ctx, vm, api.CreateSnapshot{Memory: true})
	if err != nil {
		return nil, err
	}
	// From here on the kind is kept ready.
	if _, err := m.pool.creation("", of("warm")).once(ctx); err != nil {
		return nil, err
	}
	if err := m.kept.keeps(ctx, of("base")); err != nil {
		return nil, err
	}
	booted, kept, restored := &phases{}, &phases{}, &phases{}
	another, err := m.kept.begun(ctx, of("base"))
	if err != nil {
		return nil, err
	}
	defer func() { _, _ = m.kept.c.DeleteVM(context.WithoutCancel(ctx), another) }()
	soon, late := &pauses{site: s, vm: vm, standby: true}, &pauses{site: m.kept, vm: another}
	took, err := turns(ctx, name, rounds, []contender{
		s.traced("cold", of("base"), booted), {"plain", bare.once(bare.plain)}, {"tuned", bare.once(bare.tuned)}, s.traced("snapshot", of(snapshot.ID), restored),
		m.pool.claim("pool", of("warm")), {"resume", soon.once}, m.kept.traced("kept", of("base"), kept),
		{"resume late", late.once},
	})
	if err != nil {
		return nil, err
	}
	const itself, bareBoot = "its own cold boot", "bare QEMU, shell script as init"
	boot := newResult(name+": cold create to first output", "ms", sample(took[0]))
	boot.goal(bareBoot, sample(took[1]), 1/1.15)
	boot.against("the same, with our kernel command line and processor", sample(took[2]))
	warm := newResult(name+": from a memory snapshot to first output", "ms", sample(took[3]))
	warm.goal(itself, sample(took[0]), 10)
	warm.against(bareBoot, sample(took[1]))
	again := newResult(name+": create of a kind that was booted twice to first output", "ms", sample(took[6]))
	again.goal(itself, sample(took[0]), 10)
	again.against(bareBoot, sample(took[1]))
	ready := newResult(name+": from the warm pool to first output", "ms", sample(took[4]))
	ready.goal(itself, sample(took[0]), 12)
	ready.against(bareBoot, sample(took[1]))
	resumed := newResult(name+": resume to first output", "ms", sample(took[5]))
	resumed.goal(itself, sample(took[0]), 8)
	resumed.against(bareBoot, sample(took[1]))
	long := newResult(name+": resume without a monitor that stands by, to first output", "ms", sample(took[7]))
	long.against(itself, sample(took[0]))
	freed := newResult(name+": pause until the memory is free", "ms", sample(late.took[1:]))
	amount := newResult(name+": memory that a pause frees", "MB", distribution(late.freed[1:]))
	less := newResult(name+": memory that a pause frees, with a monitor that stands by", "MB", distribution(soon.freed[1:]))
	booted.tell(m.log, "cold create")
	kept.tell(m.log, "from a kept memory")
	restored.tell(m.log, "from a memory snapshot")
	return []Result{boot, again, warm, ready, resumed, long, freed, amount, less}, nil
}

// floor prepares bare QEMU like a machine of ours that runs.
func (m *microVMs) floor(ctx context.Context, vm string) (*floor, error) {
	res, err := m.cold.c.Execute(ctx, vm, api.Execute{Command: api.Command{Args: []string{"cat", "/proc/modules"}}})
	if err != nil {
		return nil, err
	}
	monitors := m.cold.monitors()
	if len(monitors) != 1 {
		return nil, fmt.Errorf("%d monitors run instead of one", len(monitors))
	}
	root, err := m.root(monitors[0])
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(m.dir, "floor")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	disk := filepath.Join(dir, "empty")
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		return nil, err
	}
	if err := os.Truncate(disk, shape().DiskBytes); err != nil {
		return nil, err
	}
	if out, err := exec.CommandContext(ctx, "/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-m", "0",
		"-O", "^resize_inode", "-E", "lazy_itable_init=0,lazy_journal_init=1", disk).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("mke2fs: %w: %s", err, firstLine(string(out)))
	}
	return newFloor(dir, monitors[0], res.Stdout, root, disk)
}

// root finds the image of the root filesystem of the machine in a monitor: the file
// that its first drive is (proc_pid_mountinfo(5)).
func (m *microVMs) root(monitor int) (string, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", monitor))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(raw)) {
		if fields := strings.Fields(line); len(fields) > 4 && fields[4] == "/drive0" {
			return filepath.Join(m.cold.DataDir, microVMDriver, "images", filepath.Base(fields[3])), nil
		}
	}
	return "", fmt.Errorf("the monitor %d has no drive", monitor)
}

// pauses pauses and resumes a machine.
type pauses struct {
	site    *site
	vm      string
	standby bool            // it has a monitor again soon after
	took    []time.Duration // each pause
	freed   []float64       // MB of each
}

// once says how long it took from the resumption to output.
func (p *pauses) once(ctx context.Context) (time.Duration, error) {
	held := p.held()
	start := time.Now()
	if _, err := p.site.c.PauseVM(ctx, p.vm, "memory"); err != nil {
		return 0, err
	}
	p.took = append(p.took, time.Since(start))
	if left := p.site.monitors(); len(left) > 0 && !p.standby {
		return 0, fmt.Errorf("%d monitors are left", len(left))
	}
	if err := pause(ctx); err != nil {
		return 0, err
	}
	for p.standby && len(p.site.monitors()) == 0 {
		if err := pause(ctx); err != nil {
			return 0, err
		}
	}
	left := p.held()
	p.freed = append(p.freed, float64(held-left)/1e6)
	start = time.Now()
	if _, err := p.site.c.ResumeVM(ctx, p.vm); err != nil {
		return 0, err
	}
	err := p.site.says(ctx, p.vm)
	return time.Since(start), errors.Join(err, pause(ctx))
}

// held is the memory that the site's monitors take, in bytes.
func (p *pauses) held() int64 {
	monitors := p.site.monitors()
	return pss(func(dir string) bool {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		return slices.Contains(monitors, pid)
	})
}

// forks compares eight forks with one, and tells what each takes of the host.
func (m *microVMs) forks(ctx context.Context, name string, rounds int) ([]Result, error) {
	s := m.cold
	vm, err := s.begun(ctx, of("base"))
	if err != nil {
		return nil, err
	}
	defer func() { _, _ = s.c.DeleteVM(context.WithoutCancel(ctx), vm) }()
	fork := func(name string, n int) contender {
		return contender{name, func(ctx context.Context) (time.Duration, error) {
			start := time.Now()
			clones, err := s.forked(ctx, vm, n)
			took := time.Since(start)
			return took, errors.Join(err, s.remove(context.WithoutCancel(ctx), clones), pause(ctx))
		}}
	}
	took, err := turns(ctx, name, rounds, []contender{fork("eight", microVMForks), fork("one", 1)})
	if err != nil {
		return nil, err
	}
	eight := newResult(fmt.Sprintf("%s: %d forks of a running VM, all answering", name, microVMForks), "ms", sample(took[0]))
	eight.goal("one fork", sample(took[1]), 1.0/6)
	results := []Result{eight}

	before := s.monitors()
	clones, err := s.forked(ctx, vm, microVMForks)
	if err == nil {
		err = settle(ctx)
	}
	var each []float64
	for _, pid := range s.monitors() {
		if slices.Contains(before, pid) || err != nil {
			continue
		}
		var n int64
		n, err = server.PrivateMemory(pid)
		each = append(each, float64(n)/1e6)
	}
	if err = errors.Join(err, s.remove(context.WithoutCancel(ctx), clones)); err != nil {
		return results, err
	}
	if len(each) != microVMForks {
		return results, fmt.Errorf("%d monitors run for %d forks", len(each), microVMForks)
	}
	memory := newResult(name+": private memory of an idle fork", "MB", distribution(each))
	memory.goal("memory that it is given", distribution([]float64{microVMMemory / 1e6}), 1/0.45)
	return append(results, memory), nil
}

// forked makes forks and returns when all have answered.
func (s *site) forked(ctx context.Context, vm string, n int) (clones []string, err error) {
	made, err := s.c.ForkVM(ctx, vm, api.ForkVM{Count: n})
	errs := make([]error, len(made))
	var all sync.WaitGroup
	for i, clone := range made {
		clones = append(clones, clone.ID)
		all.Go(func() { errs[i] = s.says(ctx, clone.ID) })
	}
	all.Wait()
	return clones, errors.Join(append(errs, err)...)
}

// monitors are the processes on the host that run a server's microVMs.
func (s *site) monitors() []int {
	var pids []int
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		name, _ := os.ReadFile(dir + "/comm")
		if pid, err := strconv.Atoi(filepath.Base(dir)); err == nil && strings.HasPrefix(string(name), "qemu-system") &&
			fileHas(dir+"/cgroup", "/aetherium-"+s.Instance()+"."+microVMDriver+"/") && fileHas(dir+"/cmdline", "qemu") {
			pids = append(pids, pid)
		}
	}
	return pids
}
