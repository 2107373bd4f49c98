package sdk

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/tests/internal/server"
)

// writeEnv has the matrices in the documentation written, not compared.
const writeEnv = "AETHERIUM_TEST_E2B_WRITE"

// Matrix is what came of each check by each package, as docs/E2B.md shows it.
type Matrix struct {
	By      string // the suite that writes it
	Columns []string
	rows    []string // feature and check, as they came first
	cells   map[[2]string]string
}

// Add takes what a package did.
func (m *Matrix) Add(column string, r Result) {
	row := "`" + r.Feature + "` | " + r.Check
	if m.cells == nil {
		m.cells = map[[2]string]string{}
	}
	if !slices.Contains(m.rows, row) {
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
func (m *Matrix) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "| call | what is checked | %s |\n|---|---|%s\n", strings.Join(m.Columns, " | "), strings.Repeat("---|", len(m.Columns)))
	for _, row := range m.rows {
		fmt.Fprintf(&b, "| %s |", row)
		for _, column := range m.Columns {
			fmt.Fprintf(&b, " %s |", m.cells[[2]string{row, column}])
		}
		b.WriteString("\n")
	}
	return b.String()
}

// Compare checks the matrix in the documentation, or writes it.
func (m *Matrix) Compare(t *testing.T) {
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
	begin := "<!-- what follows is written by " + m.By + " -->\n"
	end := "<!-- what precedes is written by " + m.By + " -->\n"
	head, rest, begun := strings.Cut(string(text), begin)
	shown, tail, ended := strings.Cut(rest, end)
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
	if err := os.WriteFile(path, []byte(head+begin+m.String()+end+tail), 0o644); err != nil {
		t.Fatal(err)
	}
}
