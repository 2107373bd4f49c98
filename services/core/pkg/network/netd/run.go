package netd

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// Run serves until ctx ends. ready is called once netd holds its lock,
// listens and has given up its rights. Returns Conflict when another netd
// holds the lock, Unavailable when the address cannot be bound.
func Run(ctx context.Context, cfg Config, log *slog.Logger, ready func()) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	lock, err := hold(cfg.LockFile)
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }()

	at := netip.AddrPortFrom(cfg.Listen, 53).String()
	var listen net.ListenConfig
	packets, err := listen.ListenPacket(ctx, "udp4", at)
	if err != nil {
		return errors.Wrap(err, errors.Unavailable, "cannot listen for DNS on %s", cfg.Listen)
	}
	defer func() { _ = packets.Close() }()
	stream, err := listen.Listen(ctx, "tcp4", at)
	if err != nil {
		return errors.Wrap(err, errors.Unavailable, "cannot listen for DNS on %s", cfg.Listen)
	}
	defer func() { _ = stream.Close() }()
	if err := giveUpRights(cfg.User); err != nil {
		return err
	}

	f := newForwarder(cfg, newUpstreams(cfg.Resolvers, cfg.Clients, hostFiles()))
	servers := []*dns.Server{
		{PacketConn: packets, Handler: f, UDPSize: dns.DefaultMsgSize},
		{
			Listener: limitListener(stream, newLimiter(maxConnections, maxConnectionsPerClient)), Handler: f,
			ReadTimeout: streamIdle, WriteTimeout: streamIdle, MaxTCPQueries: 128,
			IdleTimeout: func() time.Duration { return streamIdle },
		},
	}
	ended := make(chan error, len(servers))
	for _, s := range servers {
		go func() { ended <- s.ActivateAndServe() }()
	}
	log.Info("netd serves", "listen", at, "clients", cfg.Clients.String())
	ready()
	select {
	case <-ctx.Done():
		log.Info("netd ends")
		return nil
	case err := <-ended:
		if err == nil {
			err = errors.Plain("the server returned")
		}
		return errors.Wrap(err, errors.Unavailable, "netd stopped serving")
	}
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
