// Package scrape serves what a process measures, and whether it is well, at an
// address of its own.
package scrape

import (
	"context"
	"crypto/subtle"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/logging"
)

const (
	// maxAtOnce bounds scrapes under way.
	maxAtOnce = 4
	// wellLimit bounds how long it is waited for what the process stands on.
	wellLimit = 5 * time.Second
	// Of tokens.
	minToken = 16
	maxToken = 4 << 10
)

// Registry holds the process's own metrics and others. Returns an error when two
// collectors describe the same metric.
func Registry(others ...prometheus.Collector) (*prometheus.Registry, error) {
	r := prometheus.NewRegistry()
	for _, c := range append([]prometheus.Collector{
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	}, others...) {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// Handler serves a registry in the formats that Prometheus asks for.
func Handler(r *prometheus.Registry) http.Handler {
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{Registry: r, MaxRequestsInFlight: maxAtOnce})
}

// Server serves GET /metrics, to whoever shows the token where there is one, and
// GET /healthz to anybody.
func Server(metrics http.Handler, token logging.Secret, well func(context.Context) error) *http.Server {
	want := []byte("Bearer " + token.Reveal())
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		if token != "" && subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), want) != 1 {
			w.Header().Set("WWW-Authenticate", "Bearer")
			http.Error(w, "the token of metrics.token_file is wanted", http.StatusUnauthorized)
			return
		}
		metrics.ServeHTTP(w, r)
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), wellLimit)
		defer cancel()
		if err := well(ctx); err != nil {
			http.Error(w, "the database does not answer", http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, "ok\n")
	})
	return &http.Server{Handler: mux, ReadHeaderTimeout: wellLimit, ReadTimeout: wellLimit, MaxHeaderBytes: 16 << 10}
}

// Token reads the file that a token is in; without a file there is none.
// Returns InvalidArgument, NotFound.
func Token(file string) (logging.Secret, error) {
	if file == "" {
		return "", nil
	}
	f, err := os.Open(file)
	if err != nil {
		return "", errors.Wrap(err, errors.NotFound, "the token of metrics cannot be read").WithField("metrics.token_file")
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, maxToken+1))
	if err != nil {
		return "", errors.Wrap(err, errors.Internal, "the token of metrics cannot be read").WithField("metrics.token_file")
	}
	token := strings.TrimSpace(string(text))
	if len(token) < minToken || len(text) > maxToken {
		return "", errors.New(errors.InvalidArgument, "a token of metrics has %d to %d characters", minToken, maxToken).WithField("metrics.token_file")
	}
	return logging.Secret(token), nil
}
