package vmmtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// AgentEnv names a guest agent's program, where there is no Go to build one.
const AgentEnv = "AETHERIUM_TEST_REAL_AGENT"

// Agent gives the ordinary guest agent's program.
func Agent(t testing.TB) string {
	t.Helper()
	if agent := os.Getenv(AgentEnv); agent != "" {
		return agent
	}
	agent := filepath.Join(t.TempDir(), "fc-agent")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", agent, "github.com/aetherium/aetherium/services/core/cmd/fc-agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the agent: %v\n%s", err, out)
	}
	return agent
}
