package errors_test

import (
	"context"
	"fmt"
	"io"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

func TestCodeOf(t *testing.T) {
	t.Parallel()
	inner := errors.Wrap(io.ErrUnexpectedEOF, errors.GuestFault, "the agent hung up")
	for _, tc := range []struct {
		name string
		err  error
		want errors.Code
	}{
		{"nil", nil, ""},
		{"plain", io.EOF, errors.Internal},
		{"coded", inner, errors.GuestFault},
		{"wrapped by fmt", fmt.Errorf("reading: %w", inner), errors.GuestFault},
		{"outermost wins", errors.Wrap(inner, errors.Unavailable, "x"), errors.Unavailable},
		{"canceled", fmt.Errorf("x: %w", context.Canceled), errors.Canceled},
		{"deadline", context.DeadlineExceeded, errors.DeadlineExceeded},
	} {
		if got := errors.CodeOf(tc.err); got != tc.want {
			t.Errorf("%s: got %q, want %q", tc.name, got, tc.want)
		}
	}
	if !errors.Is(inner, io.ErrUnexpectedEOF) {
		t.Error("the cause is lost")
	}
}

func TestPublicHidesCause(t *testing.T) {
	t.Parallel()
	e := errors.Public(fmt.Errorf("open /var/lib/secret: %w", io.EOF))
	if e.Code != errors.Internal || e.Message != "an internal error occurred" {
		t.Fatalf("leaks: %+v", e)
	}
	if !errors.Is(e, io.EOF) {
		t.Error("the cause is lost for the log")
	}
}

func TestStatusTableRoundTrip(t *testing.T) {
	t.Parallel()
	for _, c := range []errors.Code{errors.NotFound, errors.Conflict, errors.Unauthenticated, errors.TooLarge, errors.Gone, errors.NoSpace} {
		if got := errors.CodeForHTTPStatus(errors.HTTPStatus(c)); got != c {
			t.Errorf("%s -> %d -> %s", c, errors.HTTPStatus(c), got)
		}
	}
	if errors.HTTPStatus("no_such_code") != 500 {
		t.Error("an unknown code must be 500")
	}
}
