package oci

import (
	"os"
	"path/filepath"
	"testing"
)

// An agent that cannot be put where machines find it is told of at once.
func TestAgentThatCannotBeCopied(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	agent := filepath.Join(dir, "agent")
	if err := os.WriteFile(agent, []byte("x"), 0o755); err != nil {
		t.Fatal(err)
	}
	d := &Driver{cfg: Config{AgentPath: agent, RuntimeDir: filepath.Join(dir, "run")}}
	if path, err := d.agentBinary(); err == nil { // there is no directory for it
		t.Errorf("it is said to be at %s", path)
	}
	if err := os.MkdirAll(filepath.Join(dir, "run", "a"), 0o755); err != nil {
		t.Fatal(err)
	}
	path, err := d.agentBinary()
	if err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "x" {
		t.Errorf("%q, %v", text, err)
	}
}
