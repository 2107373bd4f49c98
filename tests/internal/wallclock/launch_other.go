//go:build !(linux && amd64)

package wallclock

import "errors"

func start(string, []string) error { return errors.ErrUnsupported }
