// Package security holds the security document to what there is: a claim is
// only as good as the test that it names.
package security

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const root = "../.."

var (
	// proof is a test by its file and function, as the tables name it.
	proof = regexp.MustCompile("`([a-z0-9/_.-]+_test\\.go)` `((?:Test|Fuzz)[A-Z][A-Za-z0-9_]*)`")
	span  = regexp.MustCompile("`[^`]*`")
)

// Every row of the document's tables of claims names tests, and every test
// that a row names is there.
func TestEveryClaimHasItsTests(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(root, "docs/SECURITY.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, tables, ok := strings.Cut(string(text), "## Claims and their tests")
	if !ok {
		t.Fatal("the document has no section of claims")
	}
	files := map[string]string{}
	claims, proofs := 0, 0
	for line := range strings.Lines(tables) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| ---") || strings.HasPrefix(line, "| claim ") {
			continue
		}
		if claims++; len(cells) != 2 {
			t.Errorf("not a claim and its tests: %s", line)
			continue
		}
		found := proof.FindAllStringSubmatch(cells[1], -1)
		if len(found) == 0 || len(found)*2 != len(span.FindAllString(cells[1], -1)) {
			t.Errorf("a claim without tests, or with something else beside them: %s", line)
		}
		for _, p := range found {
			proofs++
			file, name := p[1], p[2]
			if _, ok := files[file]; !ok {
				source, err := os.ReadFile(filepath.Join(root, file))
				if err != nil {
					t.Errorf("%v, for the claim %s", err, cells[0])
				}
				files[file] = string(source)
			}
			if !strings.Contains(files[file], "\nfunc "+name+"(") {
				t.Errorf("%s has no %s, for the claim %s", file, name, cells[0])
			}
		}
	}
	if claims < 40 || proofs < 80 {
		t.Errorf("the tables were not read: %d claims and %d tests", claims, proofs)
	}
}
