package client

import (
	"context"
	"iter"
	"net/http"
	"net/url"
	"strconv"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// respondAsync asks for an answer as soon as a wish is durable (RFC 7240).
const respondAsync = "respond-async"

// CreateVM creates a VM and waits until it is ready.
// Returns NotFound (template), AlreadyExists (name), CapacityExhausted, Unsupported.
func (c *Client) CreateVM(ctx context.Context, req api.CreateVM) (api.VM, error) {
	return c.CreateVMOnce(ctx, domain.NewID().String(), req)
}

// CreateVMOnce is CreateVM with a key of the caller's: the same key and
// request yield the same VM, however often they are sent.
func (c *Client) CreateVMOnce(ctx context.Context, key string, req api.CreateVM) (api.VM, error) {
	var vm api.VM
	var accepted api.Accepted
	err := c.send(ctx, post(req, "vms").keyed(key), func(resp *http.Response) (err error) {
		if resp.StatusCode == http.StatusAccepted { // the server's wait was over before the VM was ready
			accepted, err = decode[api.Accepted](ctx, c, resp)
			return err
		}
		vm, err = decode[api.VM](ctx, c, resp)
		return err
	})
	if err != nil || accepted.Task.ID == "" {
		return vm, err
	}
	if _, err := c.WaitTask(ctx, accepted.Task.ID); err != nil {
		return api.VM{}, err
	}
	return c.VM(ctx, accepted.Task.Subject)
}

// FindVMOnce gives the ID of the VM that CreateVMOnce makes, or has made, of
// the same key and request, whether it is ready, is not yet, or has failed.
func (c *Client) FindVMOnce(ctx context.Context, key string, req api.CreateVM) (string, error) {
	accepted, err := c.AcceptVM(ctx, key, req)
	return accepted.Task.Subject, err
}

// AcceptVM is CreateVMOnce that does not wait for the VM to be ready.
func (c *Client) AcceptVM(ctx context.Context, key string, req api.CreateVM) (api.Accepted, error) {
	return fetch[api.Accepted](ctx, c, post(req, "vms").keyed(key).with(api.HeaderPrefer, respondAsync))
}

// VM gets a VM by ID or name. Returns NotFound.
func (c *Client) VM(ctx context.Context, vm string) (api.VM, error) {
	return fetch[api.VM](ctx, c, get("vms", vm))
}

// VMTrace is VM with the timed steps of its last start.
func (c *Client) VMTrace(ctx context.Context, vm string) (api.VM, error) {
	return fetch[api.VM](ctx, c, get("vms", vm).param("trace", "true"))
}

// VMFilter narrows a list of VMs. Zero fields do not filter.
type VMFilter struct {
	States         []string
	Metadata       map[string]string
	Name           string
	Template       string
	IncludeDeleted bool
	Page
}

// VMs lists VMs.
func (c *Client) VMs(ctx context.Context, f VMFilter) iter.Seq2[api.VM, error] {
	q := url.Values{}
	for _, s := range f.States {
		q.Add("state", s)
	}
	for k, v := range f.Metadata {
		q.Add("metadata", k+":"+v)
	}
	for k, v := range map[string]string{"name": f.Name, "template": f.Template} {
		if v != "" {
			q.Set(k, v)
		}
	}
	if f.IncludeDeleted {
		q.Set("include_deleted", "true")
	}
	cl := get("vms")
	cl.query = q
	return all[api.VM](ctx, c, cl, f.Page)
}

// PatchVM changes what may change. Returns NotFound, AlreadyExists (name).
func (c *Client) PatchVM(ctx context.Context, vm string, p api.PatchVM) (api.VM, error) {
	return fetch[api.VM](ctx, c, call{method: http.MethodPatch, path: []string{"vms", vm}, body: p, safe: true})
}

// DeleteVM deletes a VM and waits until it is gone.
func (c *Client) DeleteVM(ctx context.Context, vm string) (api.VM, error) {
	return fetch[api.VM](ctx, c, remove("vms", vm))
}

// DropVM deletes a VM and returns as soon as the wish is durable.
func (c *Client) DropVM(ctx context.Context, vm string) error {
	return c.perform(ctx, remove("vms", vm).with(api.HeaderPrefer, respondAsync))
}

// StartVM starts a stopped or paused VM and waits until it is ready.
func (c *Client) StartVM(ctx context.Context, vm string) (api.VM, error) {
	return fetch[api.VM](ctx, c, post(nil, "vms", vm, "start").repeatable())
}

// StopVM stops a VM; its disk is kept.
func (c *Client) StopVM(ctx context.Context, vm string) (api.VM, error) {
	return fetch[api.VM](ctx, c, post(nil, "vms", vm, "stop").repeatable())
}

// ResumeVM resumes a paused VM.
func (c *Client) ResumeVM(ctx context.Context, vm string) (api.VM, error) {
	return fetch[api.VM](ctx, c, post(nil, "vms", vm, "resume").repeatable())
}

// PauseVM pauses a VM. An empty mode is the driver's best. Returns Unsupported.
func (c *Client) PauseVM(ctx context.Context, vm, mode string) (api.VM, error) {
	return fetch[api.VM](ctx, c, post(api.PauseVM{Mode: mode}, "vms", vm, "pause").repeatable())
}

// ForkVM makes copies of a VM that continue from its memory and disk, or from
// its disk alone, side by side.
func (c *Client) ForkVM(ctx context.Context, vm string, req api.ForkVM) ([]api.VM, error) {
	return c.ForkVMOnce(ctx, domain.NewID().String(), vm, req)
}

// ForkVMOnce is ForkVM with a key of the caller's: the same key and request
// yield the same forks, however often they are sent.
func (c *Client) ForkVMOnce(ctx context.Context, key, vm string, req api.ForkVM) ([]api.VM, error) {
	list, err := fetch[api.List[api.VM]](ctx, c, post(req, "vms", vm, "forks").keyed(key))
	return list.Items, err
}

// VMUsage reads what a VM uses now. Returns Conflict when it does not run.
func (c *Client) VMUsage(ctx context.Context, vm string) (api.Usage, error) {
	return fetch[api.Usage](ctx, c, get("vms", vm, "usage"))
}

// CreateSnapshot keeps a VM's disk, and if asked its memory, as it is now.
// Returns Unsupported, Conflict for the memory of one that does not run.
func (c *Client) CreateSnapshot(ctx context.Context, vm string, req api.CreateSnapshot) (api.Snapshot, error) {
	return c.CreateSnapshotOnce(ctx, domain.NewID().String(), vm, req)
}

// CreateSnapshotOnce is CreateSnapshot with a key of the caller's: the same key
// and request yield the same snapshot, however often they are sent.
func (c *Client) CreateSnapshotOnce(ctx context.Context, key, vm string, req api.CreateSnapshot) (api.Snapshot, error) {
	return fetch[api.Snapshot](ctx, c, post(req, "vms", vm, "snapshots").keyed(key))
}

// Snapshots lists snapshots, of one VM or, with an empty vm, all.
func (c *Client) Snapshots(ctx context.Context, vm string, p Page) iter.Seq2[api.Snapshot, error] {
	cl := get("snapshots")
	if vm != "" {
		cl = get("vms", vm, "snapshots")
	}
	return all[api.Snapshot](ctx, c, cl, p)
}

// Snapshot gets a snapshot.
func (c *Client) Snapshot(ctx context.Context, id string) (api.Snapshot, error) {
	return fetch[api.Snapshot](ctx, c, get("snapshots", id))
}

// DeleteSnapshot removes a snapshot. Returns NotFound, Conflict.
func (c *Client) DeleteSnapshot(ctx context.Context, id string) error {
	return c.perform(ctx, remove("snapshots", id))
}

// Port tells how a TCP port in a VM is reached from outside.
func (c *Client) Port(ctx context.Context, vm string, port int) (api.Port, error) {
	return fetch[api.Port](ctx, c, get("vms", vm, "ports", strconv.Itoa(port)))
}

// CreateLink makes a one-time link to a port's preview.
func (c *Client) CreateLink(ctx context.Context, vm string, port int, req api.CreateLink) (api.Link, error) {
	return fetch[api.Link](ctx, c, create(req, "vms", vm, "ports", strconv.Itoa(port), "links"))
}
