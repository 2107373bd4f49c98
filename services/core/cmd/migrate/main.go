// Command migrate changes the schema of a database, and copies one to PostgreSQL:
//
//	aetherium-migrate [--config FILE] [--db DATABASE] up|down|status|to VERSION
//	aetherium-migrate copy --from sqlite:FILE --to postgres://...
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
