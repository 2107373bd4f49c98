// Package fault gives a driver's errors of the operating system their codes.
package fault

import (
	"context"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"golang.org/x/sys/unix"
)

// Of gives an operating system error its code; coded errors and those of
// contexts pass, and so does nil.
func Of(err error, message string) error {
	var coded *errors.Error
	switch {
	case err == nil || errors.As(err, &coded):
		return err
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return errors.Wrap(err, errors.NoSpace, "%s: no space is left", message)
	case errors.Is(err, unix.EROFS):
		return errors.Wrap(err, errors.Unavailable, "%s: its file system is read-only", message)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	}
	return errors.Wrap(err, errors.Internal, "%s", message)
}
