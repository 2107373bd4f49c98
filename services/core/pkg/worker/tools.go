package worker

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/libs/types/pkg/events"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/tools"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// ToolsConfig is how VMs' tools are had: a [tools.Config] without what the
// worker knows itself, and what the machines are made of that install them.
type ToolsConfig struct {
	tools.Config
	Driver   string           // of those machines
	Template string           // of those machines: the name of one of the default project's, or of a public one
	Machine  domain.Resources // of those machines
	// MaxCache is how large all tools may be together; beyond that those go that
	// no VM has, what was not used for longest first. 0: any.
	MaxCache int64
}

// toolshed is the tools of a worker's VMs.
type toolshed struct {
	*tools.Manager

	// using is held by who gives a VM a tool, until the VM's row says that it
	// has it; who removes a tool holds it alone.
	using sync.RWMutex

	mu      sync.Mutex
	waiting map[domain.ID]*toolWait // by VM
}

// toolWait is a VM that waits for its tools to be installed.
type toolWait struct {
	cancel context.CancelFunc
	over   bool
	err    error
}

// errWaits ends a step of a VM that waits for something that wakes it.
var errWaits = errors.Plain("the VM waits")

func (w *Worker) openTools() error {
	cfg := w.config.Tools.Config
	cfg.Dir, cfg.Platform, cfg.Log, cfg.Now = filepath.Join(w.config.DataDir, "tools"), w.config.Platform, w.Log, w.Now
	if cfg.Boot == nil {
		cfg.Boot = w.bootToolMachine
	}
	m, err := tools.New(cfg)
	if err != nil {
		return err
	}
	w.tools.Manager = m
	w.wg.Go(func() { // what is being installed ends with the worker
		<-w.ctx.Done()
		m.Close()
	})
	return nil
}

// equip finds the tools of a VM whose machine is to be made. Returns errWaits
// while they are being installed: the VM is woken then. release is called once
// the VM's row has their exact versions.
func (w *Worker) equip(ctx context.Context, vm *domain.VM) (exact []string, release func(), err error) {
	if len(vm.Spec.Tools) == 0 {
		return nil, func() {}, nil
	}
	refs, err := domain.ParseTools("tools", vm.Spec.Tools)
	if err != nil {
		return nil, nil, err
	}
	w.tools.using.RLock()
	var missing []domain.Tool
	for _, ref := range refs {
		if w.tools.InTemplate(ref) {
			exact = append(exact, ref.String())
			continue
		}
		t, ok := w.tools.Find(ref)
		if !ok {
			missing = append(missing, ref)
			continue
		}
		w.tools.Use(t.Ref())
		exact = append(exact, t.Ref().String())
	}
	if len(missing) == 0 {
		w.tools.forget(vm.ID)
		return exact, w.tools.using.RUnlock, nil
	}
	w.tools.using.RUnlock()
	return nil, nil, w.await(ctx, vm, missing)
}

// await has what is missing installed beside the step. It returns errWaits, or
// why an installation failed.
func (w *Worker) await(ctx context.Context, vm *domain.VM, missing []domain.Tool) error {
	s := &w.tools
	s.mu.Lock()
	if wait := s.waiting[vm.ID]; wait != nil {
		defer s.mu.Unlock()
		if !wait.over {
			return errWaits
		}
		if wait.err != nil {
			delete(s.waiting, vm.ID)
			return wait.err
		}
		// They came, and one has gone again.
	}
	wctx, cancel := context.WithCancel(w.ctx)
	wait := &toolWait{cancel: cancel}
	if s.waiting == nil {
		s.waiting = map[domain.ID]*toolWait{}
	}
	s.waiting[vm.ID] = wait
	s.mu.Unlock()
	if err := w.tellInstalling(ctx, vm, missing); err != nil {
		s.leave(vm.ID)
		return err
	}
	w.setAlarm(vm) // its time runs all the same
	w.wg.Go(func() {
		defer cancel()
		err := w.installAll(wctx, missing, nil)
		s.mu.Lock()
		wait.over, wait.err = true, err
		s.mu.Unlock()
		w.Wake(ctx, vm.ProjectID, vm.ID)
	})
	return errWaits
}

// tellInstalling writes into the VM's row what it is waiting for.
func (w *Worker) tellInstalling(ctx context.Context, vm *domain.VM, missing []domain.Tool) error {
	_, err := w.commit(ctx, vm.ID, events.VMUpdated, func(_ storage.Tx, row *domain.VM) error {
		row.Reason = "installing " + toolNames(missing)
		return nil
	})
	return err
}

func toolNames(refs []domain.Tool) string {
	names := make([]string, len(refs))
	for i, ref := range refs {
		names[i] = ref.String()
	}
	return strings.Join(names, ", ")
}

// installAll installs tools side by side and returns the first one's error.
func (w *Worker) installAll(ctx context.Context, refs []domain.Tool, say func(string)) error {
	errs := make([]error, len(refs))
	var wg sync.WaitGroup
	for i, ref := range refs {
		wg.Go(func() { _, errs[i] = w.tools.Install(ctx, ref, say) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// leave ends a VM's wait for tools.
func (s *toolshed) leave(vm domain.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if wait := s.waiting[vm]; wait != nil {
		wait.cancel()
		delete(s.waiting, vm)
	}
}

// forget is leave for one whose tools are there.
func (s *toolshed) forget(vm domain.ID) { s.leave(vm) }

// toolMounts are what shows a machine the tools of a VM, whose exact versions are
// known. It is the same for every VM with tools: which ones it has is a matter of
// its PATH. But a machine with a kernel of its own has what is mounted as it is when
// the machine is made, in an image of each mount: there it is the VM's own tools, of
// which none changes any more.
func (w *Worker) toolMounts(vm *domain.VM) []vmm.HostMount {
	if len(vm.Spec.Tools) == 0 {
		return nil
	}
	profile := vmm.HostMount{Source: w.tools.Profile(), Target: tools.ProfileTarget, ReadOnly: true}
	if w.info(vm.Spec.Driver).Isolation != domain.IsolationMicroVM {
		return []vmm.HostMount{{Source: w.tools.Dir(), Target: tools.MachineDir, ReadOnly: true}, profile}
	}
	var mounts []vmm.HostMount
	for _, t := range w.toolsOf(vm) {
		dir := t.Ref().Dir() + "/" + t.Version
		mounts = append(mounts, vmm.HostMount{Source: w.tools.Dir() + "/" + dir, Target: tools.MachineDir + "/" + dir, ReadOnly: true})
	}
	if len(mounts) == 0 {
		return nil // all are in the template
	}
	return append(mounts, profile)
}

// toolsOf are a VM's tools that are not in its template.
func (w *Worker) toolsOf(vm *domain.VM) []tools.Tool {
	refs, err := domain.ParseTools("tools", vm.Spec.Tools)
	if err != nil {
		return nil
	}
	var have []tools.Tool
	for _, ref := range refs {
		t, ok := w.tools.Get(ref)
		if !ok {
			if !w.tools.InTemplate(ref) {
				w.Log.Warn("a tool of a VM is gone", "vm", vm.ID, "tool", ref.String())
			}
			continue
		}
		have = append(have, t)
	}
	return have
}

// machinePath is the PATH of commands in a machine that is told none.
const machinePath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// toolEnv adds to a VM's environment what its tools need. What the VM's owner
// set stays; its PATH gets the tools in front.
func (w *Worker) toolEnv(vm *domain.VM, env map[string]string) map[string]string {
	if len(vm.Spec.Tools) == 0 {
		return env
	}
	have := w.toolsOf(vm)
	out := map[string]string{}
	for _, t := range slices.Backward(have) { // the first one counts
		maps.Copy(out, t.Env)
	}
	maps.Copy(out, env)
	if path := tools.Path(have); path != "" {
		rest := out["PATH"]
		if rest == "" {
			rest = machinePath
		}
		out["PATH"], out[tools.PathVariable] = path+":"+rest, path
	}
	return out
}

// Tools implements service.Node.
func (w *Worker) Tools(ctx context.Context) ([]vmm.ToolInfo, error) {
	users, err := w.toolUsers(ctx)
	if err != nil {
		return nil, err
	}
	all := w.tools.List()
	out := make([]vmm.ToolInfo, len(all))
	for i, t := range all {
		out[i] = vmm.ToolInfo{
			Name: t.Name, Version: t.Version, Backend: t.Backend, Bytes: t.Bytes, Files: t.Files, InstalledAt: t.InstalledAt,
			VMs: users[t.Ref()],
		}
	}
	return out, nil
}

// toolUsers counts the VMs that have a tool.
func (w *Worker) toolUsers(ctx context.Context) (map[domain.Tool]int, error) {
	vms, err := w.onWorker(ctx)
	if err != nil {
		return nil, err
	}
	users := map[domain.Tool]int{}
	for _, vm := range vms {
		refs, err := domain.ParseTools("tools", vm.Spec.Tools)
		if err != nil || vm.Observed == domain.Deleted {
			continue
		}
		for _, ref := range refs {
			users[ref]++
		}
	}
	return users, nil
}

// RemoveTool implements service.Node. Returns NotFound, Conflict while a VM has it.
func (w *Worker) RemoveTool(ctx context.Context, ref domain.Tool) error {
	w.tools.using.Lock()
	defer w.tools.using.Unlock()
	users, err := w.toolUsers(ctx)
	if err != nil {
		return err
	}
	if n := users[ref]; n > 0 {
		return errors.New(errors.Conflict, "%d VMs have %s (%s)", n, ref, tools.CodeInUse).WithHint("remove them first")
	}
	return w.tools.Remove(ref)
}

// toolRest is how long a tool is kept at least: who had it installed may be
// about to use it.
const toolRest = 10 * time.Minute

// sweepTools removes tools that were not used for longest while there are more
// than are to be kept. What VMs have stays.
func (w *Worker) sweepTools(ctx context.Context) error { return w.trimTools(ctx, toolRest) }

func (w *Worker) trimTools(ctx context.Context, rest time.Duration) error {
	list, total := w.tools.List(), int64(0)
	for _, t := range list {
		total += t.Bytes
	}
	if w.config.Tools.MaxCache <= 0 || total <= w.config.Tools.MaxCache {
		return nil
	}
	slices.SortFunc(list, func(a, b tools.Tool) int { return a.UsedAt.Compare(b.UsedAt) })
	for _, t := range list {
		if total <= w.config.Tools.MaxCache || w.Now().Sub(t.UsedAt) < rest {
			return nil
		}
		err := w.RemoveTool(ctx, t.Ref())
		if errors.HasCode(err, errors.Conflict) || errors.HasCode(err, errors.NotFound) {
			continue
		}
		if err != nil {
			return err
		}
		w.Log.Info("a tool that was not used for long is removed", "tool", t.Ref().String(), "bytes", t.Bytes)
		total -= t.Bytes
	}
	return nil
}

// installTools runs a task that installs tools.
func (w *Worker) installTools(ctx context.Context, task *domain.Task) (json.RawMessage, error) {
	var args service.ToolArgs
	if err := json.Unmarshal(task.Args, &args); err != nil {
		return nil, errors.Wrap(err, errors.Internal, "the task's arguments are damaged")
	}
	refs, err := domain.ParseTools("tools", args.Tools)
	if err != nil {
		return nil, err
	}
	ctx, end, err := w.builds.begin(ctx, w.buildLogFile(task.ID), task.ID, task.ID)
	if err != nil {
		return nil, err
	}
	defer end()
	refs = slices.DeleteFunc(refs, w.tools.InTemplate)
	many := len(refs) > 1
	var wg sync.WaitGroup
	errs := make([]error, len(refs))
	made := make([]string, len(refs))
	for i, ref := range refs {
		say := func(line string) {
			if many {
				line = ref.Name + ": " + line
			}
			w.builds.say(task.ID, line)
		}
		wg.Go(func() {
			t, err := w.tools.Install(ctx, ref, say)
			if errs[i] = err; err != nil {
				say("error: " + errors.Public(err).Message)
				return
			}
			made[i] = t.Ref().String()
			say("ready: " + made[i])
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return json.Marshal(map[string][]string{"tools": made})
}

// ToolLog implements service.Node.
func (w *Worker) ToolLog(ctx context.Context, task domain.ID, from int64, follow bool) (io.ReadCloser, error) {
	ended := func() bool {
		var t *domain.Task
		err := w.Store.View(ctx, func(tx storage.Tx) (err error) {
			t, err = tx.Tasks().Get(ctx, storage.System, task)
			return err
		})
		return err != nil || t.State.Ended()
	}
	if _, err := os.Stat(w.buildLogFile(task)); os.IsNotExist(err) && (!follow || ended()) {
		return nil, errors.New(errors.NotFound, "the installation has no log")
	}
	return &buildLog{w: w, ctx: ctx, build: task, offset: from, follow: follow, sub: w.builds.grown.Subscribe(task), ended: ended}, nil
}

// sweepToolLogs removes logs of installations whose tasks are gone.
func (w *Worker) sweepToolLogs(ctx context.Context) error {
	names, err := os.ReadDir(filepath.Dir(w.buildLogFile("x")))
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, name := range names {
		text, ok := strings.CutSuffix(name.Name(), ".log")
		info, ierr := name.Info()
		if !ok || !domain.IsID(text) || ierr != nil || time.Since(info.ModTime()) < w.config.KeepTasks {
			continue
		}
		id := domain.ID(text)
		if _, berr := w.loadBuild(ctx, id); !errors.HasCode(berr, errors.NotFound) || w.builds.underway(id) {
			continue
		}
		if rerr := os.Remove(w.buildLogFile(id)); rerr != nil && !os.IsNotExist(rerr) {
			err = errors.Join(err, rerr)
		}
	}
	return err
}
