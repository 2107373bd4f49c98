// Package settings is the configuration of the single-process installation.
package settings

import (
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/config"
	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// Settings are read from one YAML file and AETHERIUM_* variables.
type Settings struct {
	DataDir    string  `yaml:"data_dir" doc:"Where everything durable is kept: database, templates, disks, journals, keys."`
	RuntimeDir string  `yaml:"runtime_dir" doc:"Where sockets and namespaces are kept; emptied by a reboot. Default: /run/aetherium-<instance>."`
	BinDir     string  `yaml:"bin_dir" doc:"Where fc-agent and aetherium-netd are. Default: beside this program."`
	Listen     Listen  `yaml:"listen"`
	Log        Log     `yaml:"log"`
	VM         VM      `yaml:"vm"`
	Pool       Pool    `yaml:"pool"`
	Overcommit Over    `yaml:"overcommit"`
	OCI        OCI     `yaml:"oci"`
	Network    Network `yaml:"network"`
	Disk       Disk    `yaml:"disk"`
	Base       Base    `yaml:"base"`
	Keep       Keep    `yaml:"keep"`
}

// Listen says where the API answers.
type Listen struct {
	Address       string   `yaml:"address" doc:"Address and port of the API. Anything but loopback lets others in: the key is then all that protects it."`
	PreviewDomain string   `yaml:"preview_domain" doc:"Previews answer at <port>-<vm>.<domain>."`
	Hosts         []string `yaml:"hosts" doc:"Further host names that the API answers to."`
}

// Log says what is logged how.
type Log struct {
	Level  string `yaml:"level" doc:"debug, info, warn or error."`
	Format string `yaml:"format" doc:"auto, text or json."`
}

// VM is what a VM gets unless it asks otherwise.
type VM struct {
	Driver     string          `yaml:"driver" doc:"Driver of VMs that name none."`
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
	Runtime string `yaml:"runtime" doc:"OCI runtime: runc, crun or runsc."`
}

// Network is what VMs with network nat get.
type Network struct {
	Subnet    string   `yaml:"subnet" doc:"Where the VMs' subnet is chosen from; default 10.128.0.0/9."`
	Allow     []string `yaml:"allow" doc:"Networks that VMs may reach although they are private."`
	Resolvers []string `yaml:"resolvers" doc:"DNS servers (address:port) asked for VMs; default: the host's."`
	Pool      int      `yaml:"pool" doc:"Network namespaces kept ready of each kind; 0: the default, negative: none."`
}

// Disk is where VMs' writable layers live.
type Disk struct {
	Size config.Bytes `yaml:"size" doc:"Size of the sparse file for VM data where the data directory's file system cannot enforce quotas; 0: most of what is free."`
}

// Base says what the base template is made from.
type Base struct {
	Image string `yaml:"image" doc:"OCI reference to make base from, instead of Debian packages."`
	Skip  bool   `yaml:"skip" doc:"Do not make the base template at the first start."`
}

// Keep says how long what has ended is kept.
type Keep struct {
	Tombstones config.Duration `yaml:"tombstones" doc:"Ended VMs, executions and their output."`
	Tasks      config.Duration `yaml:"tasks" doc:"Ended tasks."`
	Events     config.Duration `yaml:"events" doc:"Events."`
	Journal    config.Bytes    `yaml:"journal" doc:"Output kept of each execution; the oldest goes first."`
}

// Prefix of the environment variables.
const Prefix = "AETHERIUM"

// Defaults for this host.
func Defaults() Settings {
	const week = config.Duration(7 * 24 * time.Hour)
	return Settings{
		DataDir: defaultDataDir(),
		Listen:  Listen{Address: "127.0.0.1:7300", PreviewDomain: "aeth.localhost"},
		Log:     Log{Level: "info", Format: "auto"},
		VM: VM{
			Driver: "oci", Template: "base", Network: "nat",
			MilliCPU: min(2000, int64(runtime.NumCPU())*1000), Memory: 1 << 30, Disk: 10 << 30, PIDs: 4096,
		},
		Pool:       Pool{Size: 3, Kinds: 2},
		Overcommit: Over{CPU: 0, Memory: 4, Disk: 16},
		OCI:        OCI{Runtime: "runc"},
		Keep:       Keep{Tombstones: week, Tasks: week, Events: week, Journal: 64 << 20},
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

// maxPool bounds the pool's size and kinds.
const maxPool = 1000

var domainForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$`)

func (s *Settings) check() error {
	abs, err := filepath.Abs(s.DataDir)
	if err != nil {
		return errors.Wrap(err, errors.InvalidArgument, "data_dir cannot be resolved").WithField("data_dir")
	}
	s.DataDir = abs
	if _, _, err := net.SplitHostPort(s.Listen.Address); err != nil {
		return errors.Wrap(err, errors.InvalidArgument, "%q is not an address with a port", s.Listen.Address).
			WithField("listen.address").WithHint("such as 127.0.0.1:7300")
	}
	if !domainForm.MatchString(s.Listen.PreviewDomain) || len(s.Listen.PreviewDomain) > 200 {
		return errors.New(errors.InvalidArgument, "%q is not a domain", s.Listen.PreviewDomain).WithField("listen.preview_domain")
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
	if s.BinDir == "" {
		exe, err := os.Executable()
		if err != nil {
			return errors.Wrap(err, errors.Internal, "this program's directory is not known").WithField("bin_dir")
		}
		s.BinDir = filepath.Dir(exe)
	}
	return nil
}

// Loopback reports whether the API can be reached from this host only.
func (s Settings) Loopback() bool {
	host, _, err := net.SplitHostPort(s.Listen.Address)
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

// LogFile is where a server in the background logs.
func (s Settings) LogFile() string { return filepath.Join(s.DataDir, "server.log") }

// PIDFile holds the running server's process ID.
func (s Settings) PIDFile() string { return filepath.Join(s.DataDir, "server.pid") }

// LockFile is held locked by the running server.
func (s Settings) LockFile() string { return filepath.Join(s.DataDir, "lock") }

// KeyFile holds the first API key.
func (s Settings) KeyFile() string { return filepath.Join(s.DataDir, "api.key") }

// ClientFile tells the command line where the server is.
func (s Settings) ClientFile() string { return filepath.Join(s.DataDir, "client.json") }
