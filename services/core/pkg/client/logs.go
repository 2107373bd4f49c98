package client

import (
	"context"
	"encoding/json"
	"iter"
	"net/url"
	"strconv"
	"time"

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
	Trace        string // ID
	// Missing is told of servers whose lines are missing, and why; nil: nobody is.
	Missing func(api.LogMissing)
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
		{"text", f.Text}, {"vm", f.VM}, {"request", f.Request}, {"trace_id", f.Trace},
	}
}

func (f LogFilter) missing(m api.LogMissing) {
	if f.Missing != nil {
		f.Missing(m)
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
			for _, m := range page.Missing {
				f.missing(m)
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
		lines := follow(ctx, c, func(take func(api.LogLine) bool) error { return c.logStream(ctx, f, last, take) })
		for l, err := range lines {
			if err == nil {
				if _, again := told[l.ID]; again {
					continue
				}
				if len(told) >= maxToldLines {
					clear(told)
				}
				told[l.ID], last = struct{}{}, l.ID
			}
			if !yield(l, err) {
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
	return c.messages(ctx, []string{"logs", "stream"}, query, "a line", nil, func(text []byte) (more bool, err error) {
		var m struct {
			api.LogLine
			Type string `json:"type"`
			Code string `json:"code"`
			Hint string `json:"hint"`
		}
		if json.Unmarshal(text, &m) != nil {
			return false, truncated()
		}
		if m.Type == api.ControlError && m.Code != "" {
			e := errors.New(errors.Code(m.Code), "%s", m.Message)
			e.Hint = m.Hint
			return false, e
		}
		if m.Type == api.LogsMissing {
			var missing api.LogMissing
			if json.Unmarshal(text, &missing) != nil {
				return false, truncated()
			}
			f.missing(missing)
			return true, nil
		}
		return take(m.LogLine), nil
	})
}
