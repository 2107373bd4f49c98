package domain_test

import (
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

func TestParseTool(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]domain.Tool{
		"node":                               {Name: "node", Version: "latest"},
		"node@22":                            {Name: "node", Version: "22"},
		"node@22.5.1":                        {Name: "node", Version: "22.5.1"},
		"claude-code@latest":                 {Name: "claude-code", Version: "latest"},
		"npm:prettier":                       {Name: "npm:prettier", Version: "latest"},
		"npm:@anthropic-ai/claude-code":      {Name: "npm:@anthropic-ai/claude-code", Version: "latest"},
		"npm:@anthropic-ai/claude-code@2":    {Name: "npm:@anthropic-ai/claude-code", Version: "2"},
		"go:golang.org/x/tools/cmd/stringer": {Name: "go:golang.org/x/tools/cmd/stringer", Version: "latest"},
		"java@temurin-21.0.2+13.0.LTS":       {Name: "java", Version: "temurin-21.0.2+13.0.LTS"},
	} {
		got, err := domain.ParseTool("tools", text)
		if err != nil || got != want {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
		if again, err := domain.ParseTool("tools", got.String()); err != nil || again != got {
			t.Errorf("%q is not read again: %v", got.String(), err)
		}
		if dir := got.Dir(); dir == "" || filepath.Base(dir) != dir || strings.HasPrefix(dir, ".") {
			t.Errorf("%q: the directory %q", text, dir)
		}
	}
	for _, text := range []string{
		"", "@", "@22", "node@", "node@@", "Node", "../x", "no/de", "node@../x", "node@a..b", "-x", ".x", "node@-1", "node@system",
		"node@22;id", "node 22", "node@22\n", "npm:", "npm:../x", "npm:@a", "npm:@a/../b", "npm:@a/b/c", "http:x", "core:node", "sh:x", "npm:a b",
		"node\x00", "node@$(id)", "no\"de", "npm:x\"", "go:x", "go:/x", "go:x//y", strings.Repeat("a", 300), "node@" + strings.Repeat("1", 80),
	} {
		if got, err := domain.ParseTool("tools", text); !errors.HasCode(err, errors.InvalidArgument) {
			t.Errorf("%q is taken as %+v: %v", text, got, err)
		}
	}
}

func TestToolDirectoriesDiffer(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	for _, name := range []string{"npm:a-b", "npm:a.b", "npm:@a/b", "npm:A-b", "npm-a-b", "pipx:a-b"} {
		dir := domain.Tool{Name: name}.Dir()
		if other, ok := seen[dir]; ok {
			t.Errorf("%s and %s share %s", name, other, dir)
		}
		seen[dir] = name
	}
}

func TestToolLists(t *testing.T) {
	t.Parallel()
	if err := domain.ValidateTools("tools", []string{"node", "node@22"}); !errors.HasCode(err, errors.InvalidArgument) {
		t.Errorf("the same tool twice: %v", err)
	}
	if err := domain.ValidateTools("tools", make([]string, domain.MaxTools+1)); !errors.HasCode(err, errors.InvalidArgument) {
		t.Errorf("too many: %v", err)
	}
	got, err := domain.MergeTools("tools", []string{"git", "node@20"}, []string{"node@22", "bun"})
	if want := []string{"git", "node@22", "bun@latest"}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := domain.MergeTools("tools", []string{"git"}, nil); err != nil || len(got) != 1 {
		t.Errorf("%v, %v", got, err)
	}
}
