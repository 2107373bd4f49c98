package oci

import (
	"context"
	"net"
	"os"
	"runtime"
	"strconv"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"golang.org/x/sys/unix"
)

// Dial connects to the agent or to a TCP port in a machine. See [vmm.Driver].
// A paused machine is Conflict: it would never answer.
func (d *Driver) Dial(ctx context.Context, id string, port uint32) (net.Conn, error) {
	if port == 0 || port > 65535 {
		return nil, errors.New(errors.InvalidArgument, "port %d does not exist", port)
	}
	r, err := d.running(id)
	if err != nil {
		return nil, err
	}
	if r.run.Paused && d.group(id).Frozen() {
		return nil, errors.New(errors.Conflict, "the machine is paused")
	}
	var conn net.Conn
	if port == vmm.AgentPort {
		conn, err = new(net.Dialer).DialContext(ctx, "unix", d.cfg.paths(id).socket)
	} else {
		conn, err = d.dialPort(ctx, id, port)
	}
	var coded *errors.Error
	switch {
	case err == nil:
		return conn, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.As(err, &coded):
		return nil, err
	case port == vmm.AgentPort:
		return nil, errors.Wrap(err, errors.Unavailable, "the machine's agent does not listen")
	}
	return nil, errors.Wrap(err, errors.Unavailable, "nothing listens on port %d", port)
}

// dialPort connects from within the machine's network, to its IPv4 loopback
// address and then its IPv6 one.
func (d *Driver) dialPort(ctx context.Context, id string, port uint32) (net.Conn, error) {
	att, ok, err := d.cfg.Network.Lookup(ctx, id)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, errors.New(errors.Conflict, "the machine has no network")
	}
	type result struct {
		conn net.Conn
		err  error
	}
	results := make(chan result, 1)
	go func() {
		// A thread that cannot go back to the host's network is never unlocked and ends.
		runtime.LockOSThread()
		home, err := enterNetwork(att.NetNS)
		if err != nil {
			results <- result{err: errors.Wrap(err, errors.Internal, "cannot enter the machine's network")}
			return
		}
		var r result
		for _, host := range []string{"127.0.0.1", "::1"} {
			// For a literal address the socket is made on this very thread.
			dialer := net.Dialer{FallbackDelay: -1}
			r.conn, r.err = dialer.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.FormatUint(uint64(port), 10)))
			if r.err == nil {
				break
			}
		}
		if home() == nil {
			runtime.UnlockOSThread()
		}
		results <- r
	}()
	r := <-results
	return r.conn, r.err
}

// enterNetwork moves the calling thread into a network namespace and returns the way back.
func enterNetwork(path string) (home func() error, err error) {
	host, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	target, err := os.Open(path)
	if err != nil {
		host.Close()
		return nil, err
	}
	defer target.Close()
	if err := unix.Setns(int(target.Fd()), unix.CLONE_NEWNET); err != nil {
		host.Close()
		return nil, err
	}
	return func() error {
		defer host.Close()
		return unix.Setns(int(host.Fd()), unix.CLONE_NEWNET)
	}, nil
}
