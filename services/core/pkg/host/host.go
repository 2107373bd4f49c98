// Package host is a worker with all that it stands on: disk, network, drivers,
// images and journals of the host that it runs on.
package host

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/version"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/depot"
	"github.com/aetherium/aetherium/services/core/pkg/disk"
	"github.com/aetherium/aetherium/services/core/pkg/image"
	"github.com/aetherium/aetherium/services/core/pkg/installation"
	"github.com/aetherium/aetherium/services/core/pkg/journal"
	"github.com/aetherium/aetherium/services/core/pkg/network"
	"github.com/aetherium/aetherium/services/core/pkg/queue"
	"github.com/aetherium/aetherium/services/core/pkg/settings"
	"github.com/aetherium/aetherium/services/core/pkg/settings/node"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/tracing"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/volume"
	"github.com/aetherium/aetherium/services/core/pkg/watch"
	"github.com/aetherium/aetherium/services/core/pkg/worker"
)

// Settings are those of the process and of its host.
type Settings struct {
	settings.Common
	node.Host
}

// KernelDir is where the kernel of VMs that have one of their own is.
func (s Settings) KernelDir() string { return s.Host.KernelDir(s.DataDir) }

// Options of a host.
type Options struct {
	Instance string    // names what is made on the host; twelve characters
	Worker   domain.ID // its row; empty: the one with its name
	Name     string    // empty: the row's, or the host's
	Address  string    // at which gateways reach it; empty: the row's, or the worker is in their process
	Queue    string    // where its jobs wait in Redis, if there is one
	Serves   bool      // see [installation.Options]
	Changes  watch.Changes[domain.ID]
	Tracing  *tracing.Tracing // nil: no spans
	Logger   *slog.Logger
}

// Host is what is open.
type Host struct {
	Images   *image.Store
	Disk     *disk.Pool
	Worker   *worker.Worker
	Queue    queue.Queue
	Metrics  *queue.Metrics
	Builder  string // driver of machines that templates are built in
	settings Settings
	options  Options
	in       *installation.Installation
	log      *slog.Logger

	depot      worker.Depot // nil: there is none
	stored     worker.OutputStore
	journals   *journal.Store
	fetched    *journal.Store // nil without stored
	network    *network.Manager
	drivers    opened
	egressCert []byte // PEM
	runtimeDir string
	closers    []closer // in the order they were opened
}

type closer struct {
	name string
	do   func() error
}

func (h *Host) opened(name string, do func() error) {
	h.closers = append(h.closers, closer{name, do})
}

// Open opens everything; on an error what was opened is closed again. One that
// does not serve takes no room for VMs' disks.
func Open(ctx context.Context, s Settings, in *installation.Installation, o Options) (h *Host, err error) {
	h = &Host{settings: s, options: o, in: in, log: o.Logger, Metrics: queue.NewMetrics()}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.Close())
		}
	}()
	if h.journals, err = journal.OpenStore(filepath.Join(s.DataDir, "journals"), journal.Options{MaxBytes: int64(s.Keep.Journal)}); err != nil {
		return h, err
	}
	h.opened("journals", h.journals.Close)
	if h.Images, err = image.Open(image.Config{Dir: filepath.Join(s.DataDir, "images"), Logger: h.log, BaseImage: s.Base.Image, Registries: s.Images.Registries}); err != nil {
		return h, err
	}
	h.opened("images", h.Images.Close)
	if err := h.openStorage(); err != nil {
		return h, err
	}
	if err := h.openDrivers(ctx); err != nil {
		return h, err
	}
	return h, h.assemble(ctx)
}

// openStorage opens what workers share, if there is something.
func (h *Host) openStorage() error {
	s := h.settings
	blobs, err := s.Storage.Open(h.in.ID)
	if err != nil || blobs == nil {
		return err
	}
	h.depot = depot.New(blobs, h.Images, s.DataDir)
	output, err := s.Storage.Open(domain.OutputStorage(h.in.ID))
	if err != nil {
		return err
	}
	h.stored = depot.NewOutput(output, s.DataDir)
	// What was fetched is looked for by nobody after a restart; the journals' lock
	// keeps other processes out of here.
	dir := filepath.Join(s.DataDir, "fetched")
	if err := os.RemoveAll(dir); err != nil {
		return errors.Wrap(err, errors.Internal, "output that was fetched before cannot be removed")
	}
	if h.fetched, err = journal.OpenStore(dir, journal.Options{MaxBytes: worker.MaxFetchedJournal}); err != nil {
		return err
	}
	h.opened("fetched output", h.fetched.Close)
	h.log.Info("templates, snapshots and output are kept for all workers", "storage", blobs.Name())
	return nil
}

// openDrivers opens disk, network and the drivers on them.
func (h *Host) openDrivers(ctx context.Context) (err error) {
	s, serves, instance := h.settings, h.options.Serves, h.options.Instance
	// First, for it is what most often cannot be had, and nothing runs yet.
	if h.Disk, err = disk.Open(ctx, disk.Config{Dir: s.DataDir, Size: int64(s.Disk.Size), Reserve: serves && s.Disk.Size > 0, Logger: h.log}); err != nil {
		return err
	}
	h.opened("disk", h.Disk.Close)
	h.log.Info("VM data", "backend", h.Disk.Backend(), "quotas_enforced", h.Disk.Enforced())
	h.runtimeDir = runtimeDir(s, instance)
	if err := openRuntimeDir(h.runtimeDir); err != nil {
		return err
	}
	cfg := network.Config{
		Instance: instance, RuntimeDir: filepath.Join(h.runtimeDir, "net"), NetdPath: filepath.Join(s.BinDir, "aetherium-netd"),
		EgressLogDir: filepath.Join(s.DataDir, "egress"), PoolNone: s.Network.Pool, PoolNAT: s.Network.Pool, Log: h.log,
	}
	if err := h.networkSettings(&cfg); err != nil {
		return err
	}
	cfg.EgressCA, err = egressCA(ctx, h.in)
	switch {
	case err == nil:
		h.egressCert = cfg.EgressCA.Certificate
	case serves:
		return err
	}
	if h.network, err = network.Open(ctx, cfg); err != nil {
		return err
	}
	h.opened("network", h.network.Close)
	h.drivers, err = openAll(ctx, ground{
		settings: s, instance: instance, state: s.DataDir, run: h.runtimeDir, network: h.network, disk: h.Disk, log: h.log,
	})
	return err
}

func (h *Host) networkSettings(cfg *network.Config) error {
	s := h.settings.Network
	if s.Subnet != "" {
		p, err := netip.ParsePrefix(s.Subnet)
		if err != nil {
			return errors.Wrap(err, errors.InvalidArgument, "%q is not a network", s.Subnet).WithField("network.subnet")
		}
		cfg.Subnets = []netip.Prefix{p}
	}
	for _, text := range s.Allow {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return errors.Wrap(err, errors.InvalidArgument, "%q is not a network", text).WithField("network.allow")
		}
		cfg.AllowCIDRs = append(cfg.AllowCIDRs, p)
	}
	for _, text := range s.Resolvers {
		a, err := netip.ParseAddrPort(text)
		if err != nil {
			return errors.Wrap(err, errors.InvalidArgument, "%q is not an address with a port", text).WithField("network.resolvers")
		}
		cfg.Resolvers = append(cfg.Resolvers, a)
	}
	if s.CAFile != "" {
		var err error
		if cfg.EgressRoots, err = os.ReadFile(s.CAFile); err != nil {
			return errors.Wrap(err, errors.InvalidArgument, "the certificates in network.ca_file cannot be read").WithField("network.ca_file")
		}
	}
	return nil
}

// assemble puts the worker on what is open.
func (h *Host) assemble(ctx context.Context) error {
	s := h.settings
	room, err := capacity(ctx, h.Disk)
	if err != nil {
		return err
	}
	h.Builder = h.drivers.builder(s.VM.Driver)
	shed, err := toolsConfig(s, h.Builder)
	if err != nil {
		return err
	}
	if err := h.openQueue(); err != nil {
		return err
	}
	name := h.options.Name
	if name == "" && h.options.Worker == "" {
		name = Name()
	}
	h.Worker = worker.New(worker.Config{
		ID: h.options.Worker, Name: name, Address: h.options.Address, Version: version.Version, Platform: settings.Platform(), Capacity: room, DataDir: s.DataDir,
		KeepTombstones: time.Duration(s.Keep.Tombstones), KeepTasks: time.Duration(s.Keep.Tasks), KeepEvents: time.Duration(s.Keep.Events), KeepUsage: time.Duration(s.Keep.Usage), KeepArchives: time.Duration(s.Keep.Archives),
		UsageEvery: time.Duration(s.UsageEvery), StoreOutputEvery: time.Duration(s.Storage.OutputEvery),
		Pool: worker.PoolConfig{Size: s.Pool.Size, Kinds: s.Pool.Kinds}, Tools: shed, EgressCA: h.egressCert,
		Late: h.drivers.late, NoTrials: !h.options.Serves,
	}, worker.Deps{
		Store: h.in.Store, Drivers: h.drivers.drivers, Absent: h.drivers.absent, Images: h.Images, Depot: h.depot, Journals: h.journals, Stored: h.stored, Fetched: h.fetched, Volumes: volume.New(h.Disk),
		Sealer: h.in.Sealer, Queue: h.Queue, Changes: h.options.Changes, Tracing: h.options.Tracing, Now: h.in.Now, Log: h.log,
	})
	return nil
}

// Close closes what Open opened, last first.
func (h *Host) Close() error {
	var errs []error
	for i := len(h.closers) - 1; i >= 0; i-- {
		if err := h.closers[i].do(); err != nil {
			errs = append(errs, errors.Wrap(err, errors.Internal, "closing the %s", h.closers[i].name))
		}
	}
	h.closers = nil
	return errors.Join(errs...)
}

// Down ends every VM that runs, and removes everything of this host but the
// data directory. It closes the host.
func (h *Host) Down(ctx context.Context) error {
	if removed, err := h.removed(ctx); err != nil {
		return err
	} else if removed {
		if err := h.Worker.Abandon(ctx); err != nil {
			return err
		}
		return h.teardown(ctx)
	}
	if err := h.Worker.Start(ctx); err != nil {
		return err
	}
	if err := h.Worker.Drain(ctx, "shutdown"); err != nil {
		return errors.Join(err, h.Worker.Stop(ctx))
	}
	return h.teardown(ctx)
}

// removed reports whether the worker was one of the installation, and is no more.
func (h *Host) removed(ctx context.Context) (bool, error) {
	if h.options.Worker == "" {
		return false, nil
	}
	err := h.in.Store.View(ctx, func(tx storage.Tx) error {
		_, err := storage.Member(ctx, tx, h.options.Worker)
		return err
	})
	if errors.HasCode(err, errors.NotFound) {
		return true, nil
	}
	return false, err
}

// teardown removes everything from the host but the data directory. The order
// is that in which one thing stands on another.
func (h *Host) teardown(ctx context.Context) error {
	var err error
	for _, d := range h.drivers.drivers {
		if t, ok := d.(vmm.Teardowner); ok {
			err = errors.Join(err, t.Teardown(ctx))
		}
	}
	if err := errors.Join(err, h.Worker.Stop(ctx)); err != nil {
		return err
	}
	if err := h.network.Teardown(ctx); err != nil {
		return err
	}
	if err := h.Close(); err != nil {
		return err
	}
	if err := h.Disk.Unmount(ctx); err != nil {
		return err
	}
	return removeRuntimeDir(h.runtimeDir)
}
