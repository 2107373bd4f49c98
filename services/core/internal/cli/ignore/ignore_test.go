package ignore_test

import (
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/cli/ignore"
)

func TestSkip(t *testing.T) {
	t.Parallel()
	r, err := ignore.Parse(strings.NewReader("# comment\n.git\n/node_modules/\n*.log\n**/*.tmp\ndocs/**\n!docs/keep.md\nx?[ab]\na.b\n"))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{
		".git": true, ".git/config": true, "sub/.git": false, "node_modules": true, "node_modules/x/y": true,
		"a.log": true, "sub/a.log": false, "sub/deep/a.tmp": true, "a.tmp": true, "docs/x.md": true, "docs/keep.md": false,
		"x1a": true, "x1c": false, "aXb": false, "a.b": true, "main.go": false, "docs": false,
	} {
		if got := r.Skip(name); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if r.SkipAll(".git") {
		t.Error("with exceptions every directory must be looked into")
	}
	if r, err = ignore.Parse(strings.NewReader("a\n")); err != nil || !r.SkipAll("a/b") || r.SkipAll("b") {
		t.Errorf("%v", err)
	}
}

func TestParseErrors(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"[", "x[b-a]", `a\`} {
		if _, err := ignore.Parse(strings.NewReader("ok\n" + text)); !errors.HasCode(err, errors.InvalidArgument) || !strings.Contains(err.Error(), "line 2") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("a/**/b\n!c[d]\n", "a/x/b")
	f.Fuzz(func(t *testing.T, text, name string) {
		if r, err := ignore.Parse(strings.NewReader(text)); err == nil {
			r.Skip(name)
			r.SkipAll(name)
		}
	})
}
