// Package node is what a process is told that has VMs: the part of the settings
// that gateways do without, and without the drivers that it is about.
package node

import (
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/config"
	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/logging"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/blob"
	"github.com/aetherium/aetherium/services/core/pkg/settings"
	"github.com/aetherium/aetherium/services/core/pkg/tools"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/firecracker"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/oci"
)

// Host is what a process is told that has VMs on its host.
type Host struct {
	RuntimeDir string   `yaml:"runtime_dir" doc:"Where sockets and namespaces are kept; emptied by a reboot. Default: /run/aetherium-<instance>."`
	BinDir     string   `yaml:"bin_dir" doc:"Where fc-agent and aetherium-netd are. Default: beside this program."`
	Pool       Pool     `yaml:"pool"`
	Drivers    []string `yaml:"drivers" doc:"Drivers that VMs can be made with: oci, firecracker, qemu, docker; auto: all that can be opened on this host. VMs of one that is left out are given up."`
	OCI        OCI      `yaml:"oci"`
	Docker     Docker   `yaml:"docker"`
	MicroVM    MicroVM  `yaml:"microvm"`
	// Firecracker is what only that driver of the two has.
	Firecracker Firecracker     `yaml:"firecracker"`
	Network     Network         `yaml:"network"`
	Disk        Disk            `yaml:"disk"`
	Base        Base            `yaml:"base"`
	Images      Images          `yaml:"images"`
	Tools       Tools           `yaml:"tools"`
	Storage     Storage         `yaml:"storage"`
	UsageEvery  config.Duration `yaml:"usage_every" doc:"Between samples of what each VM uses; each is a row, and a point of a sandbox's metrics."`
}

// Storage is where workers have templates' files, snapshots' disks and output of ended
// executions from that are another's.
type Storage struct {
	URL       string         `yaml:"url" doc:"Where templates, snapshots' disks and the output of ended executions are kept for all workers: file:///absolute/directory that they share, or s3://bucket/prefix. Default: each is on the worker that it came to be on alone."`
	Endpoint  string         `yaml:"endpoint" doc:"Of s3://: address of the object storage, such as https://s3.eu-central-1.amazonaws.com."`
	Region    string         `yaml:"region" doc:"Of s3://: region of the bucket; default: us-east-1."`
	AccessKey string         `yaml:"access_key" doc:"Of s3://: name of the key; without one, requests are not signed."`
	SecretKey logging.Secret `yaml:"secret_key" doc:"Of s3://: the key; it belongs into the variable rather than into a configuration file."`
	CAFile    string         `yaml:"ca_file" doc:"Of s3://: certificates (PEM) that the storage's must be signed by; default: the host's."`
	// OutputEvery is about what the storage is for, not where it is.
	OutputEvery config.Duration `yaml:"output_every" doc:"How often the output of what has ended is stored: what ends meanwhile is one object for each project. So much of it is lost with a host."`
}

// StorageKeyVariable is the environment variable of Storage.SecretKey.
const StorageKeyVariable = settings.Prefix + "_STORAGE_SECRET_KEY"

// Open opens what is set, apart from what other installations may have there;
// nil: nothing is set. Returns InvalidArgument, Unavailable.
func (s Storage) Open(installation string) (blob.Store, error) {
	u, err := s.parse()
	switch {
	case err != nil || u == nil:
		return nil, err
	case u.Scheme == "s3":
		return s.object(u, installation)
	}
	d, err := blob.OpenDir(filepath.Join(u.Path, installation))
	if err != nil {
		return nil, err // and not a nil *blob.Dir
	}
	return d, nil
}

// parse gives the address; nil: there is none.
func (s Storage) parse() (*url.URL, error) {
	u, err := url.Parse(s.URL)
	usable := err == nil && u.User == nil && u.RawQuery == "" && u.Fragment == "" &&
		(s.URL == "" || u.Scheme == "file" && u.Host == "" && filepath.IsAbs(u.Path) || u.Scheme == "s3" && u.Host != "")
	if !usable {
		return nil, errors.New(errors.InvalidArgument, "storage.url is no storage").WithField("storage.url").
			WithHint("file:///absolute/directory, or s3://bucket/prefix")
	}
	if u.Scheme != "s3" && (s != Storage{URL: s.URL, OutputEvery: s.OutputEvery}) {
		return nil, errors.New(errors.InvalidArgument, "settings of object storage are given, and none is used").WithField("storage.url").
			WithHint("set it to s3://bucket/prefix, or leave the others out")
	}
	if s.URL == "" {
		return nil, nil
	}
	return u, nil
}

func (s Storage) object(u *url.URL, installation string) (blob.Store, error) {
	c := blob.S3Config{
		Endpoint: s.Endpoint, Region: s.Region, Bucket: u.Host, Prefix: path.Join(u.Path, installation), AccessKey: s.AccessKey, SecretKey: s.SecretKey,
	}
	if s.CAFile != "" {
		var err error
		if c.Roots, err = os.ReadFile(s.CAFile); err != nil {
			return nil, errors.Wrap(err, errors.InvalidArgument, "the certificates in storage.ca_file cannot be read").WithField("storage.ca_file").
				WithHint("a file of PEM")
		}
	}
	o, err := blob.OpenS3(c)
	if err != nil {
		return nil, err // and not a nil *blob.S3
	}
	return o, nil
}

// check asks for nothing but what is set.
func (s Storage) check() error {
	if every := time.Duration(s.OutputEvery); every < minOutputEvery || every > maxOutputEvery {
		return errors.New(errors.InvalidArgument, "output cannot be stored every %s", every).
			WithField("storage.output_every").WithHint("%s to %s", minOutputEvery, maxOutputEvery)
	}
	u, err := s.parse()
	if err == nil && u != nil && u.Scheme == "s3" {
		_, err = s.object(u, "installation")
	}
	return err
}

// Pool is the machines that wait ready for VMs to come.
type Pool struct {
	Size  int `yaml:"size" doc:"Machines kept ready of each kind (driver, build, resources, network); 0: none, every VM is made when it is asked for."`
	Kinds int `yaml:"kinds" doc:"How many kinds are kept ready, those used last."`
}

// OCI is the container driver's configuration.
type OCI struct {
	Runtime string `yaml:"runtime" doc:"OCI runtime: runc, crun, runsc or the path of one; auto: crun where it works, else runc."`
}

// Docker is where the docker driver finds its engine.
type Docker struct {
	Socket string `yaml:"socket" doc:"Unix socket of the Docker engine, which runs on this host."`
}

// MicroVM is what the drivers firecracker and qemu have in common.
type MicroVM struct {
	Kernel string `yaml:"kernel" doc:"Directory of the guests' kernel, as kernel install makes it. Default: kernel in the data directory."`
	// Booted and Standby are of each driver.
	Booted  Booted  `yaml:"booted"`
	Standby Standby `yaml:"standby"`
}

// Booted bounds the memories of booted machines that VMs go on from in place of a boot.
type Booted struct {
	Max  int          `yaml:"max" doc:"How many memories of booted machines are kept, one of each template, resources and network that were booted twice; VMs of that kind then go on from it; 0: none, every VM boots."`
	Size config.Bytes `yaml:"size" doc:"What they may take of the VMs' disk, all of a driver together; those used least recently go first."`
}

// Standby bounds the paused VMs that have a monitor already, for the time they are resumed.
type Standby struct {
	Max int             `yaml:"max" doc:"How many VMs that are paused by memory have a monitor already in which they go on, those paused last; each takes what a monitor takes without its VM's memory; 0: none."`
	For config.Duration `yaml:"for" doc:"How long after their pause."`
}

// Firecracker is the firecracker driver's configuration.
type Firecracker struct {
	Backend       string `yaml:"backend" doc:"How a VM that goes on from a saved memory gets it: file, mapped from the snapshot, or uffd, page by page from a process beside each VM, first those that earlier ones wanted."`
	FullSnapshots bool   `yaml:"full_snapshots" doc:"Write each memory whole. Otherwise what a VM writes is tracked, and where disks are reflinked, a memory shares with the one before what was not written since."`
	Disk          Rate   `yaml:"disk"`
	Network       Rate   `yaml:"network"`
}

// Rate bounds each device of a kind: a VM's disks, or each direction of its network.
type Rate struct {
	BytesPerSecond config.Bytes `yaml:"bytes_per_second" doc:"Bytes in a second of each disk, or of each direction of the network; 0: any. It counts from a VM's next start, or when it goes on from memory."`
	OpsPerSecond   int64        `yaml:"ops_per_second" doc:"Requests in a second of each disk, or packets of each direction of the network; 0: any."`
}

// Config is the part of the engine's configuration that is given here.
func (f Firecracker) Config() firecracker.Config {
	limit := func(r Rate) firecracker.Limit {
		return firecracker.Limit{BytesPerSecond: int64(r.BytesPerSecond), OpsPerSecond: r.OpsPerSecond}
	}
	return firecracker.Config{
		Backend: firecracker.Backend(f.Backend), FullSnapshots: f.FullSnapshots, Disk: limit(f.Disk), Network: limit(f.Network),
	}
}

// The least that devices can be bounded to: with less no VM would come to be ready.
const (
	minBytesPerSecond = 64 << 10
	minOpsPerSecond   = 10
)

func (f Firecracker) check() error {
	if b := firecracker.Backend(f.Backend); b != firecracker.File && b != firecracker.UFFD {
		return errors.New(errors.InvalidArgument, "%q is not a way to get a memory", f.Backend).WithField("firecracker.backend").
			WithHint("one of %s, %s", firecracker.File, firecracker.UFFD)
	}
	for _, r := range []struct {
		name string
		rate Rate
	}{{"disk", f.Disk}, {"network", f.Network}} {
		if v := r.rate.BytesPerSecond; v != 0 && v < minBytesPerSecond {
			return errors.New(errors.InvalidArgument, "%d bytes in a second are too few", v).
				WithField("firecracker." + r.name + ".bytes_per_second").WithHint("64KiB or more; 0: any")
		}
		if v := r.rate.OpsPerSecond; v != 0 && v < minOpsPerSecond {
			return errors.New(errors.InvalidArgument, "%d in a second are too few", v).
				WithField("firecracker."+r.name+".ops_per_second").WithHint("%d or more; 0: any", minOpsPerSecond)
		}
	}
	return nil
}

// Network is what VMs with network nat get.
type Network struct {
	Subnet    string   `yaml:"subnet" doc:"Where the VMs' subnet is chosen from; default 10.128.0.0/9."`
	Allow     []string `yaml:"allow" doc:"Networks that VMs may reach although they are private."`
	Resolvers []string `yaml:"resolvers" doc:"DNS servers (address:port) asked for VMs; default: the host's."`
	CAFile    string   `yaml:"ca_file" doc:"Certificates (PEM) by which the hosts of bound secrets are trusted, beside those of this host."`
	Pool      int      `yaml:"pool" doc:"Network namespaces kept ready of each kind; 0: the default, negative: none."`
}

// Disk is where VMs' writable layers live.
type Disk struct {
	Size config.Bytes `yaml:"size" doc:"Size of the file for VM data where the data directory's file system cannot enforce quotas. It is reserved whole, so that VMs do not suffer when the disk fills up otherwise; 0: most of what is free, in a sparse file; while the disk is full, VMs are then refused more, and no new ones are made."`
}

// Images says where templates' images come from.
type Images struct {
	Registries []string `yaml:"registries" doc:"Registries (host or host:port) that every project may have images from with this host's credentials (docker login), and at private addresses. Others are asked by builds of administrators alone in that way, and by all else without credentials and at public addresses only."`
}

// Base says what the base template is made from.
type Base struct {
	Image string `yaml:"image" doc:"OCI reference to make base from, instead of Debian packages."`
	Skip  bool   `yaml:"skip" doc:"Do not make the base template at the first start."`
}

// Tools says which programs VMs are given beside their template, and where
// those come from. They are installed by mise in machines of their own.
type Tools struct {
	Default  []string        `yaml:"default" doc:"Tools that every VM gets, such as git,node@22,bun,claude-code. One that cannot be had keeps VMs from being made."`
	Mise     string          `yaml:"mise" doc:"What installs tools: a version of npm's package @jdxcode/mise, or the absolute path of the program mise on this host."`
	Registry string          `yaml:"registry" doc:"npm registry that mise and npm packages come from."`
	CAFile   string          `yaml:"ca_file" doc:"Certificates (PEM) that installations trust; default: those of this host. none: their own."`
	Env      []string        `yaml:"env" doc:"Environment of installations, as NAME=value: proxies, registries, keys for them. VMs do not get it."`
	Template string          `yaml:"template" doc:"Template that tools are installed on: one of the first project's, or a public one."`
	Timeout  config.Duration `yaml:"timeout" doc:"The longest time that an installation may take."`
	MaxSize  config.Bytes    `yaml:"max_size" doc:"How large one tool may be."`
	MaxCache config.Bytes    `yaml:"max_cache" doc:"How large all tools may be together; beyond that those go that no VM has, what was not used for longest first. 0: any."`
	Remember config.Duration `yaml:"remember" doc:"How long the version that node@22 was found to mean counts; then a newer one is looked for, beside the VMs."`
}

// DefaultHost is for this host.
func DefaultHost() Host {
	return Host{
		Pool:        Pool{Size: 3, Kinds: 2},
		UsageEvery:  config.Duration(15 * time.Second),
		Storage:     Storage{OutputEvery: config.Duration(time.Minute)},
		Drivers:     []string{domain.DriverAuto},
		OCI:         OCI{Runtime: oci.RuntimeAuto},
		Docker:      Docker{Socket: "/var/run/docker.sock"},
		MicroVM:     MicroVM{Booted: Booted{Max: 8, Size: 2 << 30}, Standby: Standby{Max: 2, For: config.Duration(10 * time.Minute)}},
		Firecracker: Firecracker{Backend: string(firecracker.File)},
		Tools: Tools{
			Mise: tools.DefaultMise, Registry: tools.DefaultRegistry, Template: "base",
			Timeout: config.Duration(15 * time.Minute), MaxSize: 4 << 30, MaxCache: 20 << 30, Remember: config.Duration(24 * time.Hour),
		},
	}
}

// The bounds on the time between two looks for output to be stored.
const minOutputEvery, maxOutputEvery = time.Second, 24 * time.Hour

// The bounds on the time between samples of usage.
const minUsageEvery, maxUsageEvery = 5 * time.Second, time.Hour

// maxPool bounds the pool's size and kinds, the memories of booted machines, and the
// monitors that stand by.
const maxPool = 1000

// maxStandby bounds how long those do.
const maxStandby = 24 * time.Hour

// Check finds where the other programs are. ask is the driver of VMs that name
// none. Returns InvalidArgument.
func (s *Host) Check(ask string) error {
	if err := s.checkDrivers(ask); err != nil {
		return err
	}
	for name, v := range map[string]int{"size": s.Pool.Size, "kinds": s.Pool.Kinds} {
		if v < 0 || v > maxPool {
			return errors.New(errors.InvalidArgument, "a pool %s of %d is out of range", name, v).
				WithField("pool."+name).WithHint("0 to %d", maxPool)
		}
	}
	if every := time.Duration(s.UsageEvery); every < minUsageEvery || every > maxUsageEvery {
		return errors.New(errors.InvalidArgument, "%s between samples of usage is out of range", every).
			WithField("usage_every").WithHint("%s to %s", minUsageEvery, maxUsageEvery)
	}
	if err := s.Firecracker.check(); err != nil {
		return err
	}
	if err := s.Tools.check(); err != nil {
		return err
	}
	if err := s.Storage.check(); err != nil {
		return err
	}
	if s.BinDir == "" {
		exe, err := os.Executable()
		if err != nil {
			return errors.Wrap(err, errors.Internal, "this program's directory is not known").WithField("bin_dir")
		}
		s.BinDir = filepath.Dir(exe)
	}
	return nil
}

func (s Host) checkDrivers(ask string) error {
	known := append([]string{domain.DriverAuto}, domain.Drivers()...)
	hint := "one of " + strings.Join(known, ", ")
	for _, name := range s.Drivers {
		if !slices.Contains(known, name) {
			return errors.New(errors.InvalidArgument, "there is no driver %q", name).WithField("drivers").WithHint("%s", hint)
		}
	}
	switch {
	case len(s.Drivers) == 0:
		return errors.New(errors.InvalidArgument, "there must be a driver").WithField("drivers").WithHint("%s", hint)
	case !s.Wants(ask) && ask != domain.DriverAuto:
		return errors.New(errors.InvalidArgument, "the driver %s is not among the drivers", ask).WithField("vm.driver").
			WithHint("add it to drivers")
	case s.MicroVM.Kernel != "" && !filepath.IsAbs(s.MicroVM.Kernel):
		return errors.New(errors.InvalidArgument, "the kernel's directory must be an absolute path").WithField("microvm.kernel")
	case s.MicroVM.Booted.Max < 0 || s.MicroVM.Booted.Max > maxPool:
		return errors.New(errors.InvalidArgument, "%d kept memories are out of range", s.MicroVM.Booted.Max).
			WithField("microvm.booted.max").WithHint("0 to %d", maxPool)
	case s.MicroVM.Booted.Size < 0:
		return errors.New(errors.InvalidArgument, "kept memories cannot take %d bytes", s.MicroVM.Booted.Size).WithField("microvm.booted.size")
	case s.MicroVM.Standby.Max < 0 || s.MicroVM.Standby.Max > maxPool:
		return errors.New(errors.InvalidArgument, "%d monitors of paused VMs are out of range", s.MicroVM.Standby.Max).
			WithField("microvm.standby.max").WithHint("0 to %d", maxPool)
	case s.MicroVM.Standby.For <= 0 || time.Duration(s.MicroVM.Standby.For) > maxStandby:
		return errors.New(errors.InvalidArgument, "a monitor cannot stand by for %s", time.Duration(s.MicroVM.Standby.For)).
			WithField("microvm.standby.for").WithHint("more than 0, up to %s; microvm.standby.max: 0 turns it off", maxStandby)
	case !filepath.IsAbs(s.Docker.Socket):
		return errors.New(errors.InvalidArgument, "the Docker engine's socket must be an absolute path").WithField("docker.socket")
	}
	return nil
}

// KernelDir is where the kernel of VMs that have one of their own is, by default
// in the data directory.
func (s Host) KernelDir(data string) string {
	if s.MicroVM.Kernel != "" {
		return s.MicroVM.Kernel
	}
	return filepath.Join(data, "kernel")
}

// Wants reports whether VMs may be made with a driver.
func (s Host) Wants(driver string) bool {
	return slices.Contains(s.Drivers, driver) || slices.Contains(s.Drivers, domain.DriverAuto)
}

func (t Tools) check() error {
	if err := domain.ValidateTools("tools.default", t.Default); err != nil {
		return err
	}
	if err := domain.ValidateTemplateRef("tools.template", t.Template); err != nil {
		return err
	}
	if u, err := url.Parse(t.Registry); err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
		return errors.New(errors.InvalidArgument, "%q is not a registry's address", t.Registry).WithField("tools.registry").
			WithHint("such as %s", tools.DefaultRegistry)
	}
	if t.Timeout <= 0 || t.MaxSize <= 0 || t.MaxCache < 0 || t.Remember < 0 {
		return errors.New(errors.InvalidArgument, "the bounds of installations must be more than nothing").WithField("tools")
	}
	_, err := t.Environment()
	return err
}

// Environment is Env by name. Returns InvalidArgument.
func (t Tools) Environment() (map[string]string, error) {
	env := make(map[string]string, len(t.Env))
	for _, text := range t.Env {
		name, value, ok := strings.Cut(text, "=")
		if !ok {
			return nil, errors.New(errors.InvalidArgument, "a variable has the form NAME=value").WithField("tools.env")
		}
		env[name] = value
	}
	return env, domain.ValidateEnv("tools.env", env)
}
