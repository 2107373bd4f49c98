package logging

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"
)

// Tee hands each record to several handlers.
func Tee(to ...slog.Handler) slog.Handler {
	if len(to) == 1 {
		return to[0]
	}
	return tee(to)
}

type tee []slog.Handler

// Enabled implements slog.Handler.
func (t tee) Enabled(ctx context.Context, level slog.Level) bool {
	for _, h := range t {
		if h.Enabled(ctx, level) {
			return true
		}
	}
	return false
}

// Handle implements slog.Handler.
func (t tee) Handle(ctx context.Context, r slog.Record) error {
	var errs []error
	for _, h := range t {
		if h.Enabled(ctx, r.Level) {
			errs = append(errs, h.Handle(ctx, r.Clone()))
		}
	}
	return errors.Join(errs...)
}

// WithAttrs implements slog.Handler.
func (t tee) WithAttrs(attrs []slog.Attr) slog.Handler {
	return t.each(func(h slog.Handler) slog.Handler { return h.WithAttrs(attrs) })
}

// WithGroup implements slog.Handler.
func (t tee) WithGroup(name string) slog.Handler {
	return t.each(func(h slog.Handler) slog.Handler { return h.WithGroup(name) })
}

func (t tee) each(f func(slog.Handler) slog.Handler) slog.Handler {
	out := make(tee, len(t))
	for i, h := range t {
		out[i] = f(h)
	}
	return out
}

// Line is a record as one line of JSON, without its end.
type Line struct {
	At    time.Time
	Level slog.Level
	Text  string
}

// NewLines makes a handler that gives lines to take. level is as for [New].
// Returns InvalidArgument.
func NewLines(level string, take func(Line)) (slog.Handler, error) {
	l := &lines{mu: new(sync.Mutex), buf: new(bytes.Buffer), take: take}
	log, err := New(l.buf, JSON, level)
	if err != nil {
		return nil, err
	}
	l.Handler = log.Handler()
	return l, nil
}

type lines struct {
	slog.Handler // writes to buf
	mu           *sync.Mutex
	buf          *bytes.Buffer
	take         func(Line)
}

// Handle implements slog.Handler.
func (l *lines) Handle(ctx context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf.Reset()
	err := l.Handler.Handle(ctx, r)
	if err == nil {
		l.take(Line{r.Time, r.Level, string(bytes.TrimSuffix(l.buf.Bytes(), []byte{'\n'}))})
	}
	return err
}

// WithAttrs implements slog.Handler.
func (l *lines) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *l
	c.Handler = l.Handler.WithAttrs(attrs)
	return &c
}

// WithGroup implements slog.Handler.
func (l *lines) WithGroup(name string) slog.Handler {
	c := *l
	c.Handler = l.Handler.WithGroup(name)
	return &c
}
