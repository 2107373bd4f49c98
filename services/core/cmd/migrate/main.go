// Command migrate changes the schema of a database that no server uses:
//
//	aetherium-migrate --db FILE up|down|status|to VERSION
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := command{args: os.Args[1:], out: os.Stdout, err: os.Stderr, env: os.Getenv}.run(ctx)
	stop()
	os.Exit(code)
}
