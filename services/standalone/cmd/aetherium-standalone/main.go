// Command aetherium-standalone is the whole product in one process, and the
// commands to run it in the background.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is main as a value: it returns the exit code.
func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	cmd := newRoot(environ, stdout, stderr)
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	var e *errors.Error
	if !errors.As(err, &e) {
		fmt.Fprintln(stderr, "aetherium-standalone:", err)
		return 1
	}
	fmt.Fprintln(stderr, "aetherium-standalone:", e.Message)
	if e.Err != nil {
		fmt.Fprintln(stderr, "  because:", e.Err)
	}
	if e.Hint != "" {
		fmt.Fprintln(stderr, "hint:", e.Hint)
	}
	return 1
}
