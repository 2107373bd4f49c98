package app

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/version"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/disk"
	"github.com/aetherium/aetherium/services/core/pkg/network"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/oci"
	"github.com/aetherium/aetherium/services/standalone/internal/settings"
)

// Doctor is what a host offers.
type Doctor struct {
	Version  string              `json:"version"`
	Drivers  []domain.DriverInfo `json:"drivers"`
	Findings []Finding           `json:"findings"`
}

// Finding is one thing that was looked at.
type Finding struct {
	What   string `json:"what"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"`
	Hint   string `json:"hint,omitempty"`
}

// Examine looks at the host without a server, in a scratch directory that it
// removes: a disk pool, namespaces, and a container that really runs.
func Examine(ctx context.Context, s settings.Settings, log *slog.Logger) (Doctor, error) {
	d := Doctor{Version: version.Version, Drivers: []domain.DriverInfo{}, Findings: []Finding{}}
	add := func(what string, err error, detail string) {
		f := Finding{What: what, OK: err == nil, Detail: detail}
		if err != nil {
			f.Detail = err.Error()
		}
		d.Findings = append(d.Findings, f)
	}
	scratch, err := os.MkdirTemp("/run", "aetherium-doctor-")
	if err != nil {
		return d, err
	}
	defer func() { _ = os.RemoveAll(scratch) }()
	if err := os.Chmod(scratch, 0o711); err != nil { //nolint:gosec // the mapped root of the trial walks through it
		return d, err
	}
	instance := "doctor-" + string(domain.NewID()[:8])
	netCfg := network.Config{
		Instance: instance, RuntimeDir: filepath.Join(scratch, "net"), NetdPath: filepath.Join(s.BinDir, "aetherium-netd"),
		PoolNone: -1, PoolNAT: -1, Log: log,
	}
	for _, f := range network.Check(ctx, netCfg) {
		d.Findings = append(d.Findings, Finding{What: "network: " + f.Name, OK: f.OK, Detail: f.Detail, Hint: f.Hint})
	}
	// A small pool in a file beside the real data, so that the file system below is the one that counts.
	if err := os.MkdirAll(s.DataDir, 0o711); err != nil { //nolint:gosec // as the server makes it
		return d, err
	}
	data, err := os.MkdirTemp(s.DataDir, ".doctor-")
	if err != nil {
		return d, err
	}
	defer func() { _ = os.RemoveAll(data) }()
	pool, err := disk.Open(ctx, disk.Config{Dir: data, Size: 512 << 20, Logger: log})
	add("disk", err, "")
	if err != nil {
		return d, nil //nolint:nilerr // it is among the findings
	}
	defer func() { _ = pool.Unmount(context.WithoutCancel(ctx)) }()
	d.Findings[len(d.Findings)-1].Detail = pool.Backend()
	if !pool.Enforced() {
		d.Findings[len(d.Findings)-1].Detail += ", quotas are not enforced by this kernel"
	}
	m, err := network.Open(ctx, netCfg)
	add("namespaces", err, "user and network namespaces can be made")
	if err != nil {
		return d, nil //nolint:nilerr // it is among the findings
	}
	defer func() { _ = m.Teardown(context.WithoutCancel(ctx)) }()
	for _, runtime := range []string{"runc", "crun", "runsc"} {
		driver, err := oci.New(ctx, oci.Config{
			Instance: instance, StateDir: filepath.Join(scratch, "state-"+runtime), RuntimeDir: filepath.Join(scratch, runtime), Runtime: runtime,
			AgentPath: filepath.Join(s.BinDir, "fc-agent"), Network: m, Volumes: pool, Logger: log,
		})
		if err != nil {
			add("runtime "+runtime, err, "")
			continue
		}
		info := driver.Info(ctx)
		info.Name = "oci (" + runtime + ")"
		d.Drivers = append(d.Drivers, info)
		if err := errors.Join(driver.Teardown(context.WithoutCancel(ctx)), driver.Close()); err != nil {
			add("runtime "+runtime+", cleaning up", err, "")
		}
	}
	return d, nil
}
