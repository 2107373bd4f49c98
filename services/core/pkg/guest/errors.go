package guest

import (
	"context"
	"strings"
	"unicode"
	"unicode/utf8"

	"connectrpc.com/connect"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// errSlow is the cause of contexts that end because the agent took too long.
var errSlow = errors.Plain("guest: the agent did not answer in time")

// maxText bounds what is passed on of the agent's words.
const maxText = 512

// fromAgent maps the codes that the agent answers with. What is not here is
// nothing that a healthy agent says.
var fromAgent = map[connect.Code]errors.Code{
	connect.CodeInvalidArgument:    errors.InvalidArgument,
	connect.CodeNotFound:           errors.NotFound,
	connect.CodeAlreadyExists:      errors.AlreadyExists,
	connect.CodeFailedPrecondition: errors.Conflict,
	connect.CodePermissionDenied:   errors.PermissionDenied,
	connect.CodeResourceExhausted:  errors.CapacityExhausted,
	connect.CodeUnimplemented:      errors.Unsupported,
	connect.CodeUnavailable:        errors.Unavailable,
	connect.CodeOutOfRange:         errors.OutOfRange,
	connect.CodeAborted:            errors.Conflict,
	// Credentials toward the agent are only the name of an OS user.
	connect.CodeUnauthenticated: errors.InvalidArgument,
}

// fault turns the error of a call to the agent into our vocabulary: what the
// agent said, why it could not be reached, who gave up waiting, or that it
// does not keep to the protocol. ctx is the call's own.
func fault(ctx context.Context, err error, what string) error {
	if err == nil {
		return nil
	}
	// Who gave up waiting comes first: the error then is only its echo.
	if ctx.Err() != nil {
		switch cause := context.Cause(ctx); {
		case errors.Is(cause, errSlow):
			return errors.Wrap(err, errors.GuestFault, "the guest agent did not answer in time while %s", what)
		case errors.Is(cause, context.DeadlineExceeded):
			return errors.Wrap(err, errors.DeadlineExceeded, "%s took longer than allowed", what)
		case errors.Is(cause, context.Canceled):
			return errors.Wrap(err, errors.Canceled, "%s was canceled", what)
		default:
			return cause
		}
	}
	var ce *connect.Error
	if errors.As(err, &ce) && connect.IsWireError(err) {
		code, ok := fromAgent[ce.Code()]
		if !ok {
			return errors.Wrap(err, errors.GuestFault, "the guest agent failed while %s: %s", what, clean(ce.Message()))
		}
		out := errors.New(code, "%s", clean(ce.Message()))
		if ce.Code() == connect.CodeUnauthenticated {
			out = out.WithField("user")
		}
		return out
	}
	// The dialler's own errors say more than that the transport failed.
	var own *errors.Error
	if errors.As(err, &own) {
		return own
	}
	if ce != nil && ce.Code() == connect.CodeUnavailable {
		return errors.Wrap(err, errors.Unavailable, "the guest agent cannot be reached")
	}
	return errors.Wrap(err, errors.GuestFault, "the guest agent broke off or answered nonsense while %s", what)
}

// clean makes the agent's words fit to be shown: bounded, valid, without
// control or format characters.
func clean(s string) string {
	if len(s) > maxText {
		n := maxText
		for n > maxText-utf8.UTFMax && !utf8.RuneStart(s[n]) {
			n--
		}
		s = s[:n] + "…"
	}
	return strings.Map(func(r rune) rune {
		switch {
		case r == utf8.RuneError, unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp):
			return '\uFFFD'
		}
		return r
	}, s)
}

// wireCode is the code that the agent itself answered with; 0 when err came
// from elsewhere.
func wireCode(err error) connect.Code {
	var ce *connect.Error
	if errors.As(err, &ce) && connect.IsWireError(err) {
		return ce.Code()
	}
	return 0
}
