package tracing

import (
	"context"
	"log/slog"

	"go.opentelemetry.io/otel/trace"

	"github.com/aetherium/aetherium/libs/common/pkg/logging"
)

// Lines is a handler that adds the ID of the trace that it is given a line in, if
// any, whether that trace is recorded or not.
func Lines(next slog.Handler) slog.Handler { return lines{next} }

type lines struct{ slog.Handler }

// Handle implements slog.Handler.
func (l lines) Handle(ctx context.Context, r slog.Record) error {
	if of := trace.SpanContextFromContext(ctx); of.HasTraceID() {
		r = r.Clone()
		r.AddAttrs(slog.String(logging.TraceKey, of.TraceID().String()))
	}
	return l.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (l lines) WithAttrs(attrs []slog.Attr) slog.Handler { return lines{l.Handler.WithAttrs(attrs)} }

// WithGroup implements slog.Handler.
func (l lines) WithGroup(name string) slog.Handler { return lines{l.Handler.WithGroup(name)} }
