package ws

import (
	"context"
	"encoding/json"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/time/rate"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
)

// conn is a WebSocket whose writes have a deadline and which shows that it
// lives when it has nothing to say.
type conn struct {
	ws      *websocket.Conn
	stall   time.Duration
	frames  *rate.Limiter // of what the client sends
	writing atomic.Int32  // writers at work or waiting: then no ping is needed, nor possible
	wrote   atomic.Int64  // count of finished writes
}

// What a client sends is read at this pace, pings included, and then its
// connection makes it wait: taking a frame apart costs more than sending one.
const (
	framesPerSecond = 4000
	framesBurst     = 8000
)

// read takes the client's next message, in its own time.
func (c *conn) read(ctx context.Context) (websocket.MessageType, []byte, error) {
	kind, frame, err := c.ws.Read(ctx)
	if err == nil {
		err = c.frames.Wait(ctx)
	}
	return kind, frame, err
}

// Writes take a context of their own: ending one breaks the connection, and
// when the stream's context ends there is still a goodbye to be said.
func (c *conn) write(kind websocket.MessageType, p []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), c.stall)
	defer cancel()
	c.writing.Add(1)
	err := c.ws.Write(ctx, kind, p)
	c.writing.Add(-1)
	c.wrote.Add(1)
	return err
}

func (c *conn) send(v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return c.write(websocket.MessageText, text)
}

func (c *conn) sendError(err error) error {
	e := errors.Public(err)
	return c.send(wire.ServerControl{Type: wire.ControlError, Code: string(e.Code), Message: e.Message, Hint: e.Hint, Field: e.Field})
}

// keepAlive pings whenever nothing was written for a while, until ctx ends. A
// peer that does not answer is gone: the connection is closed.
func (c *conn) keepAlive(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	last := c.wrote.Load()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if now := c.wrote.Load(); now != last || c.writing.Load() > 0 {
			last = now
			continue
		}
		pctx, cancel := context.WithTimeout(ctx, every)
		err := c.ws.Ping(pctx)
		cancel()
		if err != nil && ctx.Err() == nil {
			_ = c.ws.CloseNow()
			return
		}
	}
}

// streamError is the cause of a stream's end that its client is told.
type streamError struct{ error }

func (e streamError) Unwrap() error { return e.error }

// bye ends the connection in the way that fits why the stream ended.
func (c *conn) bye(ctx context.Context, err error) {
	var told streamError
	switch {
	case err == nil:
		_ = c.ws.Close(websocket.StatusNormalClosure, "")
	case errors.Is(context.Cause(ctx), errStopping):
		_ = c.ws.Close(wire.CloseRestart, "the server is stopping; connect again")
	case errors.As(context.Cause(ctx), &told):
		c.refuse(told)
	case ctx.Err() != nil:
		_ = c.ws.CloseNow() // the client is gone
	default:
		c.refuse(err)
	}
}

func (c *conn) refuse(err error) {
	if c.sendError(err) == nil {
		_ = c.ws.Close(wire.CloseRefused, "see the error frame")
	}
	_ = c.ws.CloseNow()
}
