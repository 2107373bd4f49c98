package firecracker

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/record"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/microvm"
)

// A guest that is saved is told to reset the connections of its vsock, and does
// so when it goes on, itself or another from its memory. That takes a moment, and
// what was connected in it is reset too (seen with 1.12). So the first connections
// are for that alone.

// answersEnough is how many connections in a row, answered and not reset, say
// that nothing is to be expected.
const answersEnough = 3

func unsettledPath(g microvm.Guest) string { return filepath.Join(g.Dir, "unsettled") }

// unsettle notes that a guest was saved or restored and not talked to since.
func unsettle(g microvm.Guest) error { return record.Write(unsettledPath(g), struct{}{}) }

// settle spends connections until one is reset, or enough are answered.
func (e *Engine) settle(ctx context.Context, g microvm.Guest) error {
	noted, err := os.Stat(unsettledPath(g))
	if err != nil {
		return nil //nolint:nilerr // it is settled
	}
	for answers := 0; answers < answersEnough; {
		err := probe(ctx, g)
		e.log.DebugContext(ctx, "a guest is probed", "machine", g.ID, "error", err)
		if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
			break
		} else if err != nil {
			return err
		}
		answers++
	}
	if now, err := os.Stat(unsettledPath(g)); err == nil && !os.SameFile(noted, now) {
		return e.settle(ctx, g) // it was saved meanwhile
	}
	if err := os.Remove(unsettledPath(g)); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}

// probe makes a connection and waits for the agent's answer. What it returns is
// of the established connection, or [errUnheard].
func probe(ctx context.Context, g microvm.Guest) error {
	conn, err := ask(ctx, g)
	if errors.Is(err, io.EOF) {
		return errors.Join(errUnheard, errors.Plain(err.Error()))
	} else if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := conn.SetDeadline(time.Now().Add(answerWithin)); err != nil {
		return err
	}
	if _, err = io.WriteString(conn, "GET /health HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n"); err == nil {
		_, err = conn.Read(make([]byte, 1))
	}
	return err
}

var errUnheard = errors.Plain("nobody listens yet")
