package ws

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

const eventBatch = 256

func appendJSONString(b []byte, s string) []byte {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	_ = enc.Encode(s) // a string always encodes
	return append(b, bytes.TrimRight(buf.Bytes(), "\n")...)
}

// teller is a stream of JSON messages, of either kind.
type teller interface {
	tell(name, id string, v any) error
	// mark tells where to go on, before anything was told.
	mark(id string) error
}

type sseTeller struct{ *sse }

func (t sseTeller) tell(name, id string, v any) error { return t.event(name, id, v) }

// mark sends an event without data: it is dispatched to nobody, and its ID is the
// last one (HTML, 9.2.6).
func (t sseTeller) mark(id string) error { return t.raw([]byte("id: " + id + "\n\n")) }

type wsTeller struct{ *conn }

func (t wsTeller) tell(_, _ string, v any) error { return t.send(v) }

func (wsTeller) mark(string) error { return nil } // in a header of the answer

// messages serves a one-way stream of JSON over WebSocket or as server-sent
// events, as the request asks. prepare runs before anything is answered, and
// its error is the answer; run then tells until it returns.
func (s *Streams) messages(w http.ResponseWriter, r *http.Request, kind string,
	prepare func(ctx context.Context) (run func(ctx context.Context, t teller) error, err error),
) error {
	ctx, leave, err := s.enter(r, kind)
	if err != nil {
		return err
	}
	defer leave()
	if !IsUpgrade(r) && !WantsSSE(r) {
		return errors.New(errors.NotAcceptable, "this is a stream").
			WithHint("connect a WebSocket, or send Accept: text/event-stream")
	}
	run, err := prepare(ctx)
	if err != nil {
		return err
	}
	if !IsUpgrade(r) {
		events, err := startSSE(w, s.Ping)
		if err != nil {
			return nil
		}
		defer events.close()
		events.fail(ctx, run(ctx, sseTeller{events}))
		return nil
	}
	c, err := s.accept(w, r)
	if err != nil {
		return err
	}
	ws := c.ws
	ctx, cancel := context.WithCancelCause(ctx)
	unhook := context.AfterFunc(r.Context(), func() { _ = ws.CloseNow() })
	defer unhook()
	done := make(chan struct{})
	go func() { // the client has nothing to say, but its close and pongs are read
		defer close(done)
		for {
			if _, _, err := c.read(context.Background()); err != nil {
				cancel(err)
				return
			}
		}
	}()
	pinger := make(chan struct{})
	go func() { defer close(pinger); c.keepAlive(ctx, s.Ping) }()
	c.bye(ctx, run(ctx, wsTeller{c}))
	cancel(context.Canceled)
	_ = ws.CloseNow()
	<-done
	<-pinger
	return nil
}

// Tell sends a message: its name and ID, where it has one, and what becomes JSON.
type Tell func(name, id string, v any) error

// Messages serves what run tells until it returns.
func (s *Streams) Messages(w http.ResponseWriter, r *http.Request, kind string, run func(ctx context.Context, tell Tell) error) error {
	return s.messages(w, r, kind, func(context.Context) (func(context.Context, teller) error, error) {
		return func(ctx context.Context, t teller) error { return run(ctx, t.tell) }, nil
	})
}

// Events serves the events after a cursor, and those to come. after < 0 means from now.
func (s *Streams) Events(w http.ResponseWriter, r *http.Request, by vmm.Caller, after int64) error {
	if last := r.Header.Get("Last-Event-ID"); last != "" {
		n, err := strconv.ParseInt(last, 10, 64)
		if err != nil || n < 0 {
			return errors.New(errors.InvalidArgument, "Last-Event-ID is not one of this stream").WithField("header.Last-Event-ID")
		}
		after = n
	}
	return s.messages(w, r, "events", func(ctx context.Context) (func(context.Context, teller) error, error) {
		if after < 0 {
			var err error
			if _, after, err = s.VMs.EventBounds(ctx); err != nil {
				return nil, err
			}
		}
		// Who is cut off before the first event goes on from here, and misses none.
		cursor := strconv.FormatInt(after, 10)
		w.Header().Set(wire.HeaderEventCursor, cursor)
		return func(ctx context.Context, t teller) error {
			if err := t.mark(cursor); err != nil {
				return err
			}
			return s.followEvents(ctx, by, after, t)
		}, nil
	})
}

func (s *Streams) followEvents(ctx context.Context, by vmm.Caller, after int64, t teller) error {
	for behind := true; ; {
		// Taken before reading, so that no event slips in between.
		changed := s.VMs.EventsChanged()
		batch, err := s.VMs.ListEvents(ctx, by, after, eventBatch)
		if err != nil {
			return err
		}
		if behind {
			if after, err = s.tellGap(ctx, after, batch, t); err != nil {
				return err
			}
		}
		behind = len(batch) == eventBatch
		for _, e := range batch {
			if err := t.tell("event", strconv.FormatInt(e.Seq, 10), Event(e)); err != nil {
				return err
			}
			after = e.Seq
		}
		if behind {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// tellGap tells, after a batch was read and before it is told, that events between a
// cursor and the batch are not kept any more, and gives the cursor behind them. Who
// begins with the first asks for no more than what is kept.
func (s *Streams) tellGap(ctx context.Context, after int64, batch []domain.Event, t teller) (int64, error) {
	if after == 0 {
		return after, nil
	}
	oldest, _, err := s.VMs.EventBounds(ctx)
	if err != nil {
		return after, err
	}
	to := oldest - 1
	if len(batch) > 0 {
		to = min(to, batch[0].Seq-1) // some were removed after they were read
	}
	if to <= after {
		return after, nil
	}
	data, err := json.Marshal(wire.EventGap{From: after, To: to})
	if err != nil {
		return after, err
	}
	return to, t.tell(wire.TypeEventGap, strconv.FormatInt(to, 10), wire.Event{Seq: to, Type: wire.TypeEventGap, Data: data, At: time.Now().UTC()})
}

// Event is an event as it goes over the wire.
func Event(e domain.Event) wire.Event {
	return wire.Event{Seq: e.Seq, Type: e.Type, Subject: e.Subject.String(), VMID: e.VMID.String(), Data: e.Data, At: e.At}
}

// Watch serves the changes below a directory of a VM until the VM ends.
func (s *Streams) Watch(w http.ResponseWriter, r *http.Request, by vmm.Caller, vm domain.ID, path string, recursive bool, o vmm.FileOptions) error {
	return s.messages(w, r, "watch", func(ctx context.Context) (func(context.Context, teller) error, error) {
		changes, err := s.VMs.WatchDir(ctx, by, vm, path, recursive, o)
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context, t teller) error {
			for {
				select {
				case ev, open := <-changes:
					if !open {
						return context.Cause(ctx) // nil when the VM ended
					}
					if err := t.tell("change", "", wire.FileEvent{Type: ev.Type, Path: ev.Path}); err != nil {
						return err
					}
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			}
		}, nil
	})
}
