package netd

import (
	"net/netip"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// Config is what netd is started with. It is a JSON file.
type Config struct {
	// Listen is the address to serve on, UDP and TCP, port 53. It must exist.
	Listen netip.Addr `json:"listen"`
	// Clients is where queries may come from.
	Clients netip.Prefix `json:"clients"`
	// Resolvers are asked in order. Empty: the host's own, as resolv.conf says at each moment.
	Resolvers []netip.AddrPort `json:"resolvers,omitempty"`
	// LockFile exists. netd writes its process ID into it and holds a lock on
	// it (flock) while it lives.
	LockFile string `json:"lock_file"`
	// Control is the unix socket that the manager says on what machines may
	// reach. netd makes it.
	Control string `json:"control"`
	// LogDir keeps the egress logs. It belongs to User; its parents need not be
	// reachable for it.
	LogDir string `json:"log_dir"`
	// LogBytes bounds each machine's log. Zero: egresslog.DefaultBytes.
	LogBytes int64 `json:"log_bytes,omitempty"`
	// LogGroup is the NFLOG group that the kernel tells new flows in. Zero: none.
	LogGroup uint16 `json:"log_group,omitempty"`
	// Deny is what netd connects nobody to, but for what is in Allow. The host
	// itself and Clients are out of reach whatever it says.
	Deny  []netip.Prefix `json:"deny,omitempty"`
	Allow []netip.Prefix `json:"allow,omitempty"`
	// Roots are certificates (PEM) that hosts of bound secrets are trusted by,
	// beside the system's.
	Roots []byte `json:"roots,omitempty"`
	// User is the user and group ID that netd runs as once it listens. Zero: it stays who it is.
	User uint32 `json:"user"`
}

// Validate checks the configuration. Returns InvalidArgument.
func (c Config) Validate() error {
	switch {
	case !c.Listen.Is4():
		return errors.New(errors.InvalidArgument, "netd listens on an IPv4 address").WithField("listen")
	case !c.Clients.IsValid():
		return errors.New(errors.InvalidArgument, "netd needs the network of its clients").WithField("clients")
	case c.LockFile == "":
		return errors.New(errors.InvalidArgument, "netd needs a lock file").WithField("lock_file")
	case c.Control == "":
		return errors.New(errors.InvalidArgument, "netd needs a control socket").WithField("control")
	case c.LogDir == "":
		return errors.New(errors.InvalidArgument, "netd needs a directory for egress logs").WithField("log_dir")
	}
	return nil
}
