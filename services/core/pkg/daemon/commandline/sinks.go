package commandline

import (
	"context"
	"encoding/base64"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/logging"
	"github.com/aetherium/aetherium/libs/common/pkg/loki"
	"github.com/aetherium/aetherium/services/core/pkg/serverlog"
	"github.com/aetherium/aetherium/services/core/pkg/settings"
	"github.com/aetherium/aetherium/services/core/pkg/tracing"
)

// flushLimit bounds how long a server that ends waits for its last lines to be taken.
const flushLimit = 5 * time.Second

// sinks has lines go where the settings say, beside stderr, until shut. What goes
// wrong there is told on stderr alone.
func (p *Program) sinks(s settings.Log, stderr *slog.Logger) (log *slog.Logger, shut func(), err error) {
	to := []slog.Handler{stderr.Handler()}
	var close []func()
	shut = func() {
		for _, f := range close {
			f()
		}
	}
	if s.File != "" {
		file, err := logging.OpenFile(s.File, int64(s.FileSize), s.FileKeep, func(err error) {
			stderr.Error("lines are not written to log.file", "error", err)
		})
		if err != nil {
			return stderr, shut, errors.Wrap(err, errors.InvalidArgument, "log.file cannot be opened").WithField("log.file").
				WithHint("a file in a directory that is there")
		}
		close = append(close, func() { _ = file.Close() })
		lines, err := logging.New(file, logging.JSON, s.Level)
		if err != nil {
			return stderr, shut, err
		}
		to = append(to, lines.Handler())
		host, _ := os.Hostname()
		p.file = serverlog.NewFiles(s.File, s.FileKeep, p.Name, host)
		p.lost = append(p.lost, lost("file", file.Lost))
	}
	if s.Loki != "" {
		c := loki.Config{URL: s.Loki, Tenant: s.Tenant, Labels: map[string]string{"service": p.Name}, Tell: func(msg string) { stderr.Error(msg) }}
		if host, err := os.Hostname(); err == nil {
			c.Labels["host"] = host
		}
		if c.Authorization, err = authorization(s.Key); err != nil {
			return stderr, shut, err
		}
		sink, err := loki.New(c)
		if err != nil {
			return stderr, shut, err
		}
		close = append(close, func() {
			ctx, cancel := context.WithTimeout(context.Background(), flushLimit)
			defer cancel()
			_ = sink.Close(ctx)
		})
		lines, err := logging.NewLines(s.Level, sink.Add)
		if err != nil {
			return stderr, shut, err
		}
		to = append(to, lines)
		reader, err := loki.NewReader(c)
		if err != nil {
			return stderr, shut, err
		}
		p.loki = serverlog.NewLoki(reader)
		p.lost = append(p.lost, lost("loki", sink.Lost))
	}
	return slog.New(tracing.Lines(slog.NewMultiHandler(to...))), shut, nil
}

func lost(to string, count func() int64) prometheus.Collector {
	return prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "aetherium_log_lines_lost_total", Help: "Lines of the log that were lost, by where they were to go.",
		ConstLabels: prometheus.Labels{"to": to},
	}, func() float64 { return float64(count()) })
}

// maxKeyFile bounds the file of credentials.
const maxKeyFile = 64 << 10

// authorization reads the header that a file says.
func authorization(file string) (string, error) {
	if file == "" {
		return "", nil
	}
	bad := func(err error, hint string) error {
		return errors.Wrap(err, errors.InvalidArgument, "log.loki_key_file cannot be used").WithField("log.loki_key_file").WithHint("%s", hint)
	}
	info, err := os.Stat(file)
	if err != nil {
		return "", bad(err, "a file of user:password, or of a token")
	}
	if info.Mode().Perm()&0o077 != 0 || info.Size() > maxKeyFile {
		return "", bad(nil, "a small file of mode 0600")
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", bad(err, "a file that this user can read")
	}
	key := strings.TrimSpace(string(text))
	if key == "" || strings.ContainsFunc(key, func(c rune) bool { return c < ' ' || c == 0x7f }) {
		return "", bad(nil, "one line: user:password, or a token")
	}
	if strings.Contains(key, ":") {
		return "Basic " + base64.StdEncoding.EncodeToString([]byte(key)), nil
	}
	return "Bearer " + key, nil
}
