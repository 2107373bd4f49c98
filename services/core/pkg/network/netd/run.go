package netd

import (
	"context"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/network/netd/egresslog"
	"github.com/aetherium/aetherium/services/core/pkg/network/netd/internal/nflog"
	"github.com/aetherium/aetherium/services/core/pkg/network/netd/proxy"
)

// The ports on the listening address that machines with names in their policy
// are led to: all TCP connections, and all questions for names.
const (
	ProxyPort       = 9040
	FilteredDNSPort = 9053
)

// Run serves until ctx ends. ready is called once netd holds its lock,
// listens and has given up its rights. Returns Conflict when another netd
// holds the lock, Unavailable when an address cannot be bound, Unsupported
// when the kernel cannot tell flows.
func Run(ctx context.Context, cfg Config, log *slog.Logger, ready func()) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	lock, err := hold(cfg.LockFile)
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }()
	o, err := openAll(ctx, cfg)
	if err != nil {
		return err
	}
	defer o.close()
	if err := giveUpRights(cfg.User); err != nil {
		return err
	}
	roots, err := trusted(cfg.Roots)
	if err != nil {
		return err
	}

	f := newForwarder(cfg, newUpstreams(cfg.Resolvers, cfg.Clients, hostFiles()))
	m := &machines{logs: o.logs, by: map[netip.Addr]*machine{}}
	low := newFloor(cfg, log)
	names := &filtered{f, m, low}
	p := proxy.New(proxy.Config{
		Machine: func(a netip.Addr) (proxy.Machine, bool) { return m.proxied(a) }, Resolve: newResolver(names).resolve, Refused: low.refuses,
		Original: originalDestination, CA: m.minter.Load, Roots: roots, Log: log,
	})
	defer func() { _ = p.Close() }()
	said := control(m, p, log)
	defer func() { _ = said.Close() }()

	ended := make(chan error, 8)
	serve := func(what func() error) { go func() { ended <- what() }() }
	for _, s := range slices.Concat(servers(o.packets, o.stream, f), servers(o.filteredPackets, o.filteredStream, names)) {
		serve(s.ActivateAndServe)
	}
	serve(func() error { return p.Serve(o.proxy) })
	serve(func() error { return said.Serve(o.control) })
	if o.flows != nil {
		serve(func() error {
			o.flows.Read(m.flow, m.lost)
			return nil
		})
	}
	log.Info("netd serves", "listen", cfg.Listen, "clients", cfg.Clients.String())
	ready()
	select {
	case <-ctx.Done():
		log.Info("netd ends")
		return nil
	case err := <-ended:
		if err == nil {
			err = errors.Plain("a server returned")
		}
		return errors.Wrap(err, errors.Unavailable, "netd stopped serving")
	}
}

// servers answers questions for names by UDP and TCP.
func servers(packets net.PacketConn, stream net.Listener, h dns.Handler) []*dns.Server {
	return []*dns.Server{
		{PacketConn: packets, Handler: h, UDPSize: dns.DefaultMsgSize},
		{
			Listener: limitListener(stream, newLimiter(maxConnections, maxConnectionsPerClient)), Handler: h,
			ReadTimeout: streamIdle, WriteTimeout: streamIdle, MaxTCPQueries: 128,
			IdleTimeout: func() time.Duration { return streamIdle },
		},
	}
}

// trusted are the system's certificates and those given.
func trusted(pem []byte) (*x509.CertPool, error) {
	if len(pem) == 0 {
		return nil, nil // the system's, when they are needed
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, errors.New(errors.InvalidArgument, "there is no certificate in the roots").WithField("roots")
	}
	return pool, nil
}

// originalDestination is where a redirected connection wanted to go
// (SO_ORIGINAL_DST, linux/netfilter_ipv4.h).
func originalDestination(c *net.TCPConn) (netip.AddrPort, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return netip.AddrPort{}, err
	}
	var to netip.AddrPort
	var serr error
	err = raw.Control(func(fd uintptr) {
		// A struct sockaddr_in has the size of an ipv6_mreq, and this call is there for one.
		var mreq *unix.IPv6Mreq
		if mreq, serr = unix.GetsockoptIPv6Mreq(int(fd), unix.IPPROTO_IP, unix.SO_ORIGINAL_DST); serr == nil {
			b := mreq.Multiaddr
			to = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), binary.BigEndian.Uint16(b[2:4]))
		}
	})
	return to, errors.Join(err, serr)
}

// opened is what netd holds that needs rights to be had.
type opened struct {
	packets, filteredPackets net.PacketConn
	stream, filteredStream   net.Listener
	proxy                    *net.TCPListener
	control                  net.Listener
	flows                    *nflog.Reader // nil: none
	logs                     *egresslog.Dir
	closers                  []func() error
}

func (o *opened) close() {
	for _, c := range slices.Backward(o.closers) {
		_ = c()
	}
}

func openAll(ctx context.Context, cfg Config) (*opened, error) {
	o := &opened{}
	if err := o.open(ctx, cfg); err != nil {
		o.close()
		return nil, err
	}
	return o, nil
}

func (o *opened) open(ctx context.Context, cfg Config) (err error) {
	var listen net.ListenConfig
	cannot := func(err error, what string) error {
		return errors.Wrap(err, errors.Unavailable, "cannot listen for %s on %s", what, cfg.Listen)
	}
	for _, l := range []struct {
		port    uint16
		packets *net.PacketConn
		stream  *net.Listener
	}{{53, &o.packets, &o.stream}, {FilteredDNSPort, &o.filteredPackets, &o.filteredStream}} {
		at := netip.AddrPortFrom(cfg.Listen, l.port).String()
		if *l.packets, err = listen.ListenPacket(ctx, "udp4", at); err != nil {
			return cannot(err, "DNS")
		}
		o.closers = append(o.closers, (*l.packets).Close)
		if *l.stream, err = listen.Listen(ctx, "tcp4", at); err != nil {
			return cannot(err, "DNS")
		}
		o.closers = append(o.closers, (*l.stream).Close)
	}
	l, err := listen.Listen(ctx, "tcp4", netip.AddrPortFrom(cfg.Listen, ProxyPort).String())
	if err != nil {
		return cannot(err, "connections")
	}
	o.proxy = l.(*net.TCPListener)
	o.closers = append(o.closers, l.Close)
	if o.logs, err = egresslog.Open(cfg.LogDir, cfg.LogBytes); err != nil {
		return err
	}
	o.closers = append(o.closers, o.logs.Close)
	if cfg.LogGroup != 0 {
		if o.flows, err = nflog.Open(cfg.LogGroup); err != nil {
			return err
		}
		o.closers = append(o.closers, o.flows.Close)
	}
	if o.control, err = listenControl(ctx, cfg.Control); err != nil {
		return err
	}
	o.closers = append(o.closers, o.control.Close)
	return nil
}

// hold takes the lock and writes the process ID under it. What stays open is
// for reading only: the manager signals whom the file names, so a netd that
// an attacker has taken over must not be able to write there.
func hold(path string) (*os.File, error) {
	// Not created here: the file goes with the instance, and a netd that
	// starts late must not come to life after it.
	f, err := os.Open(path)
	if err != nil {
		return nil, errors.Wrap(err, errors.Unavailable, "cannot open netd's lock file")
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, errors.Wrap(err, errors.Conflict, "another netd serves this instance")
	}
	w, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	if err == nil {
		_, err = fmt.Fprintf(w, "%d\n", os.Getpid())
		err = errors.Join(err, w.Close())
	}
	if err != nil {
		_ = f.Close()
		return nil, errors.Wrap(err, errors.Unavailable, "cannot write netd's lock file")
	}
	return f, nil
}

// giveUpRights becomes an unprivileged user for good. package syscall sets
// the IDs of every thread; x/sys would set those of one.
func giveUpRights(user uint32) error {
	if user == 0 {
		return nil
	}
	// ENOTSUP: a binary with cgo, as the race detector's is, cannot reach every thread.
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0)
	var err error
	if errno != 0 && errno != unix.ENOTSUP {
		err = errno
	}
	if err == nil {
		err = syscall.Setgroups(nil)
	}
	if err == nil {
		err = syscall.Setresgid(int(user), int(user), int(user))
	}
	if err == nil {
		err = syscall.Setresuid(int(user), int(user), int(user))
	}
	if err != nil {
		return errors.Wrap(err, errors.Unavailable, "netd cannot become user %d", user)
	}
	return nil
}
