package daemon

import (
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// Hold takes the data directory for this process, and says in a file which one
// it is, until release. Returns Conflict while another server has it.
func Hold(lock, pidFile string) (release func(), err error) {
	held, err := Lock(lock, pidFile)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(pidFile, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o644); err != nil { //nolint:gosec // no secret
		_ = held.Close()
		return nil, errors.Wrap(err, errors.Internal, "the pid file cannot be written")
	}
	return func() {
		_ = os.Remove(pidFile)
		_ = held.Close()
	}, nil
}

// Forget removes variables from the environment: what this process starts has no
// business with the secrets in them.
func Forget(variables ...string) error {
	for _, name := range variables {
		if err := os.Unsetenv(name); err != nil {
			return errors.Wrap(err, errors.Internal, "the environment cannot be changed")
		}
	}
	return nil
}

// Report tells how a command of a program ended, and gives its exit code.
func Report(program string, err error, stderr io.Writer) int {
	if err == nil {
		return 0
	}
	var e *errors.Error
	if !errors.As(err, &e) {
		fmt.Fprintf(stderr, "%s: %s\n", program, err)
		return 1
	}
	fmt.Fprintf(stderr, "%s: %s\n", program, e.Message)
	if e.Err != nil {
		fmt.Fprintln(stderr, "  because:", e.Err)
	}
	if e.Hint != "" {
		fmt.Fprintln(stderr, "hint:", e.Hint)
	}
	return 1
}
