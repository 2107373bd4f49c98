package logging

import (
	"fmt"
	"io"
	"log/slog"
)

const hidden = "[hidden]"

// Secret is a string that does not show in logs, in %v, in JSON or in text.
// Reveal gives the string itself, and is easy to search for.
type Secret string

// Reveal gives the secret in clear.
func (s Secret) Reveal() string { return string(s) }

// String implements fmt.Stringer. An empty secret shows as empty, so that a
// missing one can be seen.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return hidden
}

// GoString implements fmt.GoStringer.
func (s Secret) GoString() string { return fmt.Sprintf("logging.Secret(%q)", s.String()) }

// Format implements fmt.Formatter: no verb, not even %x or %d, shows it.
func (s Secret) Format(f fmt.State, verb rune) {
	if verb == 'v' && f.Flag('#') {
		_, _ = io.WriteString(f, s.GoString())
		return
	}
	_, _ = io.WriteString(f, s.String())
}

// LogValue implements slog.LogValuer.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText implements encoding.TextMarshaler, and with it JSON and YAML.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler, so that configuration
// files and requests can carry one.
func (s *Secret) UnmarshalText(b []byte) error {
	*s = Secret(b)
	return nil
}
