package api

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/gateway/pkg/auth"
	"github.com/aetherium/aetherium/services/gateway/pkg/trail"
)

// The types that operations' inputs are put together from are exported because
// huma looks into exported embedded fields only.

// VMPath names a VM in a path.
type VMPath struct {
	VM string `path:"vm" maxLength:"63" pattern:"^[A-Za-z0-9][A-Za-z0-9._-]*$" doc:"ID or name of a VM"`
}

// IDPath names a thing by its ID in a path.
type IDPath struct {
	ID string `path:"id" maxLength:"20" pattern:"^[a-z0-9]{20}$" patternDescription:"an ID: 20 characters of a-z and 0-9" doc:"ID"`
}

func (p IDPath) id() domain.ID { return domain.ID(p.ID) }

// PageQuery asks for one page of a list.
type PageQuery struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"Items in a page"`
	Cursor string `query:"cursor" maxLength:"1024" doc:"next_cursor of the page before"`
	Order  string `query:"order" enum:"asc,desc" default:"desc" doc:"By creation: newest (desc) or oldest (asc) first"`
}

func (p PageQuery) page() vmm.Page {
	return vmm.Page{Limit: p.Limit, Cursor: p.Cursor, Order: vmm.Order(p.Order)}
}

// WaitQuery says how long to wait for a VM to be as wanted.
type WaitQuery struct {
	WaitMS int64  `query:"wait_ms" minimum:"0" maximum:"600000" default:"60000" doc:"Wait so long for the VM to be as wanted; then the answer is 202"`
	Prefer string `header:"Prefer" maxLength:"256" doc:"respond-async: do not wait (RFC 7240)"`
}

// Resolve implements huma.Resolver: where there is a body, huma puts the
// default in the place of an explicit 0, too.
func (q *WaitQuery) Resolve(hc huma.Context) []error {
	if n, err := strconv.ParseInt(hc.Query("wait_ms"), 10, 64); err == nil {
		q.WaitMS = n
	}
	return nil
}

func (q WaitQuery) async() bool { return respondAsync(http.Header{wire.HeaderPrefer: {q.Prefer}}) }

// KeyHeader documents the header; around has dealt with it already.
type KeyHeader struct {
	IdempotencyKey string `header:"Idempotency-Key" maxLength:"255" doc:"A text of yours: a repeated request with the same one is answered like the first, and not run again; where the server was killed before it had answered, VMs, forks, executions and tasks are still made once"`
}

// ExecutionHeader documents the header; who looks up the credentials has dealt with it already.
type ExecutionHeader struct {
	Execution string `header:"X-Aetherium-Execution" maxLength:"255" doc:"The ID that the body gives the execution, for it to be looked for sooner. Whatever it says, the body's counts"`
}

type postIDInput struct {
	IDPath
	KeyHeader
}

// PathQuery names a file.
type PathQuery struct {
	Path string `query:"path" required:"true" minLength:"1" maxLength:"4095" doc:"Absolute, or relative to the user's home"`
	User string `query:"user" maxLength:"33" pattern:"^(?:[a-z_][a-z0-9_-]*[$]?|[0-9]{1,10})$" doc:"OS user whose rights count; absent: the VM's default"`
}

func (q PathQuery) options() vmm.FileOptions { return vmm.FileOptions{User: q.User} }

// respondAsync reports whether Prefer asks not to wait (RFC 7240 §4.1).
func respondAsync(h http.Header) bool {
	for _, line := range h.Values(wire.HeaderPrefer) {
		for pref := range strings.SplitSeq(line, ",") {
			name, _, _ := strings.Cut(pref, ";")
			if strings.EqualFold(strings.TrimSpace(name), "respond-async") {
				return true
			}
		}
	}
	return false
}

// resolve finds the VM that a path names. The common case, an ID, costs
// nothing: whoever uses it will find out whether it exists.
func (a *API) resolve(ctx context.Context, p VMPath) (vmm.Caller, domain.ID, error) {
	by := auth.CallerFrom(ctx)
	if domain.IsID(p.VM) {
		return by, domain.ID(p.VM), nil
	}
	vm, err := a.VMs.ResolveVM(ctx, by, p.VM)
	if err != nil {
		return by, "", err
	}
	trail.VM(ctx, vm.ID)
	return by, vm.ID, nil
}

// settle waits until a VM is as wanted. settled is false when the answer is
// not to be waited for, or did not come in time.
func (a *API) settle(ctx context.Context, by vmm.Caller, vm *domain.VM, q WaitQuery) (_ *domain.VM, settled bool, err error) {
	if q.async() {
		return vm, false, nil
	}
	wctx, cancel := context.WithTimeout(ctx, min(time.Duration(q.WaitMS)*time.Millisecond, maxWait))
	defer cancel()
	got, err := a.VMs.WaitVM(wctx, by, vm.ID)
	switch {
	case err == nil:
		return got, true, nil
	case ctx.Err() == nil && errors.Is(wctx.Err(), context.DeadlineExceeded):
		if now, err := a.VMs.GetVM(ctx, by, vm.ID); err == nil {
			vm = now
		}
		return vm, false, nil
	}
	if got != nil && got.UnreachableSince != nil && errors.HasCode(err, errors.Unavailable) {
		return got, false, nil // the wish is taken up when its worker is back
	}
	return vm, false, err
}

// given is an optional body, or an empty one.
func given[T any](body *T) T {
	if body == nil {
		var zero T
		return zero
	}
	return *body
}

func location(parts ...string) string { return wire.BasePath + "/" + strings.Join(parts, "/") }
