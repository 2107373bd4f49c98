package attack

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/aetherium/aetherium/services/core/pkg/network/netd"
)

// NetdName is the name under which a network's manager starts a test's binary.
const NetdName = "aetherium-netd"

// RunNetd is what a process of that name does in the place of tests: it does not
// return. In any other it does nothing.
func RunNetd() {
	if filepath.Base(os.Args[0]) != NetdName {
		return
	}
	if err := netd.Main(context.Background(), os.Args[1:], slog.New(slog.NewTextHandler(os.Stderr, nil))); err != nil {
		os.Exit(1)
	}
	os.Exit(0)
}
