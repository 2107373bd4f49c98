package execution

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/agent/osuser"
	"github.com/aetherium/aetherium/services/core/internal/agent/settings"
	"github.com/aetherium/aetherium/services/core/internal/agent/spawn"
)

// Bounds on a command. The kernel's own are lower in places (execve(2)) and
// give their own error.
const (
	maxArgs      = 16384
	maxArgsBytes = 4 << 20
	maxPath      = 4096
	maxTag       = 256
	maxTimeout   = 366 * 24 * time.Hour
)

// Command is what to run.
type Command struct {
	Args    []string          // program and arguments
	Env     map[string]string // on top of the machine's
	Cwd     string            // relative to the user's home; empty: the machine's working directory or the home
	User    string            // empty: the default user
	Size    *spawn.Size       // set: run on a terminal
	Stdin   bool              // keep stdin open; a terminal's always is
	Timeout time.Duration     // 0: none; then the process group is killed
	Tag     string
}

func (c *Command) validate() error {
	if len(c.Args) == 0 || c.Args[0] == "" {
		return errors.New(errors.InvalidArgument, "no program is given").WithField("args")
	}
	if len(c.Args) > maxArgs {
		return errors.New(errors.TooLarge, "more than %d arguments", maxArgs).WithField("args")
	}
	total := 0
	for _, arg := range c.Args {
		total += len(arg) + 1
		if strings.Contains(arg, "\x00") {
			return errors.New(errors.InvalidArgument, "an argument contains NUL").WithField("args")
		}
	}
	switch {
	case total > maxArgsBytes:
		return errors.New(errors.TooLarge, "the arguments are larger than %d bytes", maxArgsBytes).WithField("args")
	case len(c.Cwd) > maxPath || strings.Contains(c.Cwd, "\x00"):
		return errors.New(errors.InvalidArgument, "the working directory is not a path").WithField("cwd")
	case len(c.Tag) > maxTag:
		return errors.New(errors.TooLarge, "the tag is longer than %d bytes", maxTag).WithField("tag")
	case c.Timeout < 0 || c.Timeout > maxTimeout:
		return errors.New(errors.InvalidArgument, "the timeout must be between 0 and %s", maxTimeout).WithField("timeout")
	}
	return settings.CheckEnv(c.Env)
}

// spec makes what is started of a command, the machine's settings and its user.
func (c *Command) spec(s settings.Settings, u *osuser.User, path string) spawn.Spec {
	env := map[string]string{"PATH": path, "HOME": u.Home, "USER": u.Name, "LOGNAME": u.Name}
	if c.Size != nil {
		env["TERM"] = "xterm-256color"
	}
	maps.Copy(env, s.Env)
	maps.Copy(env, c.Env)
	list := make([]string, 0, len(env))
	for name, value := range env {
		list = append(list, name+"="+value)
	}
	slices.Sort(list)
	return spawn.Spec{
		Args: c.Args, Env: list, Cwd: c.directory(s, u), User: u, Size: c.Size,
		Stdin: c.Stdin,
	}
}

// directory is where the command runs. A home that does not exist is no reason
// to fail, a directory that was asked for is.
func (c *Command) directory(s settings.Settings, u *osuser.User) string {
	dir := c.Cwd
	if dir == "" {
		dir = s.Workdir
	}
	if dir == "" {
		var st unix.Stat_t
		if unix.Stat(u.Home, &st) != nil {
			return "/"
		}
		return u.Home
	}
	if !filepath.IsAbs(dir) {
		dir = filepath.Join(u.Home, dir)
	}
	return dir
}
