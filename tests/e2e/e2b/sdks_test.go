package e2b

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/aetherium/aetherium/tests/internal/server"
)

// sdk is one published package.
type sdk struct {
	language string // "js" or "python"
	version  string
}

// sdks are the newest of both languages and the line before the second
// generation of the control plane.
var sdks = []sdk{{"js", "2.51.0"}, {"js", "2.45.0"}, {"python", "2.63.0"}, {"python", "2.45.0"}}

func (s sdk) name() string { return s.language + " " + s.version }

// install fetches the package, once, and returns what runs its script where.
func (s sdk) install(ctx context.Context) (program []string, dir string, err error) {
	root, err := server.Root()
	if err != nil {
		return nil, "", err
	}
	script := filepath.Join(root, "tests", "e2e", "e2b", "testdata", "suite."+map[string]string{"js": "mjs", "python": "py"}[s.language])
	dir = filepath.Join(root, ".tools", "e2b", s.language+"-"+s.version)
	python := filepath.Join(dir, "bin", "python")
	program = []string{"node", script}
	if s.language == "python" {
		program[0] = python
	}
	ready := filepath.Join(dir, "ready")
	if _, err := os.Stat(ready); err == nil {
		return program, dir, nil
	}
	if err := os.RemoveAll(dir); err != nil { // half of it
		return nil, "", err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, "", err
	}
	steps := [][]string{
		{"npm", "init", "-y"},
		{"npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--save-exact", "e2b@" + s.version},
	}
	if s.language == "python" {
		steps = [][]string{
			{"python3", "-m", "venv", dir},
			{python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "e2b==" + s.version},
		}
	}
	for _, step := range steps {
		if err := run(ctx, dir, step[0], step[1:]...); err != nil {
			return nil, "", fmt.Errorf("%s cannot be installed: %w", s.name(), err)
		}
	}
	return program, dir, os.WriteFile(ready, nil, 0o644)
}
