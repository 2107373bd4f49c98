// Package logging sets up slog: text for people on a terminal, JSON otherwise.
// Values of type [Secret] never show.
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

// The formats.
const (
	Auto Format = "auto" // Text on a terminal, else JSON
	Text Format = "text"
	JSON Format = "json"
)

// New makes a logger. level is debug, info, warn or error. Returns InvalidArgument.
func New(w io.Writer, format Format, level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(strings.ToUpper(level))); err != nil {
		return nil, errors.Wrap(err, errors.InvalidArgument, "%q is not a log level", level).WithHint("debug, info, warn or error")
	}
	opts := &slog.HandlerOptions{Level: l}
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

// Secret is a string that hides itself wherever it is printed, logged or marshalled.
type Secret string

const hidden = "[hidden]"

// Reveal gives the value, for the one place that needs it.
func (s Secret) Reveal() string { return string(s) }

func (Secret) String() string { return hidden }

// GoString implements fmt.GoStringer.
func (Secret) GoString() string { return hidden }

// LogValue implements slog.LogValuer.
func (Secret) LogValue() slog.Value { return slog.StringValue(hidden) }

// MarshalText implements encoding.TextMarshaler.
func (Secret) MarshalText() ([]byte, error) { return []byte(hidden), nil }
