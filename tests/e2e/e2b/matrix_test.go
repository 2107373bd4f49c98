package e2b

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/tests/internal/sdk"
	"github.com/aetherium/aetherium/tests/internal/server"
)

// matrix is what came of each check by each SDK.
type matrix struct {
	columns []string
	rows    []string // feature and check, as they came first
	cells   map[[2]string]string
}

func (m *matrix) add(column string, r sdk.Result) {
	row := "`" + r.Feature + "` | " + r.Check
	if m.cells == nil {
		m.cells = map[[2]string]string{}
	}
	known := false
	for _, other := range m.rows {
		known = known || other == row
	}
	if !known {
		m.rows = append(m.rows, row)
	}
	cell := "fails"
	switch {
	case r.Skip != "":
		cell = "–"
	case r.OK:
		cell = "✓"
	}
	m.cells[[2]string{row, column}] = cell
}

// String is a table; what an SDK was not asked is empty.
func (m *matrix) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "| call | what is checked | %s |\n|---|---|%s\n", strings.Join(m.columns, " | "), strings.Repeat("---|", len(m.columns)))
	for _, row := range m.rows {
		fmt.Fprintf(&b, "| %s |", row)
		for _, column := range m.columns {
			fmt.Fprintf(&b, " %s |", m.cells[[2]string{row, column}])
		}
		b.WriteString("\n")
	}
	return b.String()
}

const (
	matrixBegin = "<!-- what follows is written by tests/e2e/e2b -->\n"
	matrixEnd   = "<!-- what precedes is written by tests/e2e/e2b -->\n"
)

// compare checks the matrix in the documentation, or writes it.
func (m *matrix) compare(t *testing.T) {
	t.Helper()
	root, err := server.Root()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(root, "docs", "E2B.md")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, begun := strings.Cut(string(text), matrixBegin)
	shown, tail, ended := strings.Cut(rest, matrixEnd)
	if !begun || !ended {
		t.Fatalf("%s has no place for the matrix", path)
	}
	if shown == m.String() {
		return
	}
	if os.Getenv(writeEnv) == "" {
		t.Errorf("%s does not say what was found: %s=1 has it written", path, writeEnv)
		return
	}
	if err := os.WriteFile(path, []byte(head+matrixBegin+m.String()+matrixEnd+tail), 0o644); err != nil {
		t.Fatal(err)
	}
}
