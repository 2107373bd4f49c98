// Package bootline is what a guest's kernel command line says to the agent
// that is its first process: which disk is what, and where the host is heard.
// It holds nothing secret, for every process of the guest can read it, and
// nothing that differs between a machine and its forks: see Assume of the
// guest protocol for that.
package bootline

import (
	"net/url"
	"path"
	"strings"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// Param is the kernel parameter.
const Param = "aetherium.boot"

// The roles of drives.
const (
	RoleRoot  = "root"   // the template's root filesystem, read only
	RoleDisk  = "disk"   // the machine's own disk, ext4, which goes on top of it
	RoleMount = "mount:" // and a path: a tree to mount there, read only
	RoleFile  = "file:"  // and a path: a tree whose file FileName is to be seen there, read only
)

// FileName is what the one file of a drive of RoleFile is called.
const FileName = "file"

// MaxCommandLine is how long a kernel's command line may be, the last byte that ends
// it not counted (COMMAND_LINE_SIZE of x86 and arm64).
const MaxCommandLine = 2047

// Target is where in the guest a drive of a role is seen; ok is false for one that
// is a part of the root.
func Target(role string) (target string, ok bool) {
	if target, ok = strings.CutPrefix(role, RoleMount); !ok {
		target, ok = strings.CutPrefix(role, RoleFile)
	}
	return target, ok
}

// CheckLength refuses a command line that a kernel would cut off. Returns InvalidArgument.
func CheckLength(cmdline string) error {
	if n := len(cmdline); n > MaxCommandLine {
		return errors.New(errors.InvalidArgument, "what is mounted in the machine has names that are %d characters too long together", n-MaxCommandLine).
			WithField("mounts").WithHint("mount fewer directories, or ask for fewer tools")
	}
	return nil
}

// AgentPort is the port that the agent is heard on where its channel has ports:
// envd's, so that E2B clients find it.
const AgentPort = 49983

// AgentPorts is how many ports of a vsock the agent is heard on, AgentPort and
// those that follow. Each time that a guest goes on from a saved memory, its host
// may use the next one: what the guest still holds of connections to the one
// before is not mistaken for a new connection then.
const AgentPorts = 8

// ChannelVsock is the channel of a host that is heard on the agent's ports of a
// vsock (vsock(7)). Any other is the name of a virtio serial port.
const ChannelVsock = "vsock"

// Line is what the parameter says: a URL's query, of a channel and drives in
// their order.
type Line struct {
	Drives  []Drive
	Channel string
}

// Drive is a block device with its role.
type Drive struct {
	Device string // below /dev
	Role   string
}

const (
	keyChannel = "channel"
	keyDrive   = "drive" // device:role
)

// plain are characters that a query can have as they are: a command line has not
// much room.
var plain = strings.NewReplacer("%2F", "/", "%3A", ":", "%40", "@")

// String gives the parameter as it stands on the command line.
func (l Line) String() string {
	values := url.Values{keyChannel: {l.Channel}}
	for _, d := range l.Drives {
		values.Add(keyDrive, d.Device+":"+d.Role)
	}
	return Param + "=" + plain.Replace(values.Encode())
}

// Parse finds the parameter in a command line. Returns NotFound, InvalidArgument.
func Parse(cmdline string) (Line, error) {
	for word := range strings.FieldsSeq(cmdline) {
		text, ok := strings.CutPrefix(word, Param+"=")
		if !ok {
			continue
		}
		values, err := url.ParseQuery(text)
		if err != nil {
			return Line{}, errors.Wrap(err, errors.InvalidArgument, "the kernel parameter %s cannot be read", Param)
		}
		l := Line{Channel: values.Get(keyChannel)}
		for _, text := range values[keyDrive] {
			device, role, _ := strings.Cut(text, ":")
			l.Drives = append(l.Drives, Drive{Device: device, Role: role})
		}
		return l, l.check()
	}
	return Line{}, errors.New(errors.NotFound, "the kernel was given no parameter %s", Param)
}

func (l Line) check() error {
	roles := map[string]int{}
	for _, d := range l.Drives {
		target, mount := Target(d.Role)
		switch {
		case d.Device == "" || strings.Contains(d.Device, "/"):
			return errors.New(errors.InvalidArgument, "%q is not a block device's name", d.Device)
		case mount && (!path.IsAbs(target) || path.Clean(target) != target || target == "/"):
			return errors.New(errors.InvalidArgument, "nothing can be mounted at %q", target)
		case !mount && d.Role != RoleRoot && d.Role != RoleDisk:
			return errors.New(errors.InvalidArgument, "%q is not a drive's role", d.Role)
		}
		roles[d.Role]++
	}
	if roles[RoleRoot] != 1 || roles[RoleDisk] != 1 {
		return errors.New(errors.InvalidArgument, "a machine has one root and one disk")
	}
	if l.Channel == "" {
		return errors.New(errors.InvalidArgument, "there is no channel to the host")
	}
	return nil
}
