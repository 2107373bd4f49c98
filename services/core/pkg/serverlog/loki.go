package serverlog

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/loki"
)

const (
	// defaultRange is how far back lines are looked for where nobody says: Lokis
	// bound it.
	defaultRange = 24 * time.Hour
	// ahead is how much later than here clocks elsewhere may be.
	ahead = time.Minute
	// askEvery is how often a Loki is asked for more lines, and lateness how much
	// later than their time they may come there. Its own stream (tail, a
	// WebSocket) gives up lines of whoever is slow, cannot go on where it was, and
	// is refused by many a proxy in front of it.
	askEvery = time.Second
	lateness = 10 * time.Second
	// maxTold bounds the lines of one moment that pages may part.
	maxTold = 60
)

// Loki reads what all servers send to a Loki.
type Loki struct{ from *loki.Reader }

// NewLoki reads from a Loki.
func NewLoki(from *loki.Reader) *Loki { return &Loki{from} }

// Kind implements Source.
func (s *Loki) Kind() string { return "loki" }

// lokiPlace is behind some lines of a moment: Loki gives those of one in no order
// that could be relied on.
type lokiPlace struct {
	At   int64    `json:"at"`   // nanoseconds since 1970
	Told []string `json:"told"` // sums of lines
}

// sum tells lines of a moment apart. Loki itself keeps one of those that are the same.
func sum(l loki.Found) string {
	s := sha256.Sum256([]byte(l.Labels["service"] + "\x00" + l.Labels["host"] + "\x00" + l.Text))
	return base64.RawURLEncoding.EncodeToString(s[:6])
}

// decodeLoki returns InvalidArgument.
func decodeLoki(s, field string) (at lokiPlace, err error) {
	if err := decode(s, field, &at); err != nil {
		return at, err
	}
	if len(at.Told) < 1 || len(at.Told) > maxTold {
		return at, errors.New(errors.InvalidArgument, "this is no place in these lines").WithField(field)
	}
	return at, nil
}

// logQL is the query that finds lines: all that comes from outside is quoted.
func logQL(f Filter) string {
	var q strings.Builder
	service := `=~"aetherium-.+"` // and no other program's
	if f.Service != "" {
		service = "=" + loki.Quote(f.Service)
	}
	fmt.Fprintf(&q, "{service%s", service)
	if f.Host != "" {
		fmt.Fprintf(&q, ", host=%s", loki.Quote(f.Host))
	}
	if f.Leveled {
		var names []string
		for _, l := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
			if l >= f.Level {
				names = append(names, strings.ToLower(l.String()))
			}
		}
		fmt.Fprintf(&q, ", level=~%s", loki.Quote(strings.Join(names, "|")))
	}
	q.WriteString("}")
	for _, n := range f.needles() {
		fmt.Fprintf(&q, " |= %s", loki.Quote(n))
	}
	n := 0
	for _, c := range f.byField() {
		var read, is []string
		for _, k := range c.keys {
			name := fmt.Sprintf("is%d", n)
			n++
			read, is = append(read, name+"="+loki.Quote(k)), append(is, name+"="+loki.Quote(c.value))
		}
		fmt.Fprintf(&q, " | json %s | %s", strings.Join(read, ", "), strings.Join(is, " or "))
	}
	return q.String()
}

// Read implements Source.
func (s *Loki) Read(ctx context.Context, f Filter, p Page) (List, error) {
	now := time.Now()
	var at lokiPlace
	if p.Cursor != "" {
		var err error
		if at, err = decodeLoki(p.Cursor, cursorField); err != nil {
			return List{}, err
		}
	}
	if f.Until.IsZero() {
		f.Until = now.Add(ahead)
	}
	if f.Since.IsZero() {
		f.Since = f.Until.Add(-defaultRange)
	}
	if p.Cursor != "" { // a query's end is before what is said, its start is not
		if moment := time.Unix(0, at.At); p.Oldest {
			f.Since = later(f.Since, moment)
		} else if end := moment.Add(1); end.Before(f.Until) {
			f.Until = end
		}
	}
	if !f.Since.Before(f.Until) {
		return List{}, nil
	}
	limit := p.Limit + len(at.Told)
	found, err := s.from.Query(ctx, loki.Query{LogQL: logQL(f), Start: f.Since, End: f.Until, Limit: limit, Oldest: p.Oldest})
	if err != nil {
		return List{}, err
	}
	more := len(found) >= limit
	found = slices.DeleteFunc(found, func(l loki.Found) bool { return l.At.UnixNano() == at.At && slices.Contains(at.Told, sum(l)) })
	if len(found) > p.Limit {
		found, more = found[:p.Limit], true
	}
	var out List
	next := at
	for _, l := range found {
		out.Entries = append(out.Entries, entryOf(l))
		if l.At.UnixNano() != next.At {
			next = lokiPlace{At: l.At.UnixNano()}
		}
		next.Told = append(slices.Clip(next.Told), sum(l))
	}
	if more && len(found) > 0 {
		if len(next.Told) > maxTold {
			return List{}, errors.New(errors.Unsupported, "more than %d lines are of one moment", maxTold).WithHint("narrow the query, or ask for a larger page")
		}
		out.Next = encode(next)
	}
	return out, nil
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func entryOf(l loki.Found) Entry {
	text := l.Text
	long := len(text) > maxLine
	if long {
		text = text[:maxLine]
	}
	e := parse([]byte(text))
	e.Cut = e.Cut || long
	e.At, e.Service, e.Host = l.At, l.Labels["service"], l.Labels["host"]
	if e.Level == "" {
		e.Level = l.Labels["level"]
	}
	e.ID = encode(lokiPlace{l.At.UnixNano(), []string{sum(l)}})
	return e
}

// Check implements Source.
func (s *Loki) Check(after string) error {
	if after == "" {
		return nil
	}
	_, err := decodeLoki(after, resumeField)
	return err
}

// Follow implements Source. Lines that come late are told late, and not missed;
// of who goes on behind a line those of the last moments before it come once more.
func (s *Loki) Follow(ctx context.Context, f Filter, after string, to Listener) error {
	from, newest := f.Since, time.Now()
	told := map[string]time.Time{}
	switch {
	case after != "":
		at, err := decodeLoki(after, resumeField)
		if err != nil {
			return err
		}
		newest = earlier(newest, time.Unix(0, at.At))
		told[after] = newest
		from = later(from, newest.Add(-lateness))
	case from.IsZero():
		from = newest
	default:
		newest = from
	}
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for {
		f.Since = later(from, newest.Add(-lateness))
		f.Until = time.Now().Add(ahead)
		page := Page{Limit: MaxLimit, Oldest: true}
		for {
			l, err := s.Read(ctx, f, page)
			if err != nil {
				return err
			}
			for _, e := range l.Entries {
				if _, known := told[e.ID]; known {
					continue
				}
				if err := to.Line(e); err != nil {
					return err
				}
				told[e.ID] = e.At
				newest = later(newest, earlier(e.At, time.Now())) // clocks elsewhere may be ahead
			}
			if page.Cursor = l.Next; page.Cursor == "" {
				break
			}
		}
		for id, at := range told {
			if at.Before(newest.Add(-lateness)) {
				delete(told, id)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
