package app

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/seal"
	"github.com/aetherium/aetherium/libs/common/pkg/version"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/disk"
	"github.com/aetherium/aetherium/services/core/pkg/image"
	"github.com/aetherium/aetherium/services/core/pkg/journal"
	"github.com/aetherium/aetherium/services/core/pkg/network"
	"github.com/aetherium/aetherium/services/core/pkg/queue"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/volume"
	"github.com/aetherium/aetherium/services/core/pkg/watch"
	"github.com/aetherium/aetherium/services/core/pkg/worker"
	"github.com/aetherium/aetherium/services/standalone/internal/settings"
	goredis "github.com/redis/go-redis/v9"
)

// node is everything below the gateway: store, drivers, worker and service.
type node struct {
	settings settings.Settings
	log      *slog.Logger
	store    storage.Store
	redis    *goredis.Client // nil: jobs wait in memory
	queue    queue.Queue
	images   *image.Store
	journals *journal.Store
	network  *network.Manager
	disk     *disk.Pool
	drivers  opened
	worker   *worker.Worker
	service  *service.Service
	changes  *watch.Hub[domain.ID]

	sealer       seal.Sealer
	egressCert   []byte // PEM
	queueMetrics *queue.Metrics

	instance   string
	runtimeDir string
	closers    []closer // in the order they were opened
}

type closer struct {
	name string
	do   func() error
}

func (n *node) opened(name string, do func() error) { n.closers = append(n.closers, closer{name, do}) }

// open opens everything; on an error what was opened is closed again. One that
// does not serve takes no room for VMs' disks, and does without keys: whoever
// has lost them can still end what runs.
func open(ctx context.Context, s settings.Settings, log *slog.Logger, serves bool) (n *node, err error) {
	n = &node{settings: s, log: log, changes: new(watch.Hub[domain.ID]), queueMetrics: queue.NewMetrics()}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.close())
		}
	}()
	if err := os.MkdirAll(s.DataDir, 0o711); err != nil { //nolint:gosec // the mapped roots of VMs walk through it
		return n, errors.Wrap(err, errors.Internal, "the data directory %s cannot be made", s.DataDir)
	}
	if n.store, err = openStore(ctx, s, log); err != nil {
		return n, err
	}
	n.opened("store", n.store.Close)
	if err := n.openRedis(ctx, serves); err != nil {
		return n, err
	}
	if err := n.openKeys(ctx, serves); err != nil {
		return n, err
	}
	if n.journals, err = journal.OpenStore(filepath.Join(s.DataDir, "journals"), journal.Options{MaxBytes: int64(s.Keep.Journal)}); err != nil {
		return n, err
	}
	n.opened("journals", n.journals.Close)
	if n.images, err = image.Open(image.Config{Dir: filepath.Join(s.DataDir, "images"), Logger: log, BaseImage: s.Base.Image, Registries: s.Images.Registries}); err != nil {
		return n, err
	}
	n.opened("images", n.images.Close)
	if err := n.openDrivers(ctx, serves); err != nil {
		return n, err
	}
	return n, n.assemble(ctx, serves)
}

// openDrivers opens disk, network and the drivers on them.
func (n *node) openDrivers(ctx context.Context, serves bool) error {
	s := n.settings
	instance, err := instanceID(ctx, n.store)
	if err != nil {
		return err
	}
	// First, for it is what most often cannot be had, and nothing runs yet.
	if n.disk, err = disk.Open(ctx, disk.Config{Dir: s.DataDir, Size: int64(s.Disk.Size), Reserve: serves && s.Disk.Size > 0, Logger: n.log}); err != nil {
		return err
	}
	n.opened("disk", n.disk.Close)
	n.instance = instance
	n.log.Info("VM data", "backend", n.disk.Backend(), "quotas_enforced", n.disk.Enforced())
	n.runtimeDir = runtimeDir(s, instance)
	run := n.runtimeDir
	if err := openRuntimeDir(run); err != nil {
		return err
	}
	cfg := network.Config{
		Instance: instance, RuntimeDir: filepath.Join(run, "net"), NetdPath: filepath.Join(s.BinDir, "aetherium-netd"),
		EgressLogDir: filepath.Join(s.DataDir, "egress"), PoolNone: s.Network.Pool, PoolNAT: s.Network.Pool, Log: n.log,
	}
	if err := n.networkSettings(&cfg); err != nil {
		return err
	}
	cfg.EgressCA, err = n.egressCA(ctx, instance)
	switch {
	case err == nil:
		n.egressCert = cfg.EgressCA.Certificate
	case serves:
		return err
	}
	if n.network, err = network.Open(ctx, cfg); err != nil {
		return err
	}
	n.opened("network", n.network.Close)
	n.drivers, err = openAll(ctx, ground{
		settings: s, instance: instance, state: s.DataDir, run: run, network: n.network, disk: n.disk, log: n.log,
	})
	return err
}

func (n *node) networkSettings(cfg *network.Config) error {
	s := n.settings.Network
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

// assemble puts worker and service on what is open.
func (n *node) assemble(ctx context.Context, serves bool) error {
	s := n.settings
	room, err := capacity(ctx, n.disk)
	if err != nil {
		return err
	}
	builder := n.drivers.builder(s.VM.Driver)
	shed, err := toolsConfig(s, builder)
	if err != nil {
		return err
	}
	if err := n.openQueue(); err != nil {
		return err
	}
	n.worker = worker.New(worker.Config{
		Name: hostname(), Version: version.Version, Platform: platform(), Capacity: room, DataDir: s.DataDir,
		KeepTombstones: time.Duration(s.Keep.Tombstones), KeepTasks: time.Duration(s.Keep.Tasks), KeepEvents: time.Duration(s.Keep.Events),
		Pool: worker.PoolConfig{Size: s.Pool.Size, Kinds: s.Pool.Kinds}, Tools: shed, EgressCA: n.egressCert,
		Late: n.drivers.late, NoTrials: !serves,
	}, worker.Deps{
		Store: n.store, Drivers: n.drivers.drivers, Absent: n.drivers.absent, Images: n.images, Journals: n.journals, Volumes: volume.New(n.disk),
		Sealer: n.sealer, Queue: n.queue, Changes: n.changes, Log: n.log,
	})
	n.service = service.New(service.Config{
		DefaultTemplate: s.VM.Template, DefaultDriver: s.VM.Driver, BuildDriver: builder, DefaultNetwork: domain.NetworkMode(s.VM.Network),
		DefaultTools: s.Tools.Default,
		Defaults: domain.Resources{
			MilliCPU: s.VM.MilliCPU, MemoryBytes: int64(s.VM.Memory), DiskBytes: int64(s.VM.Disk), PIDs: s.VM.PIDs,
		},
		DefaultTimeout: time.Duration(s.VM.Timeout), MaxTimeout: time.Duration(s.VM.MaxTimeout), Platform: platform(),
		KeepTombstones: time.Duration(s.Keep.Tombstones),
		Overcommit:     service.Overcommit{CPU: s.Overcommit.CPU, Memory: s.Overcommit.Memory, Disk: s.Overcommit.Disk},
		Quota:          s.Quotas.Quota(),
	}, service.Deps{Store: n.store, Nodes: oneNode{n.worker}, Sealer: n.sealer, Changes: n.changes, Log: n.log})
	return nil
}

// close closes what open opened, last first.
func (n *node) close() error {
	var errs []error
	for i := len(n.closers) - 1; i >= 0; i-- {
		if err := n.closers[i].do(); err != nil {
			errs = append(errs, errors.Wrap(err, errors.Internal, "closing the %s", n.closers[i].name))
		}
	}
	n.closers = nil
	return errors.Join(errs...)
}

// oneNode is the fleet of a single process.
type oneNode struct{ worker *worker.Worker }

// Node implements service.Nodes.
func (o oneNode) Node(id domain.ID) (service.Node, error) {
	if id != o.worker.ID() {
		return nil, errors.New(errors.Unavailable, "the worker %s is not this one", id)
	}
	return o.worker, nil
}

// Here implements service.Nodes.
func (o oneNode) Here() service.Node { return o.worker }
