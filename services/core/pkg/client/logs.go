package client

import (
	"context"
	"encoding/json"
	"iter"
	"net/url"
	"strconv"
	"time"

	"github.com/coder/websocket"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
)

// LogFilter narrows what servers have logged. Zero fields do not filter.
type LogFilter struct {
	Since, Until time.Time
	Level        string // and above
	Service      string // a program, such as worker
	Host         string
	Text         string // contained
	VM           string // ID
	Request      string // ID
}

func (f LogFilter) params() [][2]string {
	stamp := func(t time.Time) string {
		if t.IsZero() {
			return ""
		}
		return t.UTC().Format(time.RFC3339Nano)
	}
	return [][2]string{
		{"since", stamp(f.Since)}, {"until", stamp(f.Until)}, {"level", f.Level}, {"service", f.Service}, {"host", f.Host},
		{"text", f.Text}, {"vm", f.VM}, {"request", f.Request},
	}
}

// maxToldLines bounds the lines that are known again when they come once more.
const maxToldLines = 10_000

// Logs lists what servers have logged, the newest first; as many as limit, or all
// where it is 0. Returns PermissionDenied for keys that are no administrator's.
func (c *Client) Logs(ctx context.Context, f LogFilter, limit int) iter.Seq2[api.LogLine, error] {
	return func(yield func(api.LogLine, error) bool) {
		for cursor, left := "", limit; ; {
			cl := get("logs")
			for _, p := range f.params() {
				if p[1] != "" {
					cl = cl.param(p[0], p[1])
				}
			}
			n := pageItems
			if limit > 0 {
				n = min(n, left)
			}
			cl = cl.param("limit", strconv.Itoa(n))
			if cursor != "" {
				cl = cl.param("cursor", cursor)
			}
			page, err := fetch[api.LogPage](ctx, c, cl)
			if err != nil {
				yield(api.LogLine{}, err)
				return
			}
			for _, l := range page.Items {
				if !yield(l, nil) {
					return
				}
			}
			left -= len(page.Items)
			if cursor = page.NextCursor; cursor == "" || limit > 0 && left <= 0 {
				return
			}
		}
	}
}

// FollowLogs gives the lines since f.Since, or from now on, and those to come
// until ctx ends, across disconnects.
func (c *Client) FollowLogs(ctx context.Context, f LogFilter) iter.Seq2[api.LogLine, error] {
	return func(yield func(api.LogLine, error) bool) {
		last := ""
		told := map[string]struct{}{}
		for b := c.backoff(); ; {
			err := c.logStream(ctx, f, last, func(l api.LogLine) bool {
				b.reset()
				if _, again := told[l.ID]; again {
					return true
				}
				if len(told) >= maxToldLines {
					clear(told)
				}
				told[l.ID], last = struct{}{}, l.ID
				return yield(l, nil)
			})
			if err == nil {
				return
			}
			again := transient(err) && c.reached.Load() || c.worthRepeating(ctx, err)
			if !again || !b.wait(ctx, err) {
				yield(api.LogLine{}, err)
				return
			}
		}
	}
}

// logStream reads one connection's lines; nil means that nobody wants more.
func (c *Client) logStream(ctx context.Context, f LogFilter, after string, take func(api.LogLine) bool) error {
	query := url.Values{}
	for _, p := range f.params() {
		if p[1] != "" {
			query.Set(p[0], p[1])
		}
	}
	if after != "" {
		query.Set("after", after)
	}
	ws, err := c.dial(ctx, []string{"logs", "stream"}, query)
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
		if kind != websocket.MessageText {
			return protocolError("something else than a line")
		}
		var m struct {
			api.LogLine
			Type string `json:"type"`
			Code string `json:"code"`
			Hint string `json:"hint"`
		}
		if json.Unmarshal(text, &m) != nil {
			return truncated()
		}
		if m.Type == api.ControlError && m.Code != "" {
			e := errors.New(errors.Code(m.Code), "%s", m.Message)
			e.Hint = m.Hint
			return e
		}
		if !take(m.LogLine) {
			return nil
		}
	}
}
