package e2b

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/gateway/pkg/problem"
	"github.com/aetherium/aetherium/services/gateway/pkg/trail"
)

const (
	defaultTimeout = 300 // seconds
	legacyTimeout  = 15  // where the SDK that asks is of the first generation
	maxSeconds     = 10 * 365 * 24 * 60 * 60
	// resumeFor is how long a sandbox lives at least that traffic woke.
	resumeFor = 5 * time.Minute

	maxIdempotencyKey = 255
)

func (a *API) sandboxRoutes(r chi.Router) {
	for _, generation := range []struct {
		prefix  string
		timeout int64
	}{{"", legacyTimeout}, {"/v2", defaultTimeout}} {
		a.handle(r, http.MethodPost, generation.prefix+"/sandboxes", "create-vm", domain.ScopeRun, a.create(generation.timeout))
		a.handle(r, http.MethodGet, generation.prefix+"/sandboxes", "list-vms", domain.ScopeRead, a.list)
		a.handle(r, http.MethodPost, generation.prefix+"/sandboxes/{sandbox}/connect", "connect-vm", domain.ScopeRun, a.connect)
	}
	a.handle(r, http.MethodGet, "/sandboxes/{sandbox}", "get-vm", domain.ScopeRead, a.get)
	a.handle(r, http.MethodDelete, "/sandboxes/{sandbox}", "delete-vm", domain.ScopeRun, a.kill)
	a.handle(r, http.MethodPost, "/sandboxes/{sandbox}/pause", "pause-vm", domain.ScopeRun, a.pause)
	a.handle(r, http.MethodPost, "/sandboxes/{sandbox}/resume", "resume-vm", domain.ScopeRun, a.connect)
	a.handle(r, http.MethodPost, "/sandboxes/{sandbox}/timeout", "patch-vm", domain.ScopeRun, a.timeout)
	a.handle(r, http.MethodPost, "/sandboxes/{sandbox}/refreshes", "patch-vm", domain.ScopeRun, a.refresh)
	a.handle(r, http.MethodPut, "/sandboxes/{sandbox}/network", "set-vm-egress", domain.ScopeRun, a.setNetwork)
	a.handle(r, http.MethodGet, "/sandboxes/{sandbox}/metrics", "get-vm-usage", domain.ScopeRead, a.metrics)
	a.handle(r, http.MethodPost, "/sandboxes/{sandbox}/fork", "fork-vm", domain.ScopeRun, a.fork)
}

// sandboxOf finds the sandbox that a path names. Returns NotFound for what is
// no VM, and for one that ends, has ended or has failed.
func (a *API) sandboxOf(r *http.Request, by vmm.Caller) (*domain.VM, error) {
	vm, err := a.vmOf(r, by)
	if err == nil && vm.Observed.Terminal() {
		return nil, noSandbox(vm.ID.String())
	}
	return vm, err
}

// killable is sandboxOf, and one that has failed too.
func (a *API) killable(r *http.Request, by vmm.Caller) (*domain.VM, error) {
	vm, err := a.vmOf(r, by)
	if err == nil && vm.Observed.Terminal() && vm.Observed != domain.Failed {
		return nil, noSandbox(vm.ID.String())
	}
	return vm, err
}

// vmOf finds the VM that a path names, unless it is to end.
func (a *API) vmOf(r *http.Request, by vmm.Caller) (*domain.VM, error) {
	id := chi.URLParam(r, "sandbox")
	if !domain.IsID(id) {
		return nil, noSandbox(id)
	}
	trail.VM(r.Context(), domain.ID(id))
	vm, err := a.VMs.GetVM(r.Context(), by, domain.ID(id))
	switch {
	case errors.HasCode(err, errors.NotFound):
		return nil, noSandbox(id)
	case err != nil:
		return nil, err
	case vm.Desired == domain.WantDeleted:
		return nil, noSandbox(id)
	}
	return vm, nil
}

func noSandbox(id string) error {
	if len(id) > 64 {
		id = id[:64]
	}
	return errors.New(errors.NotFound, "sandbox %q was not found", id)
}

// create makes a sandbox and answers when it is ready.
func (a *API) create(timeout int64) func(http.ResponseWriter, *http.Request, vmm.Caller) error {
	return func(w http.ResponseWriter, r *http.Request, by vmm.Caller) error {
		var body createBody
		text, err := a.read(w, r, &body)
		if err != nil {
			return err
		}
		req, err := toCreate(body, timeout)
		if err != nil {
			return err
		}
		if key := r.Header.Get(wire.HeaderIdempotencyKey); key != "" {
			if len(key) > maxIdempotencyKey {
				return errors.New(errors.InvalidArgument, "the idempotency key is too long").WithField(wire.HeaderIdempotencyKey)
			}
			sum := sha256.Sum256(text)
			req.IdempotencyKey, req.RequestDigest = key, hex.EncodeToString(sum[:])
		}
		vm, err := a.VMs.CreateVM(r.Context(), by, req)
		if err != nil {
			return err
		}
		trail.Subject(r.Context(), "vm", vm.ID.String())
		trail.VM(r.Context(), vm.ID)
		out, err := a.ready(r, by, vm)
		if err != nil {
			return err
		}
		return answer(w, http.StatusCreated, out)
	}
}

// ready waits for a new sandbox. One that failed is of no use to anybody, and goes;
// so does one whose worker went away before it was made, unless its client can
// ask for it again.
func (a *API) ready(r *http.Request, by vmm.Caller, vm *domain.VM) (*sandbox, error) {
	ctx, cancel := context.WithTimeout(r.Context(), maxWait)
	defer cancel()
	got, err := a.VMs.WaitVM(ctx, by, vm.ID)
	if err == nil {
		return a.sandbox(r, got)
	}
	failed := got != nil && got.Observed == domain.Failed
	if failed {
		err = notStarted("the sandbox could not be started", got)
	}
	if failed || got != nil && got.UnreachableSince != nil && r.Header.Get(wire.HeaderIdempotencyKey) == "" {
		if _, derr := a.VMs.DeleteVM(context.WithoutCancel(ctx), by, vm.ID); derr != nil {
			a.Logger.WarnContext(ctx, "a sandbox of no use was not deleted", "vm", vm.ID, "error", derr)
		}
	}
	return nil, err
}

// notStarted is for a sandbox that was given up: by its template's fault most
// often. E2B answers 500 then, which no SDK takes for something to be tried
// again; at 502, 503 and 504 Python's would make it three times more.
func notStarted(what string, vm *domain.VM) error {
	why, e := vm.Reason, vmm.Failure(vm)
	if vm.Observed == domain.Stopped && vm.Tombstone != nil {
		why = vm.Tombstone.Detail
	}
	e.Message = what + ": " + why
	if e.Code == errors.Conflict {
		e.Code = errors.GuestFault
	}
	return problem.From(e).WithStatus(http.StatusInternalServerError)
}

// sandbox is a sandbox with what its clients show.
func (a *API) sandbox(r *http.Request, vm *domain.VM) (*sandbox, error) {
	access, err := a.VMs.AgentAccess(r.Context(), vm.ID)
	if err != nil {
		return nil, err
	}
	template, alias := templateOf(vm)
	out := &sandbox{
		TemplateID: template, Alias: alias, SandboxID: vm.ID.String(), ClientID: clientID, EnvdVersion: envdVersion,
		EnvdAccessToken: access.Token, Domain: a.domainOf(r),
	}
	if !vm.Spec.Previews.Public {
		shown, err := a.VMs.Preview(r.Context(), vm.ID)
		if err != nil {
			return nil, err
		}
		out.TrafficAccessToken = shown.Token
	}
	return out, nil
}

// connect makes a sandbox run that was paused, and gives it time: as much as is
// asked for from now on, if that is more than it has.
func (a *API) connect(w http.ResponseWriter, r *http.Request, by vmm.Caller) error {
	var body connectBody
	if _, err := a.read(w, r, &body); err != nil {
		return err
	}
	timeout, err := seconds(body.Timeout, defaultTimeout)
	if err != nil {
		return err
	}
	vm, err := a.sandboxOf(r, by)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), maxWait)
	defer cancel()
	before := vm
	woken := vm.Desired != domain.WantRunning
	if woken {
		if err := here(vm); err != nil {
			return err
		}
		if err := a.wake(ctx, by, vm, body.Memory); err != nil {
			return err
		}
	}
	if vm, err = a.VMs.WaitVM(ctx, by, vm.ID); err != nil {
		if woken {
			a.takeBack(ctx, by, before, vm)
		}
		return err
	}
	switch vm.Desired {
	case domain.WantRunning:
	case domain.WantPaused: // it has its memory still, and may go on from it at another try
		return errors.New(errors.Unavailable, "the sandbox could not be resumed: %s", vm.Reason)
	default:
		return notStarted("the sandbox could not be resumed", vm)
	}
	if woken || vm.Deadline != nil && vm.Deadline.Before(a.Now().Add(timeout)) {
		if vm, err = a.VMs.PatchVM(ctx, by, vm.ID, vmm.PatchVM{Timeout: &timeout}); err != nil {
			return err
		}
	}
	out, err := a.sandbox(r, vm)
	if err != nil {
		return err
	}
	status := http.StatusOK
	if woken {
		status = http.StatusCreated
	}
	return answer(w, status, out)
}

// here refuses what needs a sandbox's worker while that is away: its client is
// told that it is not done, so it must not be done later.
func here(vm *domain.VM) error {
	if vm.UnreachableSince == nil {
		return nil
	}
	return errors.New(errors.Unavailable, "the sandbox cannot be reached now").WithRetryAfter(awayRetry)
}

// awayRetry is when the worker of a sandbox may be back.
const awayRetry = 5 * time.Second

// takeBack takes back what was wanted of a sandbox whose worker went away before
// it was done.
func (a *API) takeBack(ctx context.Context, by vmm.Caller, before, now *domain.VM) {
	if now == nil || now.UnreachableSince == nil {
		return
	}
	ctx = context.WithoutCancel(ctx)
	var err error
	switch before.Desired {
	case domain.WantRunning:
		if _, err = a.VMs.StartVM(ctx, by, before.ID); err == nil && before.Deadline != nil {
			left := max(before.Deadline.Sub(a.Now()), time.Second)
			_, err = a.VMs.PatchVM(ctx, by, before.ID, vmm.PatchVM{Timeout: &left})
		}
	case domain.WantPaused:
		_, err = a.VMs.PauseVM(ctx, by, before.ID, before.PauseMode)
	case domain.WantStopped:
		_, err = a.VMs.StopVM(ctx, by, before.ID)
	}
	if err != nil {
		a.Logger.WarnContext(ctx, "what was refused is still wanted of a sandbox", "vm", before.ID, "error", err)
	}
}

// wake has a paused or stopped sandbox run; without memory from its disk alone.
func (a *API) wake(ctx context.Context, by vmm.Caller, vm *domain.VM, memory *bool) error {
	if vm.Desired == domain.WantPaused && (memory == nil || *memory) {
		_, err := a.VMs.ResumeVM(ctx, by, vm.ID)
		return err
	}
	if vm.Desired == domain.WantPaused {
		if _, err := a.VMs.StopVM(ctx, by, vm.ID); err != nil {
			return err
		}
		if _, err := a.VMs.WaitVM(ctx, by, vm.ID); err != nil {
			return err
		}
	}
	_, err := a.VMs.StartVM(ctx, by, vm.ID)
	return err
}

func (a *API) get(w http.ResponseWriter, r *http.Request, by vmm.Caller) error {
	vm, err := a.sandboxOf(r, by)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, a.detail(r, vm))
}

// killWait is how long a client waits for its sandbox to be gone. It goes, anyhow.
const killWait = 10 * time.Second

// kill answers when the sandbox is gone: until its worker has taken the wish up
// it would answer requests.
func (a *API) kill(w http.ResponseWriter, r *http.Request, by vmm.Caller) error {
	vm, err := a.killable(r, by)
	if err != nil {
		return err
	}
	if _, err := a.VMs.DeleteVM(r.Context(), by, vm.ID); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), killWait)
	defer cancel()
	got, err := a.VMs.WaitVM(ctx, by, vm.ID)
	a.Proxy.CloseIdle()
	if got != nil && got.UnreachableSince != nil {
		return empty(w) // it goes when its worker is back
	}
	if err != nil && ctx.Err() == nil && !errors.HasCode(err, errors.NotFound) {
		return err
	}
	return empty(w)
}

// pause answers when the sandbox is paused: with its memory where its driver
// keeps that. Its time does not pass meanwhile.
func (a *API) pause(w http.ResponseWriter, r *http.Request, by vmm.Caller) error {
	var body pauseBody
	if _, err := a.read(w, r, &body); err != nil {
		return err
	}
	vm, err := a.sandboxOf(r, by)
	if err != nil {
		return err
	}
	if vm.Desired != domain.WantRunning {
		return errors.New(errors.Conflict, "sandbox %q is already paused", vm.ID)
	}
	ctx, cancel := context.WithTimeout(r.Context(), maxWait)
	defer cancel()
	if body.Healthy {
		if err := a.healthy(ctx, vm.ID); err != nil {
			return err
		}
	}
	if err := here(vm); err != nil {
		return err
	}
	before := vm
	// Where it is stopped instead that is the same: its processes end, its disk is kept.
	asked, err := a.VMs.SuspendVM(ctx, by, vm.ID, body.Memory == nil || *body.Memory)
	if err != nil {
		return err
	}
	vm, err = a.VMs.WaitVM(ctx, by, vm.ID)
	a.Proxy.CloseIdle() // connections to what does not run are worth nothing
	if err != nil {
		a.takeBack(ctx, by, before, vm)
		return err
	}
	if vm.Desired != asked.Desired {
		return errors.New(errors.Unavailable, "the sandbox could not be paused: %s", vm.Reason)
	}
	return empty(w)
}

// healthWait is how long an agent may take to say that it is well.
const healthWait = 10 * time.Second

// healthy asks a sandbox's agent how it is. Returns Unavailable, which the SDKs
// know from E2B, where it does not answer.
func (a *API) healthy(ctx context.Context, id domain.ID) error {
	ctx, cancel := context.WithTimeout(ctx, healthWait)
	defer cancel()
	agent := &http.Transport{
		DisableKeepAlives: true, MaxResponseHeaderBytes: maxHealthHeader,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return a.VMs.DialAgent(ctx, id, false) },
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost/health", nil)
	if err != nil {
		return err
	}
	resp, err := agent.RoundTrip(req)
	if err == nil {
		_ = resp.Body.Close()
		if resp.StatusCode >= http.StatusInternalServerError {
			err = errors.Plain(resp.Status)
		}
	}
	if err != nil {
		return errors.Wrap(err, errors.Unavailable, "the sandbox's agent does not answer: it is not paused and runs on")
	}
	return nil
}

// maxHealthHeader bounds what an agent says of its health, in bytes.
const maxHealthHeader = 16 << 10

func (a *API) timeout(w http.ResponseWriter, r *http.Request, by vmm.Caller) error {
	var body timeoutBody
	if _, err := a.read(w, r, &body); err != nil {
		return err
	}
	if body.Timeout == nil {
		return errors.New(errors.InvalidArgument, "the timeout is missing").WithField("timeout")
	}
	timeout, err := seconds(body.Timeout, 0)
	if err != nil {
		return err
	}
	vm, err := a.sandboxOf(r, by)
	if err != nil {
		return err
	}
	if vm.Desired != domain.WantRunning {
		return noSandbox(vm.ID.String()) // that runs
	}
	if _, err := a.VMs.PatchVM(r.Context(), by, vm.ID, vmm.PatchVM{Timeout: &timeout}); err != nil {
		return err
	}
	return empty(w)
}

// refresh is what the first SDKs sent to keep a sandbox alive.
func (a *API) refresh(w http.ResponseWriter, r *http.Request, by vmm.Caller) error {
	var body struct {
		Duration *int64 `json:"duration"`
	}
	if _, err := a.read(w, r, &body); err != nil {
		return err
	}
	timeout, err := seconds(body.Duration, legacyTimeout)
	if err != nil {
		return err
	}
	vm, err := a.sandboxOf(r, by)
	if err != nil {
		return err
	}
	if vm.Deadline != nil && vm.Deadline.Before(a.Now().Add(timeout)) {
		if _, err := a.VMs.PatchVM(r.Context(), by, vm.ID, vmm.PatchVM{Timeout: &timeout}); err != nil {
			return err
		}
	}
	return empty(w)
}

// fork answers with each fork, or why there is none.
func (a *API) fork(w http.ResponseWriter, r *http.Request, by vmm.Caller) error {
	var body forkBody
	if _, err := a.read(w, r, &body); err != nil {
		return err
	}
	timeout, err := seconds(body.Timeout, defaultTimeout)
	if err != nil {
		return err
	}
	vm, err := a.sandboxOf(r, by)
	if err != nil {
		return err
	}
	count := 1
	if body.Count != nil {
		count = *body.Count
	}
	vms, err := a.VMs.ForkVM(r.Context(), by, vm.ID, count, vmm.CreateVM{Timeout: &timeout, AutoResume: vm.AutoResume})
	if err != nil {
		return err
	}
	out := make([]forked, len(vms))
	for i, vm := range vms {
		if out[i].Sandbox, err = a.ready(r, by, vm); err != nil {
			f := failed(respond(err))
			out[i].Error = &f
		}
	}
	return answer(w, http.StatusCreated, out)
}

// seconds reads a timeout. None at all is one that is over at once: to us a
// timeout of zero would be none.
func seconds(given *int64, otherwise int64) (time.Duration, error) {
	n := otherwise
	if given != nil {
		n = *given
	}
	if n < 0 || n > maxSeconds {
		return 0, errors.New(errors.InvalidArgument, "a timeout of %d s is out of range", n).WithField("timeout")
	}
	return max(time.Duration(n)*time.Second, time.Millisecond), nil
}

// positive reads a number of a query. Returns InvalidArgument.
func positive(field, text string) (int64, error) {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 1 {
		return 0, errors.New(errors.InvalidArgument, "%s is not a number from 1 on", field).WithField(field)
	}
	return n, nil
}
