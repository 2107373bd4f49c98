package vmmtest_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/aetherium/aetherium/services/core/pkg/network/netd"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/vmmtest/attack"
)

// netdName is what the network's manager starts the test binary as.
const netdName = "aetherium-netd"

// TestMain puts the drivers' machines on a host that nothing leads out of.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == netdName {
		if err := netd.Main(context.Background(), os.Args[1:], slog.New(slog.NewTextHandler(os.Stderr, nil))); err != nil {
			os.Exit(1)
		}
		return
	}
	if os.Getenv(rootfsEnv) != "" && os.Geteuid() == 0 {
		if err := attack.MoveToOwnHost(); err != nil {
			fmt.Fprintln(os.Stderr, "a host of its own:", err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}
