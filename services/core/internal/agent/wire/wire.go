// Package wire turns the product's errors into what the agent's two protocols
// send: Connect codes, and JSON bodies over plain HTTP.
package wire

import (
	"encoding/json"
	"net/http"

	"connectrpc.com/connect"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

var connectCodes = map[errors.Code]connect.Code{
	errors.InvalidArgument:   connect.CodeInvalidArgument,
	errors.NotFound:          connect.CodeNotFound,
	errors.AlreadyExists:     connect.CodeAlreadyExists,
	errors.Conflict:          connect.CodeFailedPrecondition,
	errors.Gone:              connect.CodeFailedPrecondition,
	errors.Unauthenticated:   connect.CodeUnauthenticated,
	errors.PermissionDenied:  connect.CodePermissionDenied,
	errors.TooLarge:          connect.CodeInvalidArgument,
	errors.CapacityExhausted: connect.CodeResourceExhausted,
	errors.NoSpace:           connect.CodeResourceExhausted,
	errors.Unsupported:       connect.CodeUnimplemented,
	errors.Unavailable:       connect.CodeUnavailable,
	errors.DeadlineExceeded:  connect.CodeDeadlineExceeded,
	errors.Canceled:          connect.CodeCanceled,
	errors.OutOfRange:        connect.CodeOutOfRange,
}

// Connect gives an error its Connect code; what has none is internal, and its
// text stays here.
func Connect(err error) error {
	if err == nil {
		return nil
	}
	var already *connect.Error
	if errors.As(err, &already) {
		return err
	}
	public := errors.Public(err)
	code, ok := connectCodes[public.Code]
	if !ok {
		code = connect.CodeInternal
	}
	text := public.Message
	if public.Hint != "" {
		text += " (" + public.Hint + ")"
	}
	return connect.NewError(code, errors.Plain(text))
}

// errorBody is what the native endpoints answer errors with.
type errorBody struct {
	Code    errors.Code `json:"code"`
	Message string      `json:"message"`
}

// envdErrorBody is what SDKs of the field expect: the code is the HTTP status.
type envdErrorBody struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

// Error answers a native request with {code, message} and the code's HTTP status.
func Error(w http.ResponseWriter, err error) {
	public := errors.Public(err)
	JSON(w, errors.HTTPStatus(public.Code), errorBody{public.Code, public.Message})
}

// EnvdError answers a request of an SDK of the field.
func EnvdError(w http.ResponseWriter, err error) {
	public := errors.Public(err)
	status := errors.HTTPStatus(public.Code)
	JSON(w, status, envdErrorBody{status, public.Message})
}

// JSON answers with a value.
func JSON(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(value) // the client has gone
}
