package domain

import (
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// The bounds on what comes from outside. They are the product's, not the
// kernel's, except where noted.
const (
	MaxEnvEntries      = 256
	MaxEnvBytes        = 256 << 10
	MaxMetadataEntries = 64
	MaxMetadataKey     = 128
	MaxMetadataValue   = 1024
	MaxArgs            = 4096
	MaxArgBytes        = 128 << 10 // MAX_ARG_STRLEN, execve(2)
	MaxCommandBytes    = 1 << 20
	MaxPathBytes       = 4096 // PATH_MAX, limits.h
	MaxDuration        = 365 * 24 * time.Hour
	MaxPTYCells        = 4096
	MinMilliCPU        = 50
	MaxMilliCPU        = 1024_000
	MinMemoryBytes     = 16 << 20
	MaxMemoryBytes     = 16 << 40
	MinDiskBytes       = 16 << 20
	MaxDiskBytes       = 64 << 40
	MinPIDs            = 16
	MaxPIDs            = 4 << 20
)

var (
	nameForm     = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)
	envForm      = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,127}$`)
	userForm     = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}\$?$|^[0-9]{1,10}$`) // useradd(8), or a numeric UID
	hostnameForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)      // a label, RFC 1123 §2.1
	templateForm = regexp.MustCompile(`^[a-z0-9][a-z0-9._/-]{0,126}(:[A-Za-z0-9_][A-Za-z0-9._-]{0,62})?$`)
)

func invalid(field, format string, args ...any) *errors.Error {
	return errors.New(errors.InvalidArgument, format, args...).WithField(field)
}

// ValidateName checks a VM's, template's or snapshot's name. Empty is no name.
// A name must not look like an ID. Returns InvalidArgument.
func ValidateName(field, name string) error {
	if name == "" {
		return nil
	}
	if !nameForm.MatchString(name) {
		return invalid(field, "%q is not a name", clip(name, 64)).
			WithHint("a name has 1 to 63 letters, digits, dots, dashes and underscores and starts with a letter or digit")
	}
	if IsID(name) {
		return invalid(field, "a name must not have the form of an ID (20 characters of a-z and 0-9)")
	}
	return nil
}

// ValidateTemplateName checks the name of a template or a snapshot, which share
// a namespace: what it names must be a template reference. Empty is no name.
func ValidateTemplateName(field, name string) error {
	if err := ValidateName(field, name); err != nil || name == "" {
		return err
	}
	if !templateForm.MatchString(name) || strings.Contains(name, ":") {
		return invalid(field, "%q cannot name a template or a snapshot", clip(name, 64)).WithHint("lower case letters, digits, dots, dashes and underscores")
	}
	return nil
}

// ValidateTemplateRef checks a reference to a template: name, name:tag or ID.
func ValidateTemplateRef(field, ref string) error {
	if !templateForm.MatchString(ref) {
		return invalid(field, "%q is not a template reference", clip(ref, 64)).WithHint("use a name, name:tag or an ID")
	}
	return nil
}

// ValidateHostname checks a host name. Empty is no name.
func ValidateHostname(field, name string) error {
	if name != "" && !hostnameForm.MatchString(name) {
		return invalid(field, "%q is not a host name", clip(name, 64)).WithHint("one DNS label: a-z, 0-9 and dashes, at most 63")
	}
	return nil
}

// maxPreviewHost bounds Previews.Host: a name, a port and a place for one.
const maxPreviewHost = 270

// maxPreviewPorts bounds Previews.HTTPS.
const maxPreviewPorts = 64

var previewHostForm = regexp.MustCompile(`^[A-Za-z0-9._:$\[\]{}-]+$`)

// Validate checks how servers shall be shown. Returns InvalidArgument.
func (p Previews) Validate(field string) error {
	if p.Host != "" && (len(p.Host) > maxPreviewHost || !previewHostForm.MatchString(p.Host)) {
		return invalid(field+".host", "%q is not a host", clip(p.Host, 64)).WithHint("such as localhost:${PORT}")
	}
	if len(p.HTTPS) > maxPreviewPorts {
		return invalid(field+".https", "%d ports, at most %d are allowed", len(p.HTTPS), maxPreviewPorts)
	}
	if slices.Contains(p.HTTPS, 0) {
		return invalid(field+".https", "port 0 is not a port")
	}
	return nil
}

// ValidateUser checks an OS user name or UID. Empty is the default user.
func ValidateUser(field, name string) error {
	if name != "" && !userForm.MatchString(name) {
		return invalid(field, "%q is not a user name", clip(name, 64))
	}
	return nil
}

// ValidateEnv checks environment variables. Values may hold anything but NUL.
func ValidateEnv(field string, env map[string]string) error {
	if len(env) > MaxEnvEntries {
		return invalid(field, "%d environment variables, at most %d are allowed", len(env), MaxEnvEntries)
	}
	total := 0
	for k, v := range env {
		if !envForm.MatchString(k) {
			return invalid(field, "%q is not the name of an environment variable", clip(k, 64))
		}
		if strings.IndexByte(v, 0) >= 0 {
			return invalid(field, "the value of %s holds a NUL byte", k)
		}
		total += len(k) + len(v) + 2
	}
	if total > MaxEnvBytes {
		return invalid(field, "the environment has %d bytes, at most %d are allowed", total, MaxEnvBytes)
	}
	return nil
}

// ValidateMetadata checks a VM's metadata.
func ValidateMetadata(field string, m map[string]string) error {
	if len(m) > MaxMetadataEntries {
		return invalid(field, "%d metadata entries, at most %d are allowed", len(m), MaxMetadataEntries)
	}
	for k, v := range m {
		if k == "" || len(k) > MaxMetadataKey || !utf8.ValidString(k) || strings.IndexByte(k, 0) >= 0 {
			return invalid(field, "%q is not a metadata key: it must have 1 to %d bytes of UTF-8", clip(k, 64), MaxMetadataKey)
		}
		if len(v) > MaxMetadataValue || !utf8.ValidString(v) || strings.IndexByte(v, 0) >= 0 {
			return invalid(field, "the value of %q must be UTF-8 of at most %d bytes", clip(k, 64), MaxMetadataValue)
		}
	}
	return nil
}

// ValidatePath checks a guest path for its length and NUL bytes; what it
// names is the guest's business.
func ValidatePath(field, path string) error {
	if path == "" {
		return invalid(field, "a path is needed")
	}
	return validateOptionalPath(field, path)
}

func validateOptionalPath(field, path string) error {
	if len(path) >= MaxPathBytes {
		return invalid(field, "the path has %d bytes, at most %d are allowed", len(path), MaxPathBytes-1)
	}
	if strings.IndexByte(path, 0) >= 0 {
		return invalid(field, "the path holds a NUL byte")
	}
	if !utf8.ValidString(path) { // the guest's protocol carries text
		return invalid(field, "the path is not UTF-8").WithHint("a command with a pattern, or a tar, reaches such names")
	}
	return nil
}

// ValidateDuration checks a span of time from outside.
func ValidateDuration(field string, d time.Duration) error {
	if d < 0 || d > MaxDuration {
		return invalid(field, "%s is out of range", d).WithHint("between 0 and %s", MaxDuration)
	}
	return nil
}

// Validate checks resources in which every zero is filled in.
func (r Resources) Validate(field string) error {
	for _, c := range []struct {
		name           string
		have, min, max int64
		unit           string
	}{
		{"milli_cpu", r.MilliCPU, MinMilliCPU, MaxMilliCPU, "thousandths of a core"},
		{"memory_bytes", r.MemoryBytes, MinMemoryBytes, MaxMemoryBytes, "bytes"},
		{"disk_bytes", r.DiskBytes, MinDiskBytes, MaxDiskBytes, "bytes"},
		{"pids", r.PIDs, MinPIDs, MaxPIDs, "processes"},
	} {
		if c.have < c.min || c.have > c.max {
			return invalid(field+"."+c.name, "%s is %d", c.name, c.have).
				WithHint("between %d and %d %s", c.min, c.max, c.unit)
		}
	}
	return nil
}

// Or fills zeros from defaults.
func (r Resources) Or(defaults Resources) Resources {
	pick := func(a, b int64) int64 {
		if a != 0 {
			return a
		}
		return b
	}
	return Resources{
		MilliCPU:    pick(r.MilliCPU, defaults.MilliCPU),
		MemoryBytes: pick(r.MemoryBytes, defaults.MemoryBytes),
		DiskBytes:   pick(r.DiskBytes, defaults.DiskBytes),
		PIDs:        pick(r.PIDs, defaults.PIDs),
	}
}

// Plus adds resources.
func (r Resources) Plus(o Resources) Resources {
	return Resources{r.MilliCPU + o.MilliCPU, r.MemoryBytes + o.MemoryBytes, r.DiskBytes + o.DiskBytes, r.PIDs + o.PIDs}
}

// Validate checks a command.
func (c Command) Validate() error {
	if len(c.Args) == 0 || c.Args[0] == "" {
		return invalid("args", "a command is needed")
	}
	if len(c.Args) > MaxArgs {
		return invalid("args", "%d arguments, at most %d are allowed", len(c.Args), MaxArgs)
	}
	total := 0
	for _, a := range c.Args {
		if strings.IndexByte(a, 0) >= 0 {
			return invalid("args", "an argument holds a NUL byte")
		}
		if len(a) >= MaxArgBytes {
			return invalid("args", "an argument has %d bytes, at most %d are allowed", len(a), MaxArgBytes-1).
				WithHint("write it to a file and pass its path")
		}
		total += len(a) + 1
	}
	if total > MaxCommandBytes {
		return invalid("args", "the command has %d bytes, at most %d are allowed", total, MaxCommandBytes)
	}
	if err := ValidateEnv("env", c.Env); err != nil {
		return err
	}
	if err := ValidateUser("user", c.User); err != nil {
		return err
	}
	if err := validateOptionalPath("cwd", c.Cwd); err != nil {
		return err
	}
	if c.PTY != nil {
		if err := c.PTY.Validate("pty"); err != nil {
			return err
		}
	}
	return ValidateDuration("timeout", c.Timeout)
}

// Validate checks a terminal size.
func (s PTYSize) Validate(field string) error {
	if s.Cols == 0 || s.Rows == 0 || s.Cols > MaxPTYCells || s.Rows > MaxPTYCells {
		return invalid(field, "a terminal of %d columns and %d rows is out of range", s.Cols, s.Rows).
			WithHint("between 1 and %d each", MaxPTYCells)
	}
	return nil
}

// Validate checks a pause mode; empty is the driver's default.
func (m PauseMode) Validate(field string) error {
	switch m {
	case "", PauseFreeze, PauseMemory, PauseDisk:
		return nil
	}
	return invalid(field, "%q is not a pause mode", clip(string(m), 64)).WithHint("freeze, memory or disk")
}

// Validate checks a kind of snapshot; empty is disk.
func (k SnapshotKind) Validate(field string) error {
	switch k {
	case "", SnapshotDisk, SnapshotMemory:
		return nil
	}
	return invalid(field, "%q is not a kind of snapshot", clip(string(k), 64)).WithHint("disk or memory")
}

// Validate checks a network mode; empty is the default.
func (m NetworkMode) Validate(field string) error {
	switch m {
	case "", NetworkNone, NetworkNAT:
		return nil
	}
	return invalid(field, "%q is not a network mode", clip(string(m), 64)).WithHint("none or nat")
}

// Validate checks what happens at the deadline; empty is kill.
func (o OnTimeout) Validate(field string) error {
	switch o {
	case "", TimeoutKill, TimeoutPause, TimeoutStop:
		return nil
	}
	return invalid(field, "%q is not something to do at the deadline", clip(string(o), 64)).WithHint("kill, pause or stop")
}

// Validate checks an isolation level; empty asks for none.
func (i Isolation) Validate(field string) error {
	switch i {
	case "", IsolationContainerRoot, IsolationContainer, IsolationGVisor, IsolationMicroVM:
		return nil
	}
	return invalid(field, "%q is not an isolation level", clip(string(i), 64)).WithHint("container-root, container, gvisor or microvm")
}

// Validate checks a template source: exactly one kind, and bounded.
func (s TemplateSource) Validate(field string) error {
	kinds := 0
	for _, set := range []bool{s.Image != "", s.Tar != "", s.Dir != "", len(s.Packages) > 0, s.Steps != "", s.Preset != ""} {
		if set {
			kinds++
		}
	}
	if kinds != 1 {
		return invalid(field, "exactly one of image, tar, dir, packages, steps and preset must be given")
	}
	if len(s.Steps) > MaxStepsBytes {
		return errors.New(errors.TooLarge, "the steps have %d bytes, at most %d are allowed", len(s.Steps), MaxStepsBytes).WithField(field + ".steps")
	}
	if s.Context != "" && s.Steps == "" {
		return invalid(field+".context", "a context is for steps only")
	}
	if len(s.Packages) > 1000 {
		return invalid(field+".packages", "%d packages, at most 1000 are allowed", len(s.Packages))
	}
	for _, p := range s.Packages {
		if !packageForm.MatchString(p) {
			return invalid(field+".packages", "%q is not the name of a Debian package", clip(p, 64))
		}
	}
	if s.Suite != "" && !suiteForm.MatchString(s.Suite) {
		return invalid(field+".suite", "%q is not a Debian release", clip(s.Suite, 64))
	}
	if s.Preset != "" && !suiteForm.MatchString(s.Preset) {
		return invalid(field+".preset", "%q is not the name of a preset", clip(s.Preset, 64))
	}
	for name, v := range map[string]string{"image": s.Image, "tar": s.Tar, "dir": s.Dir, "context": s.Context} {
		if err := validateOptionalPath(field+"."+name, v); err != nil {
			return err
		}
	}
	return nil
}

var (
	packageForm = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]{1,127}$`) // Debian Policy §5.6.1
	suiteForm   = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)
)
