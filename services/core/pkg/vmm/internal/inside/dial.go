// Package inside connects to TCP ports within a machine's network namespace.
package inside

import (
	"context"
	"net"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// Dial connects to a port of the loopback interface of the namespace at a path,
// at its IPv4 address and then its IPv6 one. Returns Unavailable when nothing
// listens there.
func Dial(ctx context.Context, netns string, port uint32) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	results := make(chan result, 1)
	go func() {
		// A thread that cannot go back to the host's network is never unlocked and ends.
		runtime.LockOSThread()
		home, err := enter(netns)
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
	var coded *errors.Error
	switch {
	case r.err == nil:
		return r.conn, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.As(r.err, &coded):
		return nil, r.err
	}
	return nil, errors.Wrap(r.err, errors.Unavailable, "nothing listens on port %d", port)
}

// enter moves the calling thread into a network namespace and returns the way back.
func enter(path string) (home func() error, err error) {
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
