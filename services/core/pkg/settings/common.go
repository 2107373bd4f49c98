// Package settings is what the processes of an installation are told, in groups:
// each process has those that concern it, by the same names (libs/common/pkg/config).
package settings

import (
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/config"
	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/logging"
	"github.com/aetherium/aetherium/libs/common/pkg/loki"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/redis"
	"github.com/aetherium/aetherium/services/core/pkg/storage/postgres"
	"github.com/aetherium/aetherium/services/core/pkg/tracing"
)

// Prefix of the environment variables.
const Prefix = "AETHERIUM"

// Variables that hold secrets, and that what a process starts has no business with.
const (
	SealKeysVariable = Prefix + "_SEAL_KEYS"
	DatabaseVariable = Prefix + "_DATABASE"
	QueueVariable    = Prefix + "_QUEUE"
)

// Common is what every process is told.
type Common struct {
	DataDir string `yaml:"data_dir" doc:"Where everything durable is kept: database, templates, disks, journals, keys."`
	// Database is a secret, as URLs have passwords.
	Database logging.Secret `yaml:"database" doc:"Where rows are kept: a file (SQLite), or postgres://user:password@host:5432/name (PostgreSQL, docs/DATABASE.md). Default: aetherium.db in the data directory."`
	// Queue is a secret for the same reason.
	Queue   logging.Secret `yaml:"queue" doc:"Where jobs wait: redis://user:password@host:6379/0, rediss:// (TLS) or unix:// (Redis, docs/QUEUE.md). Default: in memory."`
	Log     Log            `yaml:"log"`
	Metrics Metrics        `yaml:"metrics"`
	Tracing Tracing        `yaml:"tracing"`
	VM      VM             `yaml:"vm"`
	Keep    Keep           `yaml:"keep"`
	Seal    Seal           `yaml:"seal"`
}

// Log says what is logged how.
type Log struct {
	Level  string `yaml:"level" doc:"debug, info, warn or error."`
	Format string `yaml:"format" doc:"auto, text or json; of what goes to stderr."`
	// What follows is where a server's lines go as well, as JSON.
	File     string       `yaml:"file" doc:"File that lines are written to as well; empty: none."`
	FileSize config.Bytes `yaml:"file_size" doc:"How large the file becomes; then it is put aside as FILE.1, that as FILE.2, and so on."`
	FileKeep int          `yaml:"file_keep" doc:"How many files put aside are kept."`
	Loki     string       `yaml:"loki" doc:"Address of a Grafana Loki that lines are sent to, such as http://127.0.0.1:3100; empty: none."`
	Tenant   string       `yaml:"loki_tenant" doc:"Tenant of that Loki (X-Scope-OrgID), where it has several."`
	Key      string       `yaml:"loki_key_file" doc:"File of user:password, or of a bearer token, that Loki is shown; not readable by others."`
}

// The bounds on a log's file.
const (
	minLogFile = 64 << 10
	maxLogFile = 1 << 40
	maxLogKeep = 1000
)

// check looks at nothing but what is said.
func (l *Log) check() error {
	if l.File != "" {
		abs, err := filepath.Abs(l.File)
		if err != nil {
			return errors.Wrap(err, errors.InvalidArgument, "log.file cannot be resolved").WithField("log.file")
		}
		l.File = abs
	}
	switch {
	case l.FileSize < minLogFile || l.FileSize > maxLogFile:
		return errors.New(errors.InvalidArgument, "log.file_size is out of range").WithField("log.file_size").WithHint("64KiB to 1TiB")
	case l.FileKeep < 0 || l.FileKeep > maxLogKeep:
		return errors.New(errors.InvalidArgument, "%d files put aside are out of range", l.FileKeep).WithField("log.file_keep").WithHint("0 to %d", maxLogKeep)
	case l.Loki == "" && (l.Tenant != "" || l.Key != ""):
		return errors.New(errors.InvalidArgument, "settings of a Loki are given, and none is used").WithField("log.loki").WithHint("such as http://127.0.0.1:3100")
	case strings.ContainsFunc(l.Tenant, func(c rune) bool { return c <= ' ' || c > '~' }) || len(l.Tenant) > 150:
		return errors.New(errors.InvalidArgument, "log.loki_tenant is no tenant").WithField("log.loki_tenant")
	}
	if l.Loki != "" {
		if err := loki.CheckURL(l.Loki); err != nil {
			return errors.Wrap(err, errors.InvalidArgument, "log.loki is no address").WithField("log.loki").WithHint("such as http://127.0.0.1:3100")
		}
	}
	return nil
}

// Metrics says who may see what is measured (docs/OBSERVABILITY.md).
type Metrics struct {
	TokenFile string `yaml:"token_file" doc:"File of the token that Prometheus shows at the address of metrics, 16 characters or more; empty: none is asked for there."`
}

// Tracing says where spans go (docs/OBSERVABILITY.md).
type Tracing struct {
	URL     string  `yaml:"url" doc:"Where spans are sent by OTLP over HTTP, such as http://127.0.0.1:4318/v1/traces; empty: none are made."`
	Sample  float64 `yaml:"sample" doc:"Which part of the requests is traced, from 0 to 1, where no client says."`
	Clients bool    `yaml:"clients" doc:"Go on with traces that clients have begun (header traceparent), and record what they want recorded."`
	Guests  bool    `yaml:"guests" doc:"Tell each command of its trace by the variable TRACEPARENT, unless it has one."`
}

// Config is the tracing of a program.
func (t Tracing) Config(program string, log *slog.Logger) tracing.Config {
	return tracing.Config{Service: program, URL: t.URL, Sample: t.Sample, Clients: t.Clients, Guests: t.Guests, Logger: log}
}

// check returns InvalidArgument.
func (t Tracing) check() error {
	if !(t.Sample >= 0 && t.Sample <= 1) {
		return errors.New(errors.InvalidArgument, "a part of %v cannot be traced", t.Sample).WithField("tracing.sample").WithHint("from 0 to 1")
	}
	if t.URL == "" {
		return nil
	}
	if u, err := url.Parse(t.URL); err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil {
		return errors.New(errors.InvalidArgument, "traces are sent to a URL without a user").WithField("tracing.url").
			WithHint("such as http://127.0.0.1:4318/v1/traces; OTEL_EXPORTER_OTLP_HEADERS holds what is secret")
	}
	return nil
}

// VM is what a VM gets unless it asks otherwise.
type VM struct {
	Driver     string          `yaml:"driver" doc:"Driver of VMs that name none; auto: the first that can be used of oci, firecracker and qemu."`
	Template   string          `yaml:"template" doc:"Template of VMs that name none."`
	Network    string          `yaml:"network" doc:"nat or none."`
	MilliCPU   int64           `yaml:"milli_cpu" doc:"Thousandths of a core; default: all cores, at most 2000. As memory, disk and pids it is what a template gets when it is built, and its VMs have that from then on: base, too, keeps what it was built with (docs/TEMPLATES.md)."`
	Memory     config.Bytes    `yaml:"memory" doc:"Memory limit, of templates that are built from then on."`
	Disk       config.Bytes    `yaml:"disk" doc:"How much a VM may write on top of its template; of templates that are built from then on."`
	PIDs       int64           `yaml:"pids" doc:"Processes and threads, of templates that are built from then on."`
	Timeout    config.Duration `yaml:"timeout" doc:"Time until a VM's deadline; 0: none."`
	MaxTimeout config.Duration `yaml:"max_timeout" doc:"The longest time a VM may ask for, also where timeout is longer; 0: any."`
}

// Keep says how long what has ended is kept.
type Keep struct {
	Tombstones config.Duration `yaml:"tombstones" doc:"Ended VMs, executions and their output."`
	Tasks      config.Duration `yaml:"tasks" doc:"Ended tasks."`
	Archives   config.Duration `yaml:"archives" doc:"What is archived of VMs, executions and tasks when they are kept no longer (docs/DATABASE.md), from when they ended; where it is not longer than tombstones and tasks, as with 0, nothing is archived."`
	Events     config.Duration `yaml:"events" doc:"Events."`
	Usage      config.Duration `yaml:"usage" doc:"What VMs used, in spans of usage_every; 0: for ever."`
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

// check refuses what no VM could be made with. Returns InvalidArgument.
func (v VM) check() error {
	if known := append([]string{domain.DriverAuto}, domain.Drivers()...); !slices.Contains(known, v.Driver) {
		return errors.New(errors.InvalidArgument, "there is no driver %q", v.Driver).WithField("vm.driver").WithHint("one of %s", strings.Join(known, ", "))
	}
	if v.Template != "" && domain.ValidateTemplateRef("vm.template", v.Template) != nil { // empty: who makes one names it
		return errors.New(errors.InvalidArgument, "vm.template: %q is not a template reference", v.Template).WithField("vm.template").WithHint("use a name, name:tag or an ID")
	}
	if mode := domain.NetworkMode(v.Network); mode.Validate("vm.network") != nil {
		return errors.New(errors.InvalidArgument, "vm.network: %q is not a network mode", v.Network).WithField("vm.network").WithHint("none or nat")
	}
	for _, c := range []struct {
		name, says     string
		have, min, max int64
		hint           string
	}{
		{"vm.milli_cpu", strconv.FormatInt(v.MilliCPU, 10), v.MilliCPU, domain.MinMilliCPU, domain.MaxMilliCPU, "between 50 and 1024000 thousandths of a core"},
		{"vm.memory", v.Memory.String(), int64(v.Memory), domain.MinMemoryBytes, domain.MaxMemoryBytes, "between 16MiB and 16TiB; a number without a unit is one of bytes"},
		{"vm.disk", v.Disk.String(), int64(v.Disk), domain.MinDiskBytes, domain.MaxDiskBytes, "between 16MiB and 64TiB; a number without a unit is one of bytes"},
		{"vm.pids", strconv.FormatInt(v.PIDs, 10), v.PIDs, domain.MinPIDs, domain.MaxPIDs, "between 16 and 4194304"},
		{"vm.timeout", v.Timeout.String(), int64(v.Timeout), 0, int64(domain.MaxDuration), "at most 8760h"},
		{"vm.max_timeout", v.MaxTimeout.String(), int64(v.MaxTimeout), 0, int64(domain.MaxDuration), "at most 8760h"},
	} {
		if c.have < c.min || c.have > c.max {
			return errors.New(errors.InvalidArgument, "%s: %s is out of range", c.name, c.says).WithField(c.name).WithHint("%s", c.hint)
		}
	}
	return nil // a timeout above max_timeout is as long as that
}

// Builder is the driver of machines that templates are built in where it is not
// known what a worker has: they need one that shows its snapshots' files, as the
// drivers of containers do.
func (v VM) Builder() string {
	if v.Driver == "docker" {
		return v.Driver
	}
	return "oci"
}

// DefaultCommon is for this host.
func DefaultCommon() Common {
	const week = config.Duration(7 * 24 * time.Hour)
	return Common{
		DataDir: defaultDataDir(),
		Log:     Log{Level: "info", Format: "auto", FileSize: 64 << 20, FileKeep: 4},
		Tracing: Tracing{Sample: 1},
		VM: VM{
			Driver: "oci", Template: "base", Network: "nat",
			MilliCPU: min(2000, int64(runtime.NumCPU())*1000), Memory: 1 << 30, Disk: 10 << 30, PIDs: 4096,
		},
		Keep: Keep{Tombstones: week, Tasks: week, Archives: config.Duration(30 * 24 * time.Hour), Events: week, Usage: config.Duration(30 * 24 * time.Hour), Audit: config.Duration(90 * 24 * time.Hour), Journal: 64 << 20},
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

// Check makes the paths absolute. Returns InvalidArgument.
func (s *Common) Check() error {
	abs, err := filepath.Abs(s.DataDir)
	if err != nil {
		return errors.Wrap(err, errors.InvalidArgument, "data_dir cannot be resolved").WithField("data_dir")
	}
	s.DataDir = abs
	if s.Keep.Audit < 0 {
		return errors.New(errors.InvalidArgument, "records cannot be kept for %s", time.Duration(s.Keep.Audit)).WithField("keep.audit")
	}
	if s.Keep.Archives < 0 {
		return errors.New(errors.InvalidArgument, "archives cannot be kept for %s", time.Duration(s.Keep.Archives)).WithField("keep.archives")
	}
	if s.Keep.Usage < 0 {
		return errors.New(errors.InvalidArgument, "usage cannot be kept for %s", time.Duration(s.Keep.Usage)).WithField("keep.usage")
	}
	if err := s.VM.check(); err != nil {
		return err
	}
	if err := s.Log.check(); err != nil {
		return err
	}
	if err := s.Tracing.check(); err != nil {
		return err
	}
	if err := s.checkDatabase(); err != nil {
		return err
	}
	return s.checkQueue()
}

// CheckShared is for processes that share an installation with others.
// Returns InvalidArgument.
func (s Common) CheckShared() error {
	if !s.Postgres() {
		return errors.New(errors.InvalidArgument, "processes share a database in PostgreSQL").WithField("database").
			WithHint("such as postgres://user@host:5432/aetherium; aetherium-migrate copy brings one of SQLite there")
	}
	if s.Queue == "" {
		return errors.New(errors.InvalidArgument, "processes wake each other by Redis").WithField("queue").WithHint("such as redis://host:6379/0")
	}
	return nil
}

// checkDatabase makes the database's place certain.
func (s *Common) checkDatabase() error {
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

func (s *Common) checkQueue() error {
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
func (s Common) Postgres() bool { return postgres.IsURL(s.Database.Reveal()) }

// DatabaseFile is where rows are kept otherwise.
func (s Common) DatabaseFile() string {
	if s.Database == "" { // settings that were not loaded
		return filepath.Join(s.DataDir, "aetherium.db")
	}
	return s.Database.Reveal()
}

// SealKeyFile holds the keys that data at rest is under, unless they are elsewhere.
func (s Common) SealKeyFile() string {
	if s.Seal.KeyFile != "" {
		return s.Seal.KeyFile
	}
	return filepath.Join(s.DataDir, "seal.key")
}

// LogFile is where a server in the background logs.
func (s Common) LogFile() string { return filepath.Join(s.DataDir, "server.log") }

// PIDFile holds the running server's process ID.
func (s Common) PIDFile() string { return filepath.Join(s.DataDir, "server.pid") }

// LockFile is held locked by the running server.
func (s Common) LockFile() string { return filepath.Join(s.DataDir, "lock") }

// KeyFile holds the first API key, where this process serves the API.
func (s Common) KeyFile() string { return filepath.Join(s.DataDir, "api.key") }

// ClientFile tells the command line where the server is.
func (s Common) ClientFile() string { return filepath.Join(s.DataDir, "client.json") }
