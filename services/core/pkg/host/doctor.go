package host

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/version"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/disk"
	"github.com/aetherium/aetherium/services/core/pkg/network"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/oci"
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
// removes: a disk pool, namespaces, and machines of every driver that really run.
func Examine(ctx context.Context, s Settings, log *slog.Logger) (Doctor, error) {
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
	g := ground{settings: s, instance: instance, state: filepath.Join(scratch, "state"), run: scratch, network: m, disk: pool, log: log}
	infos, problems := examineDrivers(ctx, g)
	d.Drivers = append(d.Drivers, infos...)
	d.Findings = append(d.Findings, problems...)
	return d, nil
}

// examineWithin bounds the trials of all drivers together.
const examineWithin = 90 * time.Second

// examineDrivers tries out every driver, and oci with every runtime, all at once.
func examineDrivers(ctx context.Context, g ground) ([]domain.DriverInfo, []Finding) {
	ctx, cancel := context.WithTimeout(ctx, examineWithin)
	defer cancel()
	// What must be tried one after the other: the runtimes are one driver's.
	type trial struct {
		title  string
		ground ground
		info   domain.DriverInfo
		left   error
	}
	var rows [][]*trial
	var all sync.WaitGroup
	for _, op := range openers() {
		row := []*trial{{title: op.name, ground: g}}
		if op.name == oci.Name {
			row = nil
			for _, runtime := range []string{"runc", "crun", "runsc"} {
				own := g
				own.settings.OCI.Runtime = runtime
				own.state, own.run = filepath.Join(g.state, runtime), filepath.Join(g.run, runtime)
				row = append(row, &trial{title: op.name + " (" + runtime + ")", ground: own})
			}
		}
		rows = append(rows, row)
		all.Go(func() {
			for _, t := range row {
				t.info, t.left = op.try(ctx, t.ground)
				t.info.Name = t.title
			}
		})
	}
	all.Wait()
	var infos []domain.DriverInfo
	var found []Finding
	for _, t := range slices.Concat(rows...) {
		infos = append(infos, t.info)
		if t.left != nil {
			found = append(found, Finding{What: "driver " + t.title + ", cleaning up", Detail: t.left.Error()})
		}
	}
	return infos, found
}

// try opens a driver, has it prove itself, and removes what it made. The error
// is about the removal.
func (op opener) try(ctx context.Context, g ground) (domain.DriverInfo, error) {
	for _, dir := range []string{g.state, g.run} {
		if err := os.MkdirAll(dir, 0o711); err != nil { //nolint:gosec // the mapped root of the trial walks through it
			return op.without(err), nil
		}
	}
	d, err := op.open(ctx, g)
	if err != nil {
		return op.without(err), nil
	}
	info := d.Info(ctx)
	after := context.WithoutCancel(ctx)
	if t, ok := d.(vmm.Teardowner); ok {
		err = t.Teardown(after)
	}
	if c, ok := d.(vmm.Closer); ok {
		err = errors.Join(err, c.Close())
	}
	return info, err
}
