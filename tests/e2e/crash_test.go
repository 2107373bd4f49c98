package e2e

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/client"
	"github.com/aetherium/aetherium/tests/internal/server"
)

// crashSeeds is how many random points the server is killed at. The
// environment's AETHERIUM_TEST_SEED names one seed to run alone.
const crashSeeds = 50

// What the server keeps in store; what must come about may take crashWait,
// since nothing is asserted to be quick.
const (
	crashPool  = 1 // machines kept ready of each kind
	crashKinds = 2 // kinds kept
	crashPairs = 2 // namespace pairs kept ready of each network mode
	crashWait  = 60 * time.Second
)

// The server is killed at random points while VMs are created, forked and
// deleted, commands run and the pool fills. A seed decides what goes on, when
// the server is killed, and whether it is killed again while it comes back.
// Every request is answered in the end, by the same client that sent it; then
// the VMs are those that were asked for, every command has run once and every
// byte of it is told once, and there is nothing on the host that has no owner.
func TestKillNineAtRandomPoints(t *testing.T) {
	t.Parallel()
	crash(t, crashSeeds)
}

// crash kills a server of its own with so many seeds.
func crash(t *testing.T, seeds uint64, settings ...string) {
	t.Helper()
	first, last := uint64(1), seeds
	if text := os.Getenv("AETHERIUM_TEST_SEED"); text != "" {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("AETHERIUM_TEST_SEED: %v", err)
		}
		first, last = n, n
	}
	s := own(t, append(settings, fmt.Sprintf("AETHERIUM_POOL_SIZE=%d", crashPool), fmt.Sprintf("AETHERIUM_POOL_KINDS=%d", crashKinds),
		fmt.Sprintf("AETHERIUM_NETWORK_POOL=%d", crashPairs))...)
	c := patient(t, s)
	f := &crashField{s: s, c: c, vms: map[string]*crashVM{}}
	for seed := first; seed <= last; seed++ {
		ok := t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { f.round(t, seed) })
		if !ok {
			t.Fatalf("to run it alone: AETHERIUM_TEST_SEED=%d", seed)
		}
	}
	f.checkHost(t.Context(), t, false)
	t.Logf("%d commands ran once, %d were told to be lost and did not run", f.ran, f.lost)
}

// crashField is one installation that is killed again and again.
type crashField struct {
	s *server.Server
	c *client.Client

	mu        sync.Mutex
	vms       map[string]*crashVM // that were acknowledged and not deleted
	ran, lost int
}

// crashVM is what must be true of a VM.
type crashVM struct {
	epoch int64
	ran   map[string]bool // commands, by their IDs
}

// round is one seed's.
func (f *crashField) round(t *testing.T, seed uint64) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	r := rand.New(rand.NewPCG(seed, 0))
	f.populate(ctx, t, r)
	f.trouble(ctx, t, r)
	if t.Failed() {
		return
	}
	f.check(ctx, t)
}

// populate sees to it that there are two to four VMs.
func (f *crashField) populate(ctx context.Context, t *testing.T, r *rand.Rand) {
	for len(f.vms) < 2 {
		f.create(ctx, t, domain.NewID().String(), smallVM(r))
	}
	ids := f.ids()
	r.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
	for _, id := range ids[min(4, len(ids)):] {
		f.remove(ctx, t, id)
	}
}

// ids names the VMs in an order that is the same in every run.
func (f *crashField) ids() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(maps.Keys(f.vms))
}

func smallVM(r *rand.Rand) api.CreateVM {
	return api.CreateVM{
		Network:   []string{"none", "nat"}[r.IntN(2)],
		Resources: &api.Resources{MemoryBytes: 96 << 20, DiskBytes: 64 << 20, PIDs: 64},
	}
}

// trouble does several things at once and kills the server meanwhile.
func (f *crashField) trouble(ctx context.Context, t *testing.T, r *rand.Rand) {
	t.Helper()
	events, stop := f.events(ctx, t)
	defer stop()
	var todo sync.WaitGroup
	var killed atomic.Bool
	var plan []string
	doomed := ""
	ids := f.ids()
	if len(ids) > 1 && r.IntN(2) == 0 {
		// Nothing else is done with this one, so that every request has one right answer.
		doomed, ids = ids[0], ids[1:]
		plan = append(plan, "delete")
		todo.Go(func() { f.remove(ctx, t, doomed) })
	}
	for range 2 + r.IntN(3) {
		what, vm := r.IntN(9), ids[r.IntN(len(ids))]
		key, spec := domain.NewID().String(), smallVM(r)
		switch {
		case what < 3:
			plan = append(plan, "create")
			todo.Go(func() { f.create(ctx, t, key, spec) })
		case what < 5:
			n := 20 + r.IntN(400)
			plan = append(plan, fmt.Sprintf("stream %d lines", n))
			todo.Go(func() { f.stream(ctx, t, vm, n, &killed) })
		case what < 7:
			plan = append(plan, "short commands")
			n := 1 + r.IntN(4)
			todo.Go(func() { f.short(ctx, t, vm, n) })
		default:
			n := 1 + r.IntN(2)
			plan = append(plan, fmt.Sprintf("%d forks", n))
			todo.Go(func() { f.fork(ctx, t, key, vm, n) })
		}
	}
	done := make(chan struct{})
	go func() { todo.Wait(); close(done) }()
	plan = append(plan, await(ctx, r, events, done))
	f.kill(t)
	killed.Store(true)
	for range r.IntN(3) / 2 {
		pause := time.Duration(r.IntN(400_000)) * time.Microsecond
		plan = append(plan, fmt.Sprintf("again %s after the start", pause))
		f.startAndKill(ctx, pause)
	}
	if err := f.s.Start(ctx); err != nil {
		t.Fatalf("%v\n%s", plan, err)
	}
	select {
	case <-done:
	case <-time.After(2 * crashWait):
		t.Errorf("requests are not answered: %v", plan)
	}
	if t.Failed() {
		t.Logf("plan: %s", strings.Join(plan, ", "))
	}
}

// await waits for the moment to kill: after a random time, or with a random event.
func await(ctx context.Context, r *rand.Rand, events <-chan api.Event, done <-chan struct{}) string {
	if r.IntN(2) == 0 {
		pause := time.Duration(r.IntN(200_000)) * time.Microsecond
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
		return fmt.Sprintf("killed after %s", pause)
	}
	n := 1 + r.IntN(8)
	for i := range n {
		select {
		case <-events:
		case <-done:
			return fmt.Sprintf("killed after %d events, when all was done", i)
		case <-ctx.Done():
		}
	}
	return fmt.Sprintf("killed with event %d", n)
}

// events gives the events from now on, as they are told.
func (f *crashField) events(ctx context.Context, t *testing.T) (<-chan api.Event, func()) {
	ctx, cancel := context.WithCancel(ctx)
	out := make(chan api.Event, 1000)
	after := int64(0)
	for ev, err := range f.c.Events(ctx, 0) {
		if err != nil {
			t.Fatal(err)
		}
		after = ev.Seq
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for ev, err := range f.c.FollowEvents(ctx, after) {
			if err != nil {
				return
			}
			select {
			case out <- ev:
			default:
			}
		}
	})
	return out, func() { cancel(); wg.Wait() }
}

func (f *crashField) kill(t *testing.T) {
	if err := f.s.Kill(); err != nil {
		t.Fatal(err)
	}
}

// startAndKill kills a server that is about to take up what the last one left.
// Whether it has come far, or has not even said which process it is, is chance.
func (f *crashField) startAndKill(ctx context.Context, pause time.Duration) {
	old, _ := f.s.PID()
	started := make(chan struct{})
	go func() { defer close(started); _ = f.s.Start(ctx) }()
	select {
	case <-time.After(pause):
	case <-ctx.Done():
	}
	if pid, err := f.s.PID(); err == nil && pid != old {
		_ = f.s.Kill()
	}
	<-started
	if pid, err := f.s.PID(); err == nil && pid != old {
		_ = f.s.Kill()
	}
}

// create makes a VM, and asks for it again: a key yields one VM.
func (f *crashField) create(ctx context.Context, t *testing.T, key string, spec api.CreateVM) {
	vm, err := f.c.CreateVMOnce(ctx, key, spec)
	if err != nil {
		t.Errorf("create: %v", err)
		return
	}
	again, err := f.c.CreateVMOnce(ctx, key, spec)
	if err != nil || again.ID != vm.ID {
		t.Errorf("the same key yields VM %s, then %s, %v", vm.ID, again.ID, err)
	}
	f.keep(vm, nil)
}

// fork makes forks, and asks for them again.
func (f *crashField) fork(ctx context.Context, t *testing.T, key, origin string, n int) {
	forks, err := f.c.ForkVMOnce(ctx, key, origin, api.ForkVM{Count: n})
	if err != nil || len(forks) != n {
		t.Errorf("%d forks of %d: %v", len(forks), n, err)
		return
	}
	again, err := f.c.ForkVMOnce(ctx, key, origin, api.ForkVM{Count: n})
	same := slices.EqualFunc(forks, again, func(a, b api.VM) bool { return a.ID == b.ID })
	if err != nil || !same {
		t.Errorf("the same key yields other forks: %v, %v, %v", vmIDs(forks), vmIDs(again), err)
	}
	for _, vm := range forks {
		f.keep(vm, nil)
	}
}

func vmIDs(vms []api.VM) []string {
	out := make([]string, len(vms))
	for i, vm := range vms {
		out[i] = vm.ID
	}
	return out
}

func (f *crashField) keep(vm api.VM, ran map[string]bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if ran == nil {
		ran = map[string]bool{}
	}
	f.vms[vm.ID] = &crashVM{epoch: vm.Epoch, ran: ran}
}

func (f *crashField) remove(ctx context.Context, t *testing.T, id string) {
	vm, err := f.c.DeleteVM(ctx, id)
	if err != nil || vm.State != "deleted" || vm.Tombstone == nil || vm.Tombstone.Cause != "requested" {
		t.Errorf("delete: %s %+v %v", vm.State, vm.Tombstone, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.vms, id)
}

// note remembers that a command ran, or that it was told to be lost.
func (f *crashField) note(vm, id string, ran bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !ran {
		f.lost++
		return
	}
	f.ran++
	f.vms[vm].ran[id] = true
}

// stream runs a command that takes a while and reads all of its output. A
// command whose start was acknowledged is never lost.
func (f *crashField) stream(ctx context.Context, t *testing.T, vm string, lines int, killed *atomic.Bool) {
	id := domain.NewID().String()
	script := fmt.Sprintf(`echo %s >> runs; i=0; while [ $i -lt %d ]; do i=$((i+1)); echo line $i; [ $((i %% 20)) = 0 ] && sleep 0.02; done; exit 7`, id, lines)
	st, err := f.c.Start(ctx, vm, api.StartExecution{ID: id, Command: api.Command{Args: []string{"sh", "-c", script}}}, client.StreamOptions{})
	acknowledged := err == nil && !killed.Load()
	if errors.HasCode(err, errors.GuestFault) {
		f.note(vm, id, false) // the server died before the agent was asked
		return
	}
	if err != nil {
		t.Errorf("command %s in %s: %v", id, vm, err)
		return
	}
	defer st.Close()
	var out strings.Builder
	for {
		ev, err := st.Next(ctx)
		if err != nil || ev.Gap != nil || ev.Warning != nil {
			t.Errorf("command %s in %s after %d bytes: %+v %v", id, vm, out.Len(), ev, err)
			return
		}
		out.Write(ev.Data)
		if ev.Exit == nil {
			continue
		}
		switch {
		case ev.Exit.LostReason != "" && (acknowledged || out.Len() > 0):
			t.Errorf("command %s in %s was acknowledged, and is lost after %d bytes: %s", id, vm, out.Len(), ev.Exit.LostReason)
		case ev.Exit.LostReason == "" && ev.Exit.ExitCode != 7:
			t.Errorf("command %s in %s: %+v", id, vm, ev.Exit)
		case ev.Exit.LostReason == "" && out.String() != numbered(lines):
			t.Errorf("command %s in %s: its output of %d bytes is not the %d lines that it wrote: %q", id, vm, out.Len(), lines, tail(out.String(), 5))
		}
		f.note(vm, id, ev.Exit.LostReason == "")
		return
	}
}

func numbered(lines int) string {
	var b strings.Builder
	for i := range lines {
		fmt.Fprintf(&b, "line %d\n", i+1)
	}
	return b.String()
}

// short runs commands one after the other that end at once.
func (f *crashField) short(ctx context.Context, t *testing.T, vm string, n int) {
	for range n {
		id := domain.NewID().String()
		req := api.Execute{ID: id, Command: api.Command{Args: []string{"sh", "-c", "echo " + id + " >> runs; echo done; exit 3"}}}
		res, err := f.c.Execute(ctx, vm, req)
		if errors.HasCode(err, errors.GuestFault) {
			f.note(vm, id, false)
			continue
		}
		if err != nil {
			t.Errorf("short command %s in %s: %v", id, vm, err)
			return
		}
		x := res.Execution
		if x.LostReason != "" && res.Stdout == "" {
			f.note(vm, id, false)
			continue
		}
		if x.ExitCode == nil || *x.ExitCode != 3 || res.Stdout != "done\n" || x.LostReason != "" {
			t.Errorf("short command %s in %s: %+v %q", id, vm, x, res.Stdout)
		}
		f.note(vm, id, true)
		// The same ID again does not run again, and tells the same.
		again, err := f.c.Execute(ctx, vm, req)
		if err != nil || again.Stdout != res.Stdout || again.Execution.ExitCode == nil || *again.Execution.ExitCode != 3 {
			t.Errorf("short command %s in %s, asked for again: %+v %v", id, vm, again, err)
		}
	}
}

// check compares what is with what must be.
func (f *crashField) check(ctx context.Context, t *testing.T) {
	list, err := client.Collect(f.c.VMs(ctx, client.VMFilter{}))
	if err != nil {
		t.Fatal(err)
	}
	got := vmIDs(list)
	slices.Sort(got)
	if want := f.ids(); !slices.Equal(got, want) {
		t.Errorf("the VMs are %v, want %v", got, want)
	}
	inherited := map[string]bool{}
	for _, vm := range f.vms {
		maps.Copy(inherited, vm.ran)
	}
	for id, want := range f.vms {
		f.checkVM(ctx, t, id, want, inherited)
	}
	f.checkHost(ctx, t, true)
	f.checkTasks(ctx, t)
}

func (f *crashField) checkVM(ctx context.Context, t *testing.T, id string, want *crashVM, known map[string]bool) {
	// This waits until the VM runs.
	res, err := f.c.Execute(ctx, id, api.Execute{Command: api.Command{Args: []string{"sh", "-c", "cat runs 2>/dev/null; exit 0"}}})
	if err != nil || res.Execution.LostReason != "" {
		t.Errorf("VM %s: %s %v", id, res.Execution.LostReason, err)
		return
	}
	vm, err := f.c.VM(ctx, id)
	if err != nil || vm.State != "running" || vm.DesiredState != "running" || vm.Epoch != want.epoch || vm.Tombstone != nil {
		t.Errorf("VM %s is %s in epoch %d (was %d), %+v, %v", id, vm.State, vm.Epoch, want.epoch, vm.Tombstone, err)
	}
	seen := map[string]int{}
	for _, run := range strings.Fields(res.Stdout) {
		seen[run]++
	}
	for run, times := range seen {
		if times != 1 {
			t.Errorf("VM %s: command %s ran %d times", id, run, times)
		}
		if !known[run] && vm.SnapshotID == "" {
			t.Errorf("VM %s: command %s ran, but was told to be lost", id, run)
		}
	}
	for run := range want.ran {
		if seen[run] != 1 {
			t.Errorf("VM %s: command %s did not run", id, run)
		}
	}
	if !t.Failed() {
		want.ran = map[string]bool{}
		for run := range seen {
			want.ran[run] = true // a fork has its origin's
		}
	}
}

// checkHost waits until there is nothing without an owner.
func (f *crashField) checkHost(ctx context.Context, t *testing.T, draining bool) {
	ctx, cancel := context.WithTimeout(ctx, crashWait)
	defer cancel()
	limits := server.Limits{PooledMachines: crashPool * crashKinds, SparePairs: crashPairs, Draining: draining}
	for {
		stray, err := f.s.Stray(ctx, limits)
		if err == nil && len(stray) == 0 {
			return
		}
		select {
		case <-time.After(20 * time.Millisecond): // nothing tells that a process has gone
		case <-ctx.Done():
			t.Errorf("without an owner: %v\n%s", err, strings.Join(stray, "\n"))
			return
		}
	}
}

// checkTasks waits until nothing stands for something under way.
func (f *crashField) checkTasks(ctx context.Context, t *testing.T) {
	tasks, err := client.Collect(f.c.Tasks(ctx, client.TaskFilter{}, client.Page{}))
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		if task.EndedAt != nil {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, crashWait)
		done, err := f.c.WaitTask(ctx, task.ID)
		cancel()
		if err != nil || done.EndedAt == nil {
			t.Errorf("task %+v, %v", done, err)
		}
	}
}
