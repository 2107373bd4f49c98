package vmmtest_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/aetherium/aetherium/services/core/pkg/vmm/vmmtest/attack"
)

// TestMain puts the drivers' machines on a host that nothing leads out of.
func TestMain(m *testing.M) {
	attack.RunNetd()
	if os.Getenv(rootfsEnv) != "" && os.Geteuid() == 0 {
		if err := attack.MoveToOwnHost(); err != nil {
			fmt.Fprintln(os.Stderr, "a host of its own:", err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}
