package client

import (
	"context"
	"encoding/json"
	"iter"
	"net/http"
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
	return follow(ctx, c, func(take func(api.Event) bool) error { return c.eventStream(ctx, &after, take) })
}

// follow gives what a stream gives, again and again across disconnects. stream
// reads one connection; nil means that nobody wants more.
func follow[T any](ctx context.Context, c *Client, stream func(take func(T) bool) error) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for b := c.backoff(); ; {
			err := stream(func(v T) bool {
				b.reset()
				return yield(v, nil)
			})
			if err == nil {
				return
			}
			again := transient(err) && c.reached.Load() || c.worthRepeating(ctx, err)
			if !again || !b.wait(ctx, err) {
				var none T
				yield(none, err)
				return
			}
		}
	}
}

// messages reads one connection's messages, which are what, until take wants no
// more or fails. begun, if not nil, is given the head of the answer first.
func (c *Client) messages(ctx context.Context, path []string, query url.Values, what string, begun func(http.Header),
	take func(text []byte) (more bool, err error),
) error {
	ws, head, err := c.dial(ctx, path, query)
	if err != nil {
		return err
	}
	if begun != nil {
		begun(head)
	}
	defer func() { _ = ws.CloseNow() }()
	ws.SetReadLimit(maxFrameBytes)
	for {
		kind, text, err := ws.Read(ctx)
		if err != nil {
			return c.unreachable(ctx, err)
		}
		if kind != websocket.MessageText {
			return protocolError("something else than " + what)
		}
		if more, err := take(text); err != nil || !more {
			return err
		}
	}
}

// eventStream reads one connection's events; nil means that nobody wants more.
func (c *Client) eventStream(ctx context.Context, after *int64, take func(api.Event) bool) error {
	query := url.Values{}
	if *after >= 0 {
		query.Set("after", strconv.FormatInt(*after, 10))
	}
	begun := func(head http.Header) {
		// After which event "now" was, should the connection end before the first one.
		if cursor, err := strconv.ParseInt(head.Get(api.HeaderEventCursor), 10, 64); err == nil && *after < 0 {
			*after = cursor
		}
	}
	return c.messages(ctx, []string{"events", "stream"}, query, "an event", begun, func(text []byte) (more bool, err error) {
		var m struct {
			api.Event
			Code    string `json:"code"`
			Message string `json:"message"`
		}
		if json.Unmarshal(text, &m) != nil {
			return false, truncated()
		}
		if m.Type == api.ControlError && m.Code != "" {
			return false, errors.New(errors.Code(m.Code), "%s", m.Message)
		}
		*after = m.Seq
		return take(m.Event), nil
	})
}
