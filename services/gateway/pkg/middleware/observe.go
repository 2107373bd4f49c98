package middleware

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"runtime/debug"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/pkg/tracing"
	"github.com/aetherium/aetherium/services/gateway/pkg/problem"
)

// Record is what a request's log line and metrics say of it beside the
// answer; inner handlers fill it in.
type Record struct {
	ID     string // of the request
	Route  string // pattern, never the path: it bounds the metrics' labels
	Caller string // name of the key
	// Client is the address that the request came from, as far as it can be told.
	Client netip.Addr

	secure bool  // a proxy in front was asked over TLS
	body   *body // the request's; nil where there is none
}

type recordKey struct{}

// RecordOf gives the request's record; nil outside of [Observe].
func RecordOf(ctx context.Context) *Record {
	r, _ := ctx.Value(recordKey{}).(*Record)
	return r
}

// Observer configures [Observe].
type Observer struct {
	Logger  *slog.Logger
	Metrics *Metrics
	Tracing *tracing.Tracing // nil: no spans
	// Stall is how long a peer may keep a read or a write waiting; 0: for ever.
	Stall time.Duration
	// Trusted are the proxies whose word on a request's client, and the scheme that it asked by, counts.
	Trusted []netip.Prefix
}

// Observe is the outermost handler. It gives the request an ID, watches the
// peer for stalling, turns panics into errors, writes one log line (never a
// query string: tokens stand there) and counts.
func Observe(o Observer, next http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		begin := time.Now()
		control := http.NewResponseController(rw)
		w := &recorder{ResponseWriter: rw, control: control, http2: r.ProtoMajor >= 2, stall: o.Stall, dog: watchdog{end: control.SetWriteDeadline}}
		defer w.dismiss() // last of all: what fails is told, too
		if !w.http2 {
			w.arm() // for what the server itself writes, such as 100 Continue
		}
		id := requestID(r.Header.Get(wire.HeaderRequestID))
		w.Header().Set(wire.HeaderRequestID, id)
		rec := &Record{ID: id, Route: "unmatched", Client: clientAddress(r, o.Trusted), secure: forwardedSecure(r, o.Trusted)}
		ctx, span := o.Tracing.Request(r)
		r = r.WithContext(context.WithValue(ctx, recordKey{}, rec))
		if r.Body != nil && r.Body != http.NoBody {
			w.in = &body{ReadCloser: r.Body, control: control, stall: o.Stall, http2: w.http2, asked: r.Header.Get("Expect") != "", dog: watchdog{end: control.SetReadDeadline}}
			r.Body, rec.body = w.in, w.in
			defer w.in.drain()
		}
		o.Metrics.begin()
		defer func() {
			p := recover()
			if err, _ := p.(error); p != nil && !errors.Is(err, http.ErrAbortHandler) {
				err := errors.Wrap(fmt.Errorf("panic: %v\n%s", p, debug.Stack()), errors.Internal, "an internal error occurred")
				w.NoteError(err)
				if !w.Started() {
					problem.Write(w, err)
					p = nil
				}
			}
			took := time.Since(begin)
			o.Metrics.end(rec.Route, r.Method, w.status, took)
			span.Name(knownMethod(r.Method) + " " + rec.Route)
			span.Text("aetherium.request", id)
			span.Number("http.response.status_code", int64(w.status))
			span.End(w.failure())
			o.log(r, w, rec, id, took)
			if p != nil { // the answer is broken off: so is the connection
				panic(http.ErrAbortHandler)
			}
			if w.in.unread() && w.Started() && w.status != http.StatusSwitchingProtocols {
				_ = w.FlushError() // the answer does not wait for that
				w.in.finish()
			}
		}()
		next.ServeHTTP(w, r)
	})
}

// failure is the server's own, of a request that it could not answer.
func (w *recorder) failure() error {
	if e := w.err.Load(); e != nil && w.status >= http.StatusInternalServerError {
		return *e
	}
	return nil
}

func (o Observer) log(r *http.Request, w *recorder, rec *Record, id string, took time.Duration) {
	var cause error
	if e := w.err.Load(); e != nil {
		cause = *e
	}
	level := slog.LevelInfo
	switch {
	case w.status >= 500 && errors.CodeOf(cause) == errors.Internal:
		level = slog.LevelError
	case w.status >= 500:
		level = slog.LevelWarn
	case rec.Route == "/health" || rec.Route == "/ready" || rec.Route == "/metrics":
		level = slog.LevelDebug
	}
	if !o.Logger.Enabled(r.Context(), level) {
		return
	}
	attrs := make([]slog.Attr, 0, 13)
	attrs = append(attrs,
		slog.String("request_id", id),
		slog.String("method", clip(r.Method, 16)),
		slog.String("host", clip(r.Host, 128)),
		slog.String("path", clip(r.URL.Path, 256)),
		slog.String("route", rec.Route),
		slog.Int("status", w.status),
		slog.Int64("bytes", w.bytes),
		slog.Duration("took", took),
		slog.String("remote", r.RemoteAddr),
	)
	if len(o.Trusted) > 0 {
		attrs = append(attrs, slog.String("client", rec.Client.String()))
	}
	if rec.Caller != "" {
		attrs = append(attrs, slog.String("caller", rec.Caller))
	}
	if cause != nil {
		attrs = append(attrs, slog.String("error", cause.Error()))
	}
	o.Logger.LogAttrs(r.Context(), level, "request", attrs...)
}

// requestID takes over a caller's ID that is short and plain, else mints one.
func requestID(given string) string {
	if n := len(given); n > 0 && n <= 64 {
		ok := true
		for i := 0; i < n && ok; i++ {
			c := given[i]
			ok = c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.'
		}
		if ok {
			return given
		}
	}
	return rand.Text()
}

func clip(s string, n int) string {
	if len(s) > n {
		return s[:n] + "…"
	}
	return s
}
