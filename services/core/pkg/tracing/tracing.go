// Package tracing makes the spans of requests, from the gateway to the guest's
// process, and sends them to a collector by OTLP. Only what begins a trace in a
// process knows where spans go (a [Tracing], nil: nowhere); everything below has
// the span of its context, and where there is none makes none.
package tracing

import (
	"context"
	"log/slog"
	"net/http"
	"path"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/version"
)

const (
	// scope names who makes the spans.
	scope = "github.com/aetherium/aetherium"
	// maxWaiting bounds the spans that wait to be sent; further ones are dropped.
	maxWaiting = 8192
	// sendLimit bounds one attempt to send.
	sendLimit = 10 * time.Second
	// tellEvery is how often it is told that spans cannot be sent.
	tellEvery = time.Minute
)

// w3c is how a trace is passed on.
var w3c propagation.TraceContext

// Tracing is where the spans of a process go. A nil one makes none.
type Tracing struct {
	provider *sdktrace.TracerProvider
	clients  bool
	guests   bool
}

// Config is what is traced, and where it goes.
type Config struct {
	Service string  // the program's name
	URL     string  // of the collector, OTLP over HTTP; empty: nothing is traced
	Sample  float64 // the part of requests, 0 to 1
	Clients bool    // clients' traces are gone on with
	Guests  bool    // guests are told of theirs
	Logger  *slog.Logger
}

// Open makes tracing, nil where there is nowhere to send it. Nothing is connected
// yet. Returns InvalidArgument.
func Open(ctx context.Context, c Config) (*Tracing, error) {
	if c.URL == "" {
		return nil, nil //nolint:nilnil // no tracing is one, too
	}
	to, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(c.URL), otlptracehttp.WithTimeout(sendLimit))
	if err != nil {
		return nil, errors.Wrap(err, errors.InvalidArgument, "traces cannot be sent").WithField("tracing.url")
	}
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(&exporter{SpanExporter: to, log: c.Logger}, sdktrace.WithMaxQueueSize(maxWaiting)),
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(c.Sample))),
		sdktrace.WithResource(resource.NewSchemaless(attribute.String("service.name", c.Service), attribute.String("service.version", version.Version))),
	)
	return &Tracing{provider: provider, clients: c.Clients, guests: c.Guests}, nil
}

// Finish sends what waits, within a limit. Without tracing it does nothing.
func (t *Tracing) Finish(limit time.Duration, log *slog.Logger) {
	if t == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if err := t.provider.Shutdown(ctx); err != nil {
		log.Warn("the last spans could not be sent", "error", err)
	}
}

// exporter tells by the process's log, and not by the library's, what cannot be sent.
type exporter struct {
	sdktrace.SpanExporter
	log *slog.Logger

	mu   sync.Mutex
	lost int
	told time.Time
}

// ExportSpans implements sdktrace.SpanExporter.
func (e *exporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := e.SpanExporter.ExportSpans(ctx, spans)
	if err == nil {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.lost += len(spans)
	if time.Since(e.told) >= tellEvery {
		e.log.Warn("spans could not be sent", "spans", e.lost, "error", err)
		e.lost, e.told = 0, time.Now()
	}
	return nil
}

// Request begins the trace of a client's request, or goes on with the client's
// own where that is allowed.
func (t *Tracing) Request(r *http.Request) (context.Context, Span) {
	if t == nil {
		return r.Context(), Span{}
	}
	ctx := r.Context()
	if t.clients {
		ctx = w3c.Extract(ctx, propagation.HeaderCarrier(r.Header))
	}
	return t.begin(ctx, r.Method, trace.SpanKindServer)
}

// Calls goes on with the traces of those who call a handler: gateways, whose
// word counts. What was called is the last of the path.
func (t *Tracing) Calls(next http.Handler) http.Handler {
	if t == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := w3c.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
		if !trace.SpanContextFromContext(ctx).IsValid() {
			next.ServeHTTP(w, r)
			return
		}
		ctx, span := t.begin(ctx, "answer "+path.Base(r.URL.Path), trace.SpanKindServer)
		defer span.End(nil)
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// Resume goes on with a trace that [Carried] gave, if it is one.
func (t *Tracing) Resume(ctx context.Context, carried, name string) (context.Context, Span) {
	if t == nil || carried == "" {
		return ctx, Span{}
	}
	ctx = w3c.Extract(ctx, propagation.MapCarrier{header: carried})
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return ctx, Span{}
	}
	return t.begin(ctx, name, trace.SpanKindConsumer)
}

// Guests reports whether guests are told of their traces.
func (t *Tracing) Guests() bool { return t != nil && t.guests }

func (t *Tracing) begin(ctx context.Context, name string, kind trace.SpanKind) (context.Context, Span) {
	ctx, span := t.provider.Tracer(scope).Start(ctx, name, trace.WithSpanKind(kind))
	return ctx, Span{span}
}

const header = "traceparent"

// Carried is a context's trace as text (W3C traceparent), empty for none.
func Carried(ctx context.Context) string {
	c := propagation.MapCarrier{}
	w3c.Inject(ctx, c)
	return c[header]
}

// Send puts a context's trace into the header of a request to be made.
func Send(ctx context.Context, h http.Header) { w3c.Inject(ctx, propagation.HeaderCarrier(h)) }

// Begin begins a span within the context's.
func Begin(ctx context.Context, name string) (context.Context, Span) {
	parent := trace.SpanFromContext(ctx)
	if !parent.SpanContext().IsSampled() { // one that has ended goes on in what it began
		return ctx, Span{}
	}
	ctx, span := parent.TracerProvider().Tracer(scope).Start(ctx, name)
	return ctx, Span{span}
}

// Within adds a span within the context's that is over.
func Within(ctx context.Context, name string, from, to time.Time) {
	if parent := trace.SpanFromContext(ctx); parent.SpanContext().IsSampled() {
		_, span := parent.TracerProvider().Tracer(scope).Start(ctx, name, trace.WithTimestamp(from))
		span.End(trace.WithTimestamp(to))
	}
}

// Span is one that was begun. The zero value is none.
type Span struct{ span trace.Span }

// Name gives the span the name that it turned out to have.
func (s Span) Name(name string) {
	if s.span != nil {
		s.span.SetName(name)
	}
}

// Text adds what is known of it. Nothing of a tenant's but IDs belongs there.
func (s Span) Text(key, value string) {
	if s.span != nil {
		s.span.SetAttributes(attribute.String(key, value))
	}
}

// Number adds what is known of it.
func (s Span) Number(key string, value int64) {
	if s.span != nil {
		s.span.SetAttributes(attribute.Int64(key, value))
	}
}

// End ends the span; an error is told by its code alone.
func (s Span) End(err error) {
	if s.span == nil {
		return
	}
	if err != nil {
		s.span.SetStatus(codes.Error, string(errors.CodeOf(err)))
	}
	s.span.End()
}

// Parent is the span as the parent of what a program does (W3C traceparent),
// empty for none.
func (s Span) Parent() string {
	if s.span == nil {
		return ""
	}
	return Carried(trace.ContextWithSpan(context.Background(), s.span))
}
