// Command aetherium-standalone is the whole product in one process, and the
// commands to run it in the background.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/aetherium/aetherium/services/core/pkg/daemon"
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
	return daemon.Report("aetherium-standalone", cmd.ExecuteContext(ctx), stderr)
}
