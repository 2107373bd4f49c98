package api

import (
	"context"
	"net/http"

	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/gateway/pkg/auth"
	"github.com/aetherium/aetherium/services/gateway/pkg/trail"
)

type (
	createSnapshotInput struct {
		VMPath
		KeyHeader
		Body *wire.CreateSnapshot
	}
	listVMSnapshotsInput struct {
		VMPath
		PageQuery
	}
	snapshotOutput        struct{ Body wire.Snapshot }
	createdSnapshotOutput struct {
		Location string `header:"Location"`
		Body     wire.Snapshot
	}
	snapshotsOutput struct {
		Body *wire.List[wire.Snapshot]
	}
)

func (a *API) snapshotRoutes() {
	const tag = "Snapshots"
	create := operation("create-snapshot", http.MethodPost, "/vms/{vm}/snapshots", tag, "Take a snapshot of a VM", "Answers when it is complete.")
	create.DefaultStatus = http.StatusCreated
	register(a, create, options{scope: domain.ScopeRun}, a.createSnapshot)
	register(a, operation("list-vm-snapshots", http.MethodGet, "/vms/{vm}/snapshots", tag, "List a VM's snapshots", ""), options{scope: domain.ScopeRead},
		func(ctx context.Context, in *listVMSnapshotsInput) (*snapshotsOutput, error) {
			by, vm, err := a.resolve(ctx, in.VMPath)
			if err != nil {
				return nil, err
			}
			l, err := a.VMs.ListSnapshots(ctx, by, vm, in.page())
			if err != nil {
				return nil, err
			}
			return &snapshotsOutput{listOf(l, snapshot)}, nil
		})
	register(a, operation("list-snapshots", http.MethodGet, "/snapshots", tag, "List snapshots", ""), options{scope: domain.ScopeRead},
		func(ctx context.Context, in *PageQuery) (*snapshotsOutput, error) {
			l, err := a.VMs.ListSnapshots(ctx, auth.CallerFrom(ctx), "", in.page())
			if err != nil {
				return nil, err
			}
			return &snapshotsOutput{listOf(l, snapshot)}, nil
		})
	register(a, operation("get-snapshot", http.MethodGet, "/snapshots/{id}", tag, "Get a snapshot", ""), options{scope: domain.ScopeRead},
		func(ctx context.Context, in *IDPath) (*snapshotOutput, error) {
			s, err := a.VMs.GetSnapshot(ctx, auth.CallerFrom(ctx), in.id())
			if err != nil {
				return nil, err
			}
			return &snapshotOutput{snapshot(s)}, nil
		})
	register(a, operation("delete-snapshot", http.MethodDelete, "/snapshots/{id}", tag, "Delete a snapshot", ""), options{scope: domain.ScopeRun},
		func(ctx context.Context, in *IDPath) (*empty, error) {
			return nil, a.VMs.DeleteSnapshot(ctx, auth.CallerFrom(ctx), in.id())
		})
}

func (a *API) createSnapshot(ctx context.Context, in *createSnapshotInput) (*createdSnapshotOutput, error) {
	by, vm, err := a.resolve(ctx, in.VMPath)
	if err != nil {
		return nil, err
	}
	body := given(in.Body)
	req := vmm.CreateSnapshot{Name: body.Name, Kind: domain.SnapshotDisk}
	if body.Memory {
		req.Kind = domain.SnapshotMemory
	}
	s, err := a.VMs.CreateSnapshot(ctx, by, vm, req)
	if err != nil {
		return nil, err
	}
	trail.Subject(ctx, "snapshot", s.ID.String())
	return &createdSnapshotOutput{Location: location("snapshots", s.ID.String()), Body: snapshot(s)}, nil
}
