package firecracker

import (
	"context"
	"fmt"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/guest/bootline"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/microvm"
)

const (
	// answerWithin is how long a guest has to take a connection before it is asked
	// anew: a request that was made before its driver was there may get no answer.
	answerWithin = time.Second
	// askAgain is the pause between two requests while nobody listens yet.
	askAgain = 10 * time.Millisecond
	// maxGreeting bounds the answer, "OK" with a port number.
	maxGreeting = 32
)

// Dial connects to the guest's agent over the vsock, see [microvm.Engine].
// Connections end when the guest is saved. Returns Unavailable when the guest
// has ended.
func (e *Engine) Dial(ctx context.Context, g microvm.Guest) (net.Conn, error) {
	for {
		var conn net.Conn
		err := e.settle(ctx, g)
		if err == nil {
			conn, err = ask(ctx, g)
		}
		switch {
		case err == nil:
			e.forget(g)
			e.connections.add(g, conn)
			return conn, nil
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ECONNREFUSED):
			if said := e.said(g); said != "" {
				err = errors.Join(err, errors.Plain(said))
			}
			return nil, errors.Wrap(err, errors.Unavailable, "the machine has ended")
		case errors.HasCode(err, errors.GuestFault):
			return nil, err
		}
		select {
		case <-time.After(askAgain):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// ask asks for one connection.
func ask(ctx context.Context, g microvm.Guest) (net.Conn, error) {
	conn, err := connect(ctx, g, vsockSocket)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	r, err := runOf(g)
	if err == nil {
		err = greet(conn, bootline.AgentPort+r.Port)
	}
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// greet makes Firecracker's request for a port and reads no more than its answer.
func greet(conn net.Conn, port uint32) error {
	if err := conn.SetDeadline(time.Now().Add(answerWithin)); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(conn, "CONNECT %d\n", port); err != nil {
		return err
	}
	var line []byte
	for b := make([]byte, 1); len(line) < maxGreeting; line = append(line, b[0]) {
		if _, err := conn.Read(b); err != nil {
			return err
		}
		if b[0] == '\n' {
			if !strings.HasPrefix(string(line), "OK ") {
				break
			}
			return nil
		}
	}
	return errors.New(errors.GuestFault, "the monitor answers a request for a connection in a way that is not known")
}
