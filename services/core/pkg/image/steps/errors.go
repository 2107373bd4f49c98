package steps

import (
	"fmt"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// Code says what is wrong with a file. Codes are part of the API: they are
// never renamed.
type Code string

// The codes.
const (
	CodeEmpty          Code = "empty"                   // there is no step
	CodeTooLarge       Code = "too_large"               // the file, a line or a value exceeds its bound
	CodeTooMany        Code = "too_many"                // steps, or words of a step
	CodeNotText        Code = "not_text"                // not UTF-8, or it holds NUL
	CodeDirective      Code = "unsupported_directive"   // "# escape=…"
	CodeUnknown        Code = "unknown_instruction"     // no such instruction
	CodeUnsupported    Code = "unsupported_instruction" // a Dockerfile's, but not ours
	CodeFlag           Code = "unsupported_flag"        // such as --mount
	CodeHeredoc        Code = "unsupported_heredoc"     // <<EOF
	CodeNoFrom         Code = "missing_from"            // the first step is another
	CodeStages         Code = "unsupported_stages"      // a second FROM
	CodeFrom           Code = "bad_from"                // FROM names nothing usable
	CodeArgument       Code = "bad_argument"            // too few arguments, or too many
	CodeQuote          Code = "unclosed_quote"
	CodeJSON           Code = "bad_json" // of an exec form
	CodeVariable       Code = "bad_variable"
	CodeEnvironment    Code = "bad_environment" // a name or value of ENV
	CodePath           Code = "bad_path"
	CodeEscape         Code = "path_escapes"    // a source of COPY leaves the context
	CodeUser           Code = "bad_user"        // of USER or --chown
	CodeMode           Code = "bad_mode"        // of --chmod
	CodeNeedsDirectory Code = "needs_directory" // several sources, and a destination without "/"
)

// The codes of what turns out when steps are carried out.
const (
	CodeFailed     Code = "step_failed"    // a command could not be run, or failed
	CodeNotThere   Code = "not_in_context" // a source of COPY names nothing
	CodeNoTemplate Code = "no_such_base"   // what FROM names is not there
)

// Error is what is wrong with a line.
type Error struct {
	Line    int // from 1; 0: of the file as a whole
	Code    Code
	Message string
	Hint    string
}

func (e *Error) Error() string { return e.public().Message }

// Unwrap gives the error in the product's vocabulary.
func (e *Error) Unwrap() error { return e.public() }

func (e *Error) public() *errors.Error {
	code := errors.InvalidArgument
	if e.Code == CodeTooLarge {
		code = errors.TooLarge
	}
	message := fmt.Sprintf("%s (%s)", e.Message, e.Code)
	if e.Line > 0 {
		message = fmt.Sprintf("line %d: %s", e.Line, message)
	}
	out := errors.New(code, "%s", message).WithField("source.steps")
	if e.Hint != "" {
		out = out.WithHint("%s", e.Hint)
	}
	return out
}

func bad(line int, code Code, format string, args ...any) *Error {
	return &Error{Line: line, Code: code, Message: fmt.Sprintf(format, args...)}
}

func (e *Error) hint(text string) *Error {
	e.Hint = text
	return e
}

func clip(s string) string {
	if len(s) > 60 {
		return s[:57] + "..."
	}
	return s
}
