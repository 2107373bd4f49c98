// Command netd is the DNS forwarder of one instance's machines; see package
// netd. The network manager starts it: `netd CONFIG.json`, with descriptor 3
// as a pipe on which it says "ok" or why it cannot serve.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/aetherium/aetherium/services/core/pkg/network/netd"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := netd.Main(ctx, os.Args[1:], slog.New(slog.NewTextHandler(os.Stderr, nil))); err != nil {
		fmt.Fprintln(os.Stderr, "netd:", err)
		os.Exit(1)
	}
}
