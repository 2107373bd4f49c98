package client

import (
	"context"
	"encoding/json"
	"iter"
	"net/url"
	"strconv"

	"github.com/coder/websocket"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
)

// Events lists the events after a cursor, oldest first, up to now.
func (c *Client) Events(ctx context.Context, after int64) iter.Seq2[api.Event, error] {
	return func(yield func(api.Event, error) bool) {
		for {
			page, err := fetch[api.EventList](ctx, c, get("events").
				param("after", strconv.FormatInt(after, 10)).param("limit", strconv.Itoa(pageItems)))
			if err != nil {
				yield(api.Event{}, err)
				return
			}
			for _, ev := range page.Items {
				after = ev.Seq
				if !yield(ev, nil) {
					return
				}
			}
			if len(page.Items) == 0 {
				return
			}
		}
	}
}

// FollowEvents gives the events after a cursor and those to come until ctx
// ends, across disconnects. A negative cursor means from now on.
func (c *Client) FollowEvents(ctx context.Context, after int64) iter.Seq2[api.Event, error] {
	return func(yield func(api.Event, error) bool) {
		for b := c.backoff(); ; {
			err := c.eventStream(ctx, &after, func(ev api.Event) bool {
				b.reset()
				return yield(ev, nil)
			})
			if err == nil {
				return
			}
			again := transient(err) && c.reached.Load() || c.worthRepeating(ctx, err)
			if !again || !b.wait(ctx, err) {
				yield(api.Event{}, err)
				return
			}
		}
	}
}

// eventStream reads one connection's events; nil means that nobody wants more.
func (c *Client) eventStream(ctx context.Context, after *int64, take func(api.Event) bool) error {
	query := url.Values{}
	if *after >= 0 {
		query.Set("after", strconv.FormatInt(*after, 10))
	}
	ws, err := c.dial(ctx, []string{"events", "stream"}, query)
	if err != nil {
		return err
	}
	defer func() { _ = ws.CloseNow() }()
	ws.SetReadLimit(maxFrameBytes)
	for {
		kind, text, err := ws.Read(ctx)
		if err != nil {
			return c.unreachable(ctx, err)
		}
		var m struct {
			api.Event
			Code    string `json:"code"`
			Message string `json:"message"`
		}
		if kind != websocket.MessageText {
			return protocolError("something else than an event")
		}
		if json.Unmarshal(text, &m) != nil {
			return truncated()
		}
		if m.Type == api.ControlError && m.Code != "" {
			return errors.New(errors.Code(m.Code), "%s", m.Message)
		}
		*after = m.Seq
		if !take(m.Event) {
			return nil
		}
	}
}
