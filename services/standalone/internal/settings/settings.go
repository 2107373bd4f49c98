// Package settings is the configuration of the single-process installation.
package settings

import (
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/config"
	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/logging"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/redis"
	"github.com/aetherium/aetherium/services/core/pkg/storage/postgres"
	"github.com/aetherium/aetherium/services/core/pkg/tools"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/firecracker"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/oci"
	"github.com/aetherium/aetherium/services/gateway/pkg/limit"
)

// Settings are read from one YAML file and AETHERIUM_* variables.
type Settings struct {
	DataDir string `yaml:"data_dir" doc:"Where everything durable is kept: database, templates, disks, journals, keys."`
	// Database is a secret, as URLs have passwords.
	Database logging.Secret `yaml:"database" doc:"Where rows are kept: a file (SQLite), or postgres://user:password@host:5432/name (PostgreSQL, docs/DATABASE.md). Default: aetherium.db in the data directory."`
	// Queue is a secret for the same reason.
	Queue      logging.Secret `yaml:"queue" doc:"Where jobs wait: redis://user:password@host:6379/0, rediss:// (TLS) or unix:// (Redis, docs/QUEUE.md). Default: in memory."`
	RuntimeDir string         `yaml:"runtime_dir" doc:"Where sockets and namespaces are kept; emptied by a reboot. Default: /run/aetherium-<instance>."`
	BinDir     string         `yaml:"bin_dir" doc:"Where fc-agent and aetherium-netd are. Default: beside this program."`
	Listen     Listen         `yaml:"listen"`
	TLS        TLS            `yaml:"tls"`
	Names      Names          `yaml:"names"`
	Log        Log            `yaml:"log"`
	VM         VM             `yaml:"vm"`
	Pool       Pool           `yaml:"pool"`
	Overcommit Over           `yaml:"overcommit"`
	Drivers    []string       `yaml:"drivers" doc:"Drivers that VMs can be made with: oci, firecracker, qemu, docker; auto: all that can be opened on this host. VMs of one that is left out are given up."`
	OCI        OCI            `yaml:"oci"`
	Docker     Docker         `yaml:"docker"`
	MicroVM    MicroVM        `yaml:"microvm"`
	// Firecracker is what only that driver of the two has.
	Firecracker Firecracker `yaml:"firecracker"`
	Network     Network     `yaml:"network"`
	Disk        Disk        `yaml:"disk"`
	Base        Base        `yaml:"base"`
	Images      Images      `yaml:"images"`
	Tools       Tools       `yaml:"tools"`
	Keep        Keep        `yaml:"keep"`
	Quotas      Quotas      `yaml:"quotas"`
	Limits      Limits      `yaml:"limits"`
	Auth        Auth        `yaml:"auth"`
	Audit       Audit       `yaml:"audit"`
	Seal        Seal        `yaml:"seal"`
}

// Listen says where the API answers.
type Listen struct {
	Address       string   `yaml:"address" doc:"Address and port of the API. Anything but loopback lets others in: the key is then all that protects it."`
	PreviewDomain string   `yaml:"preview_domain" doc:"Previews answer at <port>-<vm>.<domain>."`
	Hosts         []string `yaml:"hosts" doc:"Further host names that the API answers to."`
	// TrustedProxies and Origins are nobody by default.
	TrustedProxies []string `yaml:"trusted_proxies" doc:"Networks or addresses of proxies in front, whose X-Forwarded-For tells who asks; without them a proxy and all behind it are one client."`
	Origins        []string `yaml:"origins" doc:"Web origins (https://host) whose pages may call the API and open streams."`
}

// Proxies are the trusted proxies. Returns InvalidArgument.
func (l Listen) Proxies() ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, text := range l.TrustedProxies {
		if a, err := netip.ParseAddr(text); err == nil {
			out = append(out, netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()))
			continue
		}
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, errors.Wrap(err, errors.InvalidArgument, "%q is not an address or a network", text).WithField("listen.trusted_proxies").
				WithHint("such as 10.0.0.7 or 10.0.0.0/24")
		}
		out = append(out, p.Masked())
	}
	return out, nil
}

// Log says what is logged how.
type Log struct {
	Level  string `yaml:"level" doc:"debug, info, warn or error."`
	Format string `yaml:"format" doc:"auto, text or json."`
}

// VM is what a VM gets unless it asks otherwise.
type VM struct {
	Driver     string          `yaml:"driver" doc:"Driver of VMs that name none; auto: the first that can be used of oci, firecracker and qemu."`
	Template   string          `yaml:"template" doc:"Template of VMs that name none."`
	Network    string          `yaml:"network" doc:"nat or none."`
	MilliCPU   int64           `yaml:"milli_cpu" doc:"Thousandths of a core; default: all cores, at most 2000."`
	Memory     config.Bytes    `yaml:"memory" doc:"Memory limit."`
	Disk       config.Bytes    `yaml:"disk" doc:"How much a VM may write on top of its template."`
	PIDs       int64           `yaml:"pids" doc:"Processes and threads."`
	Timeout    config.Duration `yaml:"timeout" doc:"Time until a VM's deadline; 0: none."`
	MaxTimeout config.Duration `yaml:"max_timeout" doc:"The longest time a VM may ask for; 0: any."`
}

// Pool is the machines that wait ready for VMs to come.
type Pool struct {
	Size  int `yaml:"size" doc:"Machines kept ready of each kind (driver, build, resources, network); 0: none, every VM is made when it is asked for."`
	Kinds int `yaml:"kinds" doc:"How many kinds are kept ready, those used last."`
}

// Over is how many times the host's capacity may be promised; 0: without bound.
type Over struct {
	CPU    float64 `yaml:"cpu" doc:"How many times the cores may be promised; 0: any."`
	Memory float64 `yaml:"memory" doc:"How many times the memory may be promised; 0: any."`
	Disk   float64 `yaml:"disk" doc:"How many times the disk may be promised; 0: any."`
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
	// Booted is one of each driver's.
	Booted Booted `yaml:"booted"`
}

// Booted bounds the memories of booted machines that VMs go on from in place of a boot.
type Booted struct {
	Max  int          `yaml:"max" doc:"How many memories of booted machines are kept, one of each template, resources and network that were booted twice; VMs of that kind then go on from it; 0: none, every VM boots."`
	Size config.Bytes `yaml:"size" doc:"What they may take of the VMs' disk, all of a driver together; those used least recently go first."`
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

// Quotas are what each project may have and do, unless an administrator has
// given it a quota of its own; 0: without bound.
type Quotas struct {
	VMs              int64        `yaml:"vms" doc:"VMs of a project that are not deleted; 0: any, as for all others."`
	MilliCPU         int64        `yaml:"milli_cpu" doc:"Thousandths of a core of a project's VMs that run."`
	Memory           config.Bytes `yaml:"memory" doc:"Memory of a project's VMs that run."`
	Disk             config.Bytes `yaml:"disk" doc:"Disk of a project's VMs."`
	CreatesPerMinute int64        `yaml:"creates_per_minute" doc:"VMs that a project may make in a minute, forks included."`
	Snapshots        int64        `yaml:"snapshots" doc:"Snapshots of a project."`
	Templates        int64        `yaml:"templates" doc:"Templates of a project."`
	Uploads          config.Bytes `yaml:"uploads" doc:"Uploads of a project, in all; no project has one of its own."`
}

// Audit is the log of who changed what.
type Audit struct {
	Lenient bool `yaml:"lenient" doc:"Let changes go on that cannot be recorded, such as on a full disk. Otherwise they are refused."`
}

// Limits are how much callers may ask of the API. A rate of 0 is no limit.
type Limits struct {
	KeyRate      float64 `yaml:"key_rate" doc:"Requests in a second of a key, or of a user's keys together."`
	KeyBurst     int     `yaml:"key_burst" doc:"Requests at once of a key or user."`
	AddressRate  float64 `yaml:"address_rate" doc:"Requests in a second from an address (IPv6: a network of 64 bits); loopback is not limited."`
	AddressBurst int     `yaml:"address_burst" doc:"Requests at once from an address."`
	FailureRate  float64 `yaml:"failure_rate" doc:"Keys or tokens in a second from an address that are not valid; valid ones pass all the time."`
	FailureBurst int     `yaml:"failure_burst" doc:"Keys or tokens at once from an address that are not valid."`
	Streams      int     `yaml:"streams" doc:"Streams and WebSockets that a key or user has open at a time; 0: any."`
}

// Config is the limits as the gateway takes them.
func (l Limits) Config() limit.Config {
	return limit.Config{
		Key: limit.Rate{PerSecond: l.KeyRate, Burst: l.KeyBurst}, Address: limit.Rate{PerSecond: l.AddressRate, Burst: l.AddressBurst},
		Failures: limit.Rate{PerSecond: l.FailureRate, Burst: l.FailureBurst}, Streams: l.Streams,
	}
}

// Quota is the limits as the service takes them.
func (q Quotas) Quota() domain.Quota {
	return domain.Quota{
		VMs: q.VMs, MilliCPU: q.MilliCPU, MemoryBytes: int64(q.Memory), DiskBytes: int64(q.Disk),
		CreatesPerMinute: q.CreatesPerMinute, Snapshots: q.Snapshots, Templates: q.Templates,
	}
}

// Keep says how long what has ended is kept.
type Keep struct {
	Tombstones config.Duration `yaml:"tombstones" doc:"Ended VMs, executions and their output."`
	Tasks      config.Duration `yaml:"tasks" doc:"Ended tasks."`
	Events     config.Duration `yaml:"events" doc:"Events."`
	Audit      config.Duration `yaml:"audit" doc:"Records of who changed what; 0: for ever."`
	Journal    config.Bytes    `yaml:"journal" doc:"Output kept of each execution; the oldest goes first."`
}

// Seal says where the keys are that data at rest is under (docs/ENCRYPTION.md).
type Seal struct {
	KeyFile string         `yaml:"key_file" doc:"File of keys, 64 hexadecimal digits each, the newest first; default: seal.key in the data directory, made at the first start unless keys or kms are given."`
	Keys    logging.Secret `yaml:"keys" doc:"The keys themselves, as a file has them; they belong into the variable rather than into a configuration file."`
	KMS     KMS            `yaml:"kms"`
}

// KMS is a key management service that holds the keys.
type KMS struct {
	URL       string          `yaml:"url" doc:"Key management service: unix:///path/of/socket, https://host/path, or http:// with a loopback address."`
	Command   []string        `yaml:"command" doc:"Program and arguments that speak for a key management service, in the place of a URL."`
	TokenFile string          `yaml:"token_file" doc:"File of the token that the service is sent; not readable by others."`
	CAFile    string          `yaml:"ca_file" doc:"Certificates (PEM) that the service's must be signed by; default: the host's."`
	Timeout   config.Duration `yaml:"timeout" doc:"How long the service has for an answer; there are three attempts."`
}

// Prefix of the environment variables.
const Prefix = "AETHERIUM"

// Defaults for this host.
func Defaults() Settings {
	const week = config.Duration(7 * 24 * time.Hour)
	return Settings{
		DataDir: defaultDataDir(),
		Listen:  Listen{Address: "127.0.0.1:7300", PreviewDomain: "aeth.localhost"},
		TLS:     TLS{Address: TLSAuto},
		Log:     Log{Level: "info", Format: "auto"},
		VM: VM{
			Driver: "oci", Template: "base", Network: "nat",
			MilliCPU: min(2000, int64(runtime.NumCPU())*1000), Memory: 1 << 30, Disk: 10 << 30, PIDs: 4096,
		},
		Pool:        Pool{Size: 3, Kinds: 2},
		Overcommit:  Over{CPU: 0, Memory: 4, Disk: 16},
		Drivers:     []string{domain.DriverAuto},
		OCI:         OCI{Runtime: oci.RuntimeAuto},
		Docker:      Docker{Socket: "/var/run/docker.sock"},
		MicroVM:     MicroVM{Booted: Booted{Max: 8, Size: 2 << 30}},
		Firecracker: Firecracker{Backend: string(firecracker.File)},
		Tools: Tools{
			Mise: tools.DefaultMise, Registry: tools.DefaultRegistry, Template: "base",
			Timeout: config.Duration(15 * time.Minute), MaxSize: 4 << 30, MaxCache: 20 << 30, Remember: config.Duration(24 * time.Hour),
		},
		Auth: defaultAuth(),
		Keep: Keep{Tombstones: week, Tasks: week, Events: week, Audit: config.Duration(90 * 24 * time.Hour), Journal: 64 << 20},
		// Far above what an agent's loop of commands asks for, and below what would
		// keep others waiting.
		Limits: Limits{
			KeyRate: 500, KeyBurst: 2000, AddressRate: 1000, AddressBurst: 4000, FailureRate: 1, FailureBurst: 30, Streams: 1024,
		},
		Seal: Seal{KMS: KMS{Timeout: config.Duration(5 * time.Second)}},
	}
}

func defaultDataDir() string {
	if os.Geteuid() == 0 {
		return "/var/lib/aetherium"
	}
	if home, err := os.UserHomeDir(); err == nil {
		return filepath.Join(home, ".local/share/aetherium")
	}
	return ".aetherium"
}

// Load reads a file (none where path is empty) and the environment.
// Returns InvalidArgument, NotFound.
func Load(path string, environ []string) (Settings, error) {
	s := Defaults()
	if err := config.Load(&s, path, Prefix, environ); err != nil {
		return s, err
	}
	return s, s.check()
}

// maxPool bounds the pool's size and kinds, and the memories of booted machines.
const maxPool = 1000

var domainForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$`)

func (s *Settings) check() error {
	abs, err := filepath.Abs(s.DataDir)
	if err != nil {
		return errors.Wrap(err, errors.InvalidArgument, "data_dir cannot be resolved").WithField("data_dir")
	}
	s.DataDir = abs
	if err := s.checkDatabase(); err != nil {
		return err
	}
	if err := s.checkQueue(); err != nil {
		return err
	}
	if _, _, err := net.SplitHostPort(s.Listen.Address); err != nil {
		return errors.Wrap(err, errors.InvalidArgument, "%q is not an address with a port", s.Listen.Address).
			WithField("listen.address").WithHint("such as 127.0.0.1:7300")
	}
	if !domainForm.MatchString(s.Listen.PreviewDomain) || len(s.Listen.PreviewDomain) > 200 {
		return errors.New(errors.InvalidArgument, "%q is not a domain", s.Listen.PreviewDomain).WithField("listen.preview_domain")
	}
	if err := s.TLS.check(); err != nil {
		return err
	}
	if err := s.checkNames(); err != nil {
		return err
	}
	if err := s.checkDrivers(); err != nil {
		return err
	}
	for name, v := range map[string]int{"size": s.Pool.Size, "kinds": s.Pool.Kinds} {
		if v < 0 || v > maxPool {
			return errors.New(errors.InvalidArgument, "a pool %s of %d is out of range", name, v).
				WithField("pool."+name).WithHint("0 to %d", maxPool)
		}
	}
	for name, v := range map[string]float64{"cpu": s.Overcommit.CPU, "memory": s.Overcommit.Memory, "disk": s.Overcommit.Disk} {
		if !(v >= 0 && v <= 1e6) {
			return errors.New(errors.InvalidArgument, "an overcommit of %v is out of range", v).WithField("overcommit." + name)
		}
	}
	if err := s.Firecracker.check(); err != nil {
		return err
	}
	if err := s.Tools.check(); err != nil {
		return err
	}
	if s.Keep.Audit < 0 {
		return errors.New(errors.InvalidArgument, "records cannot be kept for %s", time.Duration(s.Keep.Audit)).WithField("keep.audit")
	}
	if err := s.Quotas.Quota().Validate("quotas"); err != nil {
		return err
	}
	if err := s.Limits.Config().Validate("limits"); err != nil {
		return err
	}
	if _, err := s.Listen.Proxies(); err != nil {
		return err
	}
	if err := s.Auth.check(); err != nil {
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

// checkDatabase makes the database's place certain.
func (s *Settings) checkDatabase() error {
	name := s.Database.Reveal()
	if s.Postgres() {
		return postgres.CheckURL(name)
	}
	if name == "" {
		name = filepath.Join(s.DataDir, "aetherium.db")
	}
	if strings.Contains(name, "://") {
		return errors.New(errors.InvalidArgument, "the database is neither a file nor a URL of PostgreSQL").WithField("database").
			WithHint("such as postgres://user@host:5432/aetherium")
	}
	abs, err := filepath.Abs(name)
	if err != nil {
		return errors.Wrap(err, errors.InvalidArgument, "the path of the database cannot be resolved").WithField("database")
	}
	s.Database = logging.Secret(abs)
	return nil
}

func (s *Settings) checkQueue() error {
	if s.Queue == "" {
		return nil
	}
	_, err := redis.Parse(s.Queue)
	var e *errors.Error
	if errors.As(err, &e) {
		return e.WithField("queue")
	}
	return err
}

// Postgres reports whether rows are kept in PostgreSQL.
func (s *Settings) Postgres() bool { return postgres.IsURL(s.Database.Reveal()) }

// DatabaseFile is where rows are kept otherwise.
func (s *Settings) DatabaseFile() string {
	if s.Database == "" { // settings that were not loaded
		return filepath.Join(s.DataDir, "aetherium.db")
	}
	return s.Database.Reveal()
}

func (s *Settings) checkDrivers() error {
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
	case !slices.Contains(known, s.VM.Driver):
		return errors.New(errors.InvalidArgument, "there is no driver %q", s.VM.Driver).WithField("vm.driver").WithHint("%s", hint)
	case !s.Wants(s.VM.Driver) && s.VM.Driver != domain.DriverAuto:
		return errors.New(errors.InvalidArgument, "the driver %s is not among the drivers", s.VM.Driver).WithField("vm.driver").
			WithHint("add it to drivers")
	case s.MicroVM.Kernel != "" && !filepath.IsAbs(s.MicroVM.Kernel):
		return errors.New(errors.InvalidArgument, "the kernel's directory must be an absolute path").WithField("microvm.kernel")
	case s.MicroVM.Booted.Max < 0 || s.MicroVM.Booted.Max > maxPool:
		return errors.New(errors.InvalidArgument, "%d kept memories are out of range", s.MicroVM.Booted.Max).
			WithField("microvm.booted.max").WithHint("0 to %d", maxPool)
	case s.MicroVM.Booted.Size < 0:
		return errors.New(errors.InvalidArgument, "kept memories cannot take %d bytes", s.MicroVM.Booted.Size).WithField("microvm.booted.size")
	case !filepath.IsAbs(s.Docker.Socket):
		return errors.New(errors.InvalidArgument, "the Docker engine's socket must be an absolute path").WithField("docker.socket")
	}
	return nil
}

// Wants reports whether VMs may be made with a driver.
func (s Settings) Wants(driver string) bool {
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

// Loopback reports whether the API can be reached from this host only.
func (s Settings) Loopback() bool {
	secure, _ := s.TLSAddress()
	return onLoopback(s.Listen.Address) && (secure == "" || onLoopback(secure))
}

func onLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// The files of an installation.

// SealKeyFile holds the keys that data at rest is under, unless they are elsewhere.
func (s Settings) SealKeyFile() string {
	if s.Seal.KeyFile != "" {
		return s.Seal.KeyFile
	}
	return filepath.Join(s.DataDir, "seal.key")
}

// KernelDir is where the kernel of VMs that have one of their own is.
func (s Settings) KernelDir() string {
	if s.MicroVM.Kernel != "" {
		return s.MicroVM.Kernel
	}
	return filepath.Join(s.DataDir, "kernel")
}

// SealKeysVariable is the environment variable of Seal.Keys.
const SealKeysVariable = Prefix + "_SEAL_KEYS"

// DatabaseVariable is the environment variable of Database.
const DatabaseVariable = Prefix + "_DATABASE"

// QueueVariable is the environment variable of Queue.
const QueueVariable = Prefix + "_QUEUE"

// LogFile is where a server in the background logs.
func (s Settings) LogFile() string { return filepath.Join(s.DataDir, "server.log") }

// PIDFile holds the running server's process ID.
func (s Settings) PIDFile() string { return filepath.Join(s.DataDir, "server.pid") }

// LockFile is held locked by the running server.
func (s Settings) LockFile() string { return filepath.Join(s.DataDir, "lock") }

// KeyFile holds the first API key.
func (s Settings) KeyFile() string { return filepath.Join(s.DataDir, "api.key") }

// TLSDir has the certificate authority of this installation.
func (s Settings) TLSDir() string { return filepath.Join(s.DataDir, "tls") }

// ClientFile tells the command line where the server is.
func (s Settings) ClientFile() string { return filepath.Join(s.DataDir, "client.json") }
