// Package logging sets up log/slog: text for a terminal, JSON for everything
// else, and secrets that cannot be logged by accident.
package logging

import (
	"io"
	"log/slog"
	"os"
	"strings"

	"golang.org/x/term"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// Format is how log lines look.
type Format string

// The formats; empty is Auto.
const (
	Auto Format = "auto" // Text on a terminal, else JSON
	Text Format = "text"
	JSON Format = "json"
)

// TraceKey names the ID of the trace that a line is about.
const TraceKey = "trace_id"

// New makes a logger that writes to w. level is debug, info, warn or error.
// Returns InvalidArgument for a level or format that does not exist.
func New(w io.Writer, format Format, level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(strings.ToUpper(level))); err != nil {
		return nil, errors.Wrap(err, errors.InvalidArgument, "%q is not a log level", level).WithHint("debug, info, warn or error")
	}
	opts := &slog.HandlerOptions{Level: l, ReplaceAttr: redact}
	switch format {
	case Auto, "":
		if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
			return slog.New(slog.NewTextHandler(w, opts)), nil
		}
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	case Text:
		return slog.New(slog.NewTextHandler(w, opts)), nil
	case JSON:
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	}
	return nil, errors.New(errors.InvalidArgument, "%q is not a log format", format).WithHint("auto, text or json")
}

// telling are attribute names whose values are secret whatever their type:
// the net below [Secret] for headers and maps that come from outside.
var telling = [...]string{"password", "passphrase", "secret", "token", "authorization", "cookie", "api_key", "apikey", "api-key", "private_key", "credential"}

func redact(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindGroup {
		return a
	}
	key := strings.ToLower(a.Key)
	for _, t := range telling {
		// Counts and times of tokens are no tokens.
		if strings.Contains(key, t) && a.Value.Kind() != slog.KindInt64 && a.Value.Kind() != slog.KindDuration &&
			a.Value.Kind() != slog.KindTime && a.Value.Kind() != slog.KindBool {
			return slog.String(a.Key, hidden)
		}
	}
	return a
}
