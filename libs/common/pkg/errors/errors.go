// Package errors is the product's error vocabulary: every error that crosses a
// package boundary carries a stable [Code], a message that is safe to show to a
// caller, and, where one helps, a hint. The wrapped cause is for logs only.
//
// It re-exports Is, As and Join so that a file needs one errors import.
package errors

import (
	"context"
	stderrors "errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"
)

// Code is a stable, machine-readable error identifier. Codes are part of the
// API: they are never renamed.
type Code string

// The codes. See [HTTPStatus] for what each means on the wire.
const (
	InvalidArgument     Code = "invalid_argument"     // the request can never succeed as it is
	NotFound            Code = "not_found"            // the named thing does not exist for this caller
	AlreadyExists       Code = "already_exists"       // the name or ID is taken
	Conflict            Code = "conflict"             // the thing's state does not allow it now
	Gone                Code = "gone"                 // it existed and has ended (see its tombstone)
	Unauthenticated     Code = "unauthenticated"      // no or bad credentials
	PermissionDenied    Code = "permission_denied"    // credentials do not allow it
	TooLarge            Code = "too_large"            // a size from outside exceeds its bound
	RateLimited         Code = "rate_limited"         // slow down; see RetryAfter
	QuotaExceeded       Code = "quota_exceeded"       // the project's share is used up
	CapacityExhausted   Code = "capacity_exhausted"   // no worker has room now; see RetryAfter
	NoSpace             Code = "no_space"             // a disk is full
	Unsupported         Code = "unsupported"          // this driver or host cannot do it
	Unavailable         Code = "unavailable"          // a part of the system is away; retry
	DeadlineExceeded    Code = "deadline_exceeded"    // it took longer than allowed
	Canceled            Code = "canceled"             // the caller went away
	GuestFault          Code = "guest_fault"          // the guest agent misbehaved, hung or died
	IdempotencyMismatch Code = "idempotency_mismatch" // same key, other request
	PreconditionFailed  Code = "precondition_failed"  // an If-Match or generation did not hold
	OutOfRange          Code = "out_of_range"         // an offset or range lies outside the data
	MethodNotAllowed    Code = "method_not_allowed"   // the resource exists, the method does not
	NotAcceptable       Code = "not_acceptable"       // no representation the client accepts
	UnsupportedMedia    Code = "unsupported_media"    // the request body's type is not understood
	Internal            Code = "internal"             // a bug or an unexpected fault of ours
)

var httpStatus = map[Code]int{
	InvalidArgument:     http.StatusBadRequest,
	NotFound:            http.StatusNotFound,
	AlreadyExists:       http.StatusConflict,
	Conflict:            http.StatusConflict,
	Gone:                http.StatusGone,
	Unauthenticated:     http.StatusUnauthorized,
	PermissionDenied:    http.StatusForbidden,
	TooLarge:            http.StatusRequestEntityTooLarge,
	RateLimited:         http.StatusTooManyRequests,
	QuotaExceeded:       http.StatusTooManyRequests,
	CapacityExhausted:   http.StatusServiceUnavailable,
	NoSpace:             http.StatusInsufficientStorage,
	Unsupported:         http.StatusUnprocessableEntity,
	Unavailable:         http.StatusServiceUnavailable,
	DeadlineExceeded:    http.StatusGatewayTimeout,
	Canceled:            499, // nginx's convention: client closed request
	GuestFault:          http.StatusBadGateway,
	IdempotencyMismatch: http.StatusUnprocessableEntity,
	PreconditionFailed:  http.StatusPreconditionFailed,
	OutOfRange:          http.StatusRequestedRangeNotSatisfiable,
	MethodNotAllowed:    http.StatusMethodNotAllowed,
	NotAcceptable:       http.StatusNotAcceptable,
	UnsupportedMedia:    http.StatusUnsupportedMediaType,
	Internal:            http.StatusInternalServerError,
}

// Codes lists all codes, sorted.
func Codes() []Code { return slices.Sorted(maps.Keys(httpStatus)) }

// HTTPStatus is the one table from codes to HTTP status codes (RFC 9110).
// A code it does not know is 500.
func HTTPStatus(c Code) int {
	if s, ok := httpStatus[c]; ok {
		return s
	}
	return http.StatusInternalServerError
}

// CodeForHTTPStatus maps a status that some library chose back to a code, so
// that its errors leave in our vocabulary.
func CodeForHTTPStatus(status int) Code {
	switch status {
	case http.StatusBadRequest, http.StatusUnprocessableEntity:
		return InvalidArgument
	case http.StatusUnauthorized:
		return Unauthenticated
	case http.StatusTooManyRequests:
		return RateLimited
	case http.StatusServiceUnavailable:
		return Unavailable
	case http.StatusConflict:
		return Conflict
	}
	for c, s := range httpStatus {
		if s == status {
			return c
		}
	}
	if status >= 400 && status < 500 {
		return InvalidArgument
	}
	return Internal
}

// Error is the product's error value.
type Error struct {
	Code       Code
	Message    string        // safe for the caller: no paths, no secrets, no library text
	Hint       string        // what to do about it; may be empty
	Field      string        // the offending input, as a JSON pointer or flag name; may be empty
	RetryAfter time.Duration // zero when retrying at a certain time does not help
	Err        error         // the cause; logged, never sent
}

// Error describes the error for logs; the API sends Message, not this.
func (e *Error) Error() string {
	s := string(e.Code) + ": " + e.Message
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// New makes an error with a formatted, caller-safe message. A %w argument
// becomes the cause's text in the message, so use [Wrap] for causes that must not leave.
func New(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// Wrap makes an error with a caller-safe message around a cause that is only logged.
func Wrap(err error, code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...), Err: err}
}

// WithHint returns e with a hint.
func (e *Error) WithHint(format string, args ...any) *Error {
	c := *e
	c.Hint = fmt.Sprintf(format, args...)
	return &c
}

// WithField returns e naming the offending input.
func (e *Error) WithField(field string) *Error {
	c := *e
	c.Field = field
	return &c
}

// WithRetryAfter returns e with a time after which a retry may succeed.
func (e *Error) WithRetryAfter(d time.Duration) *Error {
	c := *e
	c.RetryAfter = d
	return &c
}

// CodeOf finds the code of the outermost *Error in err's chain. Context errors
// map to Canceled and DeadlineExceeded; anything else is Internal; nil is "".
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	var e *Error
	if stderrors.As(err, &e) {
		return e.Code
	}
	switch {
	case stderrors.Is(err, context.Canceled):
		return Canceled
	case stderrors.Is(err, context.DeadlineExceeded):
		return DeadlineExceeded
	}
	return Internal
}

// Public turns any error into an *Error that is safe to send: unknown errors
// become Internal with a generic message and keep their cause for the log.
func Public(err error) *Error {
	if err == nil {
		return nil
	}
	var e *Error
	if stderrors.As(err, &e) {
		return e
	}
	switch c := CodeOf(err); c {
	case Canceled:
		return Wrap(err, c, "the request was canceled")
	case DeadlineExceeded:
		return Wrap(err, c, "the request took longer than allowed")
	}
	return Wrap(err, Internal, "an internal error occurred")
}

// HasCode reports whether err carries the code.
func HasCode(err error, code Code) bool { return err != nil && CodeOf(err) == code }

// Is reports whether any error in err's tree matches target.
func Is(err, target error) bool { return stderrors.Is(err, target) }

// As finds the first error in err's tree that matches target.
func As(err error, target any) bool { return stderrors.As(err, target) }

// Join combines errors; nil errors are dropped.
func Join(errs ...error) error { return stderrors.Join(errs...) }

// Plain makes a plain error value without a code, for package-internal sentinels.
func Plain(text string) error { return stderrors.New(text) }
