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
	// VolumePath names a volume in a path.
	VolumePath struct {
		Volume string `path:"volume" maxLength:"63" pattern:"^[A-Za-z0-9][A-Za-z0-9._-]*$" doc:"ID or name of a volume"`
	}
	createVolumeInput struct {
		KeyHeader
		Body wire.CreateVolume
	}
	volumeOutput        struct{ Body wire.Volume }
	createdVolumeOutput struct {
		Location string `header:"Location"`
		Body     wire.Volume
	}
	volumesOutput struct{ Body *wire.List[wire.Volume] }
)

func (a *API) volumeRoutes() {
	const tag = "Volumes"
	create := operation("create-volume", http.MethodPost, "/volumes", tag, "Make a volume", "On the disk of a worker whose driver oci can give it to VMs.")
	create.DefaultStatus = http.StatusCreated
	register(a, create, options{scope: domain.ScopeRun}, a.createVolume)
	register(a, operation("list-volumes", http.MethodGet, "/volumes", tag, "List volumes", ""), options{scope: domain.ScopeRead},
		func(ctx context.Context, in *PageQuery) (*volumesOutput, error) {
			l, err := a.VMs.ListVolumes(ctx, auth.CallerFrom(ctx), in.page())
			if err != nil {
				return nil, err
			}
			return &volumesOutput{listOf(l, volume)}, nil
		})
	register(a, operation("get-volume", http.MethodGet, "/volumes/{volume}", tag, "Get a volume", ""), options{scope: domain.ScopeRead},
		func(ctx context.Context, in *VolumePath) (*volumeOutput, error) {
			_, v, err := a.volumeOf(ctx, *in)
			if err != nil {
				return nil, err
			}
			return &volumeOutput{volume(v)}, nil
		})
	register(a, operation("delete-volume", http.MethodDelete, "/volumes/{volume}", tag, "Delete a volume with all that is in it", "One that a VM has is kept: 409."), options{scope: domain.ScopeRun},
		func(ctx context.Context, in *VolumePath) (*empty, error) {
			by, v, err := a.volumeOf(ctx, *in)
			if err != nil {
				return nil, err
			}
			return nil, a.VMs.DeleteVolume(ctx, by, v.ID.String())
		})
	a.volumeFileRoutes()
}

func (a *API) createVolume(ctx context.Context, in *createVolumeInput) (*createdVolumeOutput, error) {
	v, err := a.VMs.CreateVolume(ctx, auth.CallerFrom(ctx), vmm.CreateVolume{Name: in.Body.Name, DiskBytes: in.Body.DiskBytes})
	if err != nil {
		return nil, err
	}
	return &createdVolumeOutput{location("volumes", v.ID.String()), volume(v)}, nil
}

// volumeOf finds the volume that a path names, for what is done to it and for
// the record of that: another volume may have its name one day.
func (a *API) volumeOf(ctx context.Context, p VolumePath) (vmm.Caller, *domain.Volume, error) {
	by := auth.CallerFrom(ctx)
	v, err := a.VMs.GetVolume(ctx, by, p.Volume)
	if err != nil {
		return by, nil, err
	}
	trail.Subject(ctx, "volume", v.ID.String())
	return by, v, nil
}

func volume(v *domain.Volume) wire.Volume {
	return wire.Volume{ID: v.ID.String(), Name: v.Name, DiskBytes: v.DiskBytes, WorkerID: v.WorkerID.String(), CreatedAt: v.CreatedAt}
}

func toMount(m wire.VolumeMount) domain.Mount {
	return domain.Mount{Source: m.Volume, Target: m.Path, ReadOnly: m.ReadOnly}
}
