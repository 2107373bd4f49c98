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
	}
	return nil
}
