package logging

import (
	"bytes"
	"context"
	"log/slog"
	"sync"
	"time"
)

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
