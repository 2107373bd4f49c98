package microvm

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/fault"
)

// proofPatience bounds the trial that Info makes: far more than an emulated
// guest takes on a busy host.
const proofPatience = 3 * time.Minute

// failureFor is how long another version of the monitor is not tried again after
// its trial failed, where one before it worked.
const failureFor = time.Minute

type proof struct {
	turn chan struct{} // of who looks; one place
	info *domain.DriverInfo
	// What came of another version's trial, and when.
	failed *domain.DriverInfo
	at     time.Time
}

// Info says what the driver can do here. The first call boots a machine with
// nothing but the agent in it and deletes it again; a host that could do so is
// not asked again until its monitor is another one. See [vmm.Driver].
func (d *Driver) Info(ctx context.Context) domain.DriverInfo {
	select {
	case d.proof.turn <- struct{}{}:
		defer func() { <-d.proof.turn }()
	case <-ctx.Done():
		return domain.DriverInfo{Name: d.engine.Name(), Isolation: domain.IsolationMicroVM, Reason: ctx.Err().Error(), Capabilities: []string{}}
	}
	if known := d.proof.info; known != nil {
		// An upgrade on its way may have no version: what was known stands.
		version, err := d.engine.Version(ctx)
		if err != nil || version == known.Version {
			return *known
		}
		if f := d.proof.failed; f != nil && f.Version == version && time.Since(d.proof.at) < failureFor {
			return *f
		}
	}
	info := domain.DriverInfo{
		Name: d.engine.Name(), Isolation: domain.IsolationMicroVM,
		Capabilities: []string{
			"pause:" + string(domain.PauseFreeze), "pause:" + string(domain.PauseMemory),
			"snapshot:" + string(domain.SnapshotDisk), "snapshot:" + string(domain.SnapshotMemory),
			"fork", "fork:" + string(domain.SnapshotMemory), "carry", "carry:" + string(domain.SnapshotMemory), "meter", "rename", "egress",
		},
	}
	ctx, cancel := context.WithTimeout(ctx, proofPatience)
	defer cancel()
	version, err := d.engine.Version(ctx)
	info.Version = version
	if err == nil {
		err = d.try(ctx)
	}
	if err != nil {
		info.Reason = errors.Public(err).Message
		if info.Reason == "" || errors.HasCode(err, errors.Internal) {
			info.Reason = err.Error()
		}
		if ctx.Err() == nil { // else it was cut short
			d.proof.failed, d.proof.at = &info, time.Now()
		}
		return info
	}
	info.Usable = true
	d.proof.info, d.proof.failed = &info, nil
	return info
}

// try does what every machine needs, once.
func (d *Driver) try(ctx context.Context) (err error) {
	// If this process dies here it is found as a machine that nobody knows, and made again.
	id := "trial-" + d.engine.Name()
	root := filepath.Join(d.cfg.StateDir, id)
	if err := os.MkdirAll(root, 0o755); err != nil {
		return fault.Of(err, "cannot make a root filesystem for the trial")
	}
	// Its image is named by what is in it, times too: one for all trials.
	if err := os.Chtimes(root, time.Unix(0, 0), time.Unix(0, 0)); err != nil {
		return fault.Of(err, "cannot make a root filesystem for the trial")
	}
	if err := d.Delete(ctx, id); err != nil {
		return err
	}
	defer func() {
		image := filepath.Join(d.cfg.imagesDir(), "build-"+id+imageExt)
		err = errors.Join(err, d.Delete(context.WithoutCancel(ctx), id), os.RemoveAll(root), os.RemoveAll(image))
	}()
	if _, err := d.Create(ctx, vmm.Spec{
		MachineID: id, BuildID: id, RootFS: root, Network: domain.NetworkNone, Hostname: "trial",
		Resources: domain.Resources{MilliCPU: 1000, MemoryBytes: 128 * mib, DiskBytes: 16 * mib, PIDs: 64},
	}); err != nil {
		return err
	}
	return d.Start(ctx, id) // which hears the agent
}
