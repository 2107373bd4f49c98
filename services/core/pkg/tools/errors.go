package tools

import (
	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// Code says why a tool cannot be had, in the message of errors. Codes are part
// of the API: they are never renamed.
type Code string

// The codes.
const (
	CodeUnknown     Code = "tool_unknown"     // no package manager knows it
	CodeNoVersion   Code = "tool_no_version"  // there is no such version of it
	CodeUnreachable Code = "tool_unreachable" // what it comes from does not answer
	CodeFailed      Code = "tool_failed"      // its installation failed
	CodeTooLarge    Code = "tool_too_large"   // it does not fit into its bounds
	CodeTimeout     Code = "tool_timeout"     // its installation took too long
	CodeNoSpace     Code = "tool_no_space"    // the host's disk is full
	CodeInUse       Code = "tool_in_use"      // VMs have it
	CodeMise        Code = "tool_mise"        // mise itself cannot be had
)

func fail(code errors.Code, why Code, format string, args ...any) *errors.Error {
	e := errors.New(code, format, args...)
	e.Message += " (" + string(why) + ")"
	return e
}

func wrap(err error, code errors.Code, why Code, format string, args ...any) *errors.Error {
	e := fail(code, why, format, args...)
	e.Err = err
	return e
}
