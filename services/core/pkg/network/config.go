package network

import (
	"log/slog"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/network/egress"
)

// The defaults of [Config].
const (
	DefaultHostDir     = "/run/aetherium-host"
	DefaultPool        = 4
	DefaultConnections = 8192

	// DefaultIDLow and DefaultIDHigh lie in the range that systemd's "Users,
	// Groups, UIDs and GIDs" sets aside for container managers, above what
	// useradd(8) gives away as subordinate IDs (login.defs, SUB_UID_MAX 600100000).
	DefaultIDLow  = 0x40000000
	DefaultIDHigh = 0x70000000

	// MaxNAT is how many machines with mode nat an instance can hold: a Linux
	// bridge has 1023 ports (BR_MAX_PORTS).
	MaxNAT = 1023
)

// Config says where an instance keeps its network and what its machines may reach.
type Config struct {
	// Instance names the instance on this host: [a-z0-9] and inner dashes, at most 32. Required.
	Instance string
	// RuntimeDir is the instance's own directory for this package, on a file
	// system that a reboot empties (below /run). Required.
	RuntimeDir string
	// HostDir is shared by all instances of the host. Default [DefaultHostDir].
	HostDir string
	// NetdPath is the DNS forwarder's binary (cmd/netd). Without it only mode none works.
	NetdPath string

	// PoolNone and PoolNAT are how many pairs of each mode are kept ready.
	// Negative: none are. Zero: [DefaultPool].
	PoolNone, PoolNAT int

	// Subnets are where the instance's subnet is chosen from; the first free
	// one of SubnetBits wins. Default: 10.128.0.0/9, /20.
	Subnets    []netip.Prefix
	SubnetBits int
	// MTU of the machines' interfaces. Zero: that of the default route's interface.
	MTU int
	// Connections bounds the connections that one machine has open to the outside. Zero: [DefaultConnections].
	Connections int

	// DenyCIDRs are the destinations that machines are refused. Nil: [DefaultDeny].
	DenyCIDRs []netip.Prefix
	// AllowCIDRs are exceptions to DenyCIDRs. The host itself and other
	// machines stay refused whatever it says.
	AllowCIDRs []netip.Prefix

	// Resolvers are who netd asks. Empty: the host's, as its resolv.conf says at each moment.
	Resolvers []netip.AddrPort

	// EgressLogDir keeps what machines connected to, beyond their end. Default: RuntimeDir/egress.
	EgressLogDir string
	// EgressCA signs for hosts that secrets are bound to. Nil: no secret can be bound.
	EgressCA *egress.CA
	// EgressRoots are certificates (PEM) that such hosts are trusted by, beside
	// the host's own.
	EgressRoots []byte

	// IDLow and IDHigh (exclusive) bound the user IDs that are leased.
	// Zero: [DefaultIDLow], [DefaultIDHigh].
	IDLow, IDHigh uint32

	// Log is where background work reports. Nil: nowhere.
	Log *slog.Logger
}

// DefaultDeny is what machines are refused by default: everything that is not
// a public unicast destination by the IANA special-purpose registry (RFC 6890)
// and what clouds put there: link-local addresses serve instance metadata.
// IPv6 is refused as a whole.
func DefaultDeny() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("0.0.0.0/8"),       // this network (RFC 791)
		netip.MustParsePrefix("10.0.0.0/8"),      // private (RFC 1918)
		netip.MustParsePrefix("100.64.0.0/10"),   // carrier-grade NAT (RFC 6598); some clouds' metadata
		netip.MustParsePrefix("127.0.0.0/8"),     // loopback (RFC 1122)
		netip.MustParsePrefix("169.254.0.0/16"),  // link-local (RFC 3927); clouds' metadata
		netip.MustParsePrefix("172.16.0.0/12"),   // private (RFC 1918)
		netip.MustParsePrefix("192.0.0.0/24"),    // protocol assignments (RFC 6890)
		netip.MustParsePrefix("192.0.2.0/24"),    // documentation (RFC 5737)
		netip.MustParsePrefix("192.88.99.0/24"),  // 6to4 relays (RFC 7526)
		netip.MustParsePrefix("192.168.0.0/16"),  // private (RFC 1918)
		netip.MustParsePrefix("198.18.0.0/15"),   // benchmarks (RFC 2544)
		netip.MustParsePrefix("198.51.100.0/24"), // documentation (RFC 5737)
		netip.MustParsePrefix("203.0.113.0/24"),  // documentation (RFC 5737)
		netip.MustParsePrefix("224.0.0.0/4"),     // multicast (RFC 5771)
		netip.MustParsePrefix("240.0.0.0/4"),     // reserved (RFC 1112) and broadcast
	}
}

var instanceForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)

// withDefaults checks the configuration and fills in what is missing.
// Returns InvalidArgument with the field.
func (c Config) withDefaults() (Config, error) {
	bad := func(field, format string, args ...any) (Config, error) {
		return c, errors.New(errors.InvalidArgument, format, args...).WithField(field)
	}
	if !instanceForm.MatchString(c.Instance) {
		return bad("instance", "%q is not an instance name", c.Instance)
	}
	if !filepath.IsAbs(c.RuntimeDir) {
		return bad("runtime_dir", "the runtime directory must be an absolute path")
	}
	c.RuntimeDir = filepath.Clean(c.RuntimeDir)
	if c.EgressLogDir == "" {
		c.EgressLogDir = filepath.Join(c.RuntimeDir, "egress")
	}
	if !filepath.IsAbs(c.EgressLogDir) {
		return bad("egress_log_dir", "the directory of egress logs must be an absolute path")
	}
	if c.HostDir == "" {
		c.HostDir = DefaultHostDir
	}
	if !filepath.IsAbs(c.HostDir) {
		return bad("host_dir", "the host directory must be an absolute path")
	}
	for _, n := range []*int{&c.PoolNone, &c.PoolNAT} {
		switch {
		case *n == 0:
			*n = DefaultPool
		case *n < 0:
			*n = 0
		case *n > 256:
			return bad("pool", "a pool of %d pairs is more than the 256 allowed", *n)
		}
	}
	if len(c.Subnets) == 0 {
		c.Subnets = []netip.Prefix{netip.MustParsePrefix("10.128.0.0/9")}
	}
	if c.SubnetBits == 0 {
		c.SubnetBits = 20
	}
	for _, p := range c.Subnets {
		if !p.IsValid() || !p.Addr().Is4() || p.Bits() > c.SubnetBits || c.SubnetBits > 29 {
			return bad("subnets", "%s is no IPv4 network that a /%d with room for machines fits in", p, c.SubnetBits)
		}
	}
	if c.MTU != 0 && (c.MTU < 576 || c.MTU > 65535) {
		return bad("mtu", "an MTU of %d is outside 576 to 65535", c.MTU)
	}
	if c.Connections == 0 {
		c.Connections = DefaultConnections
	}
	if c.Connections < 0 || c.Connections > 1<<20 {
		return bad("connections", "%d connections are outside 1 to 1048576", c.Connections)
	}
	if c.DenyCIDRs == nil {
		c.DenyCIDRs = DefaultDeny()
	}
	for _, p := range slices.Concat(c.DenyCIDRs, c.AllowCIDRs) {
		if !p.IsValid() || !p.Addr().Is4() {
			return bad("cidrs", "%s is no IPv4 network", p)
		}
	}
	for _, r := range c.Resolvers {
		if !r.IsValid() {
			return bad("resolvers", "a resolver has no address")
		}
	}
	if c.IDLow == 0 {
		c.IDLow = DefaultIDLow
	}
	if c.IDHigh == 0 {
		c.IDHigh = DefaultIDHigh
	}
	if c.IDLow < 1<<16 || c.IDLow >= c.IDHigh {
		return bad("ids", "user IDs %d to %d cannot be leased", c.IDLow, c.IDHigh)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c, nil
}
