package domain_test

import (
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

func TestNewIDFormAndSpread(t *testing.T) {
	t.Parallel()
	seen := map[domain.ID]bool{}
	letters := map[rune]int{}
	for range 2000 {
		id := domain.NewID()
		if _, err := domain.ParseID(string(id)); err != nil || seen[id] {
			t.Fatalf("%q: %v, seen %v", id, err, seen[id])
		}
		seen[id] = true
		for _, r := range id {
			letters[r]++
		}
	}
	if len(letters) != 36 {
		t.Errorf("only %d of 36 letters appear", len(letters))
	}
}

func FuzzParseID(f *testing.F) {
	for _, s := range []string{"", "abcdefghij0123456789", "ABCDEFGHIJ0123456789", "../../../etc/passwd0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := domain.ParseID(s)
		if (err == nil) != domain.IsID(s) {
			t.Fatal("ParseID and IsID disagree")
		}
		if err == nil && (len(id) != 20 || strings.ContainsAny(string(id), "/.\x00 ")) {
			t.Fatalf("accepted %q", s)
		}
	})
}

func TestBounds(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 200<<10)
	good := domain.Resources{MilliCPU: 1000, MemoryBytes: 1 << 30, DiskBytes: 1 << 30, PIDs: 512}
	tooMany := map[string]string{}
	for range domain.MaxEnvEntries + 1 {
		tooMany["A"+string(domain.NewID())] = ""
	}
	for _, tc := range []struct {
		name  string
		err   error
		field string // empty: must be fine
	}{
		{"name", domain.ValidateName("name", "my-vm.1"), ""},
		{"name like an ID", domain.ValidateName("name", "abcdefghij0123456789"), "name"},
		{"name with slash", domain.ValidateName("name", "a/b"), "name"},
		{"template", domain.ValidateTemplateRef("template", "base:latest"), ""},
		{"template with traversal", domain.ValidateTemplateRef("template", "../etc"), "template"},
		{"hostname", domain.ValidateHostname("hostname", "a-1"), ""},
		{"hostname with dot", domain.ValidateHostname("hostname", "a.b"), "hostname"},
		{"env", domain.ValidateEnv("env", map[string]string{"A_1": "x=y\n"}), ""},
		{"env name", domain.ValidateEnv("env", map[string]string{"A=B": ""}), "env"},
		{"env NUL", domain.ValidateEnv("env", map[string]string{"A": "\x00"}), "env"},
		{"env bytes", domain.ValidateEnv("env", map[string]string{"A": long, "B": long}), "env"},
		{"env entries", domain.ValidateEnv("env", tooMany), "env"},
		{"metadata", domain.ValidateMetadata("metadata", map[string]string{"a": "b"}), ""},
		{"metadata value", domain.ValidateMetadata("metadata", map[string]string{"a": long}), "metadata"},
		{"metadata UTF-8", domain.ValidateMetadata("metadata", map[string]string{"a": "\xff"}), "metadata"},
		{"path", domain.ValidatePath("path", "/a/../b"), ""},
		{"path NUL", domain.ValidatePath("path", "/a\x00"), "path"},
		{"path UTF-8", domain.ValidatePath("path", "/a\xff"), "path"},
		{"path empty", domain.ValidatePath("path", ""), "path"},
		{"path long", domain.ValidatePath("path", long), "path"},
		{"resources", good.Validate("resources"), ""},
		{"no CPU", domain.Resources{MemoryBytes: 1 << 30, DiskBytes: 1 << 30, PIDs: 64}.Validate("resources"), "resources.milli_cpu"},
		{"huge memory", domain.Resources{MemoryBytes: 1 << 60}.Or(good).Validate("resources"), "resources.memory_bytes"},
		{"command", domain.Command{Args: []string{"true"}}.Validate(), ""},
		{"no command", domain.Command{}.Validate(), "args"},
		{"long argument", domain.Command{Args: []string{"echo", long}}.Validate(), "args"},
		{"bad user", domain.Command{Args: []string{"id"}, User: "a b"}.Validate(), "user"},
		{"bad pty", domain.Command{Args: []string{"id"}, PTY: &domain.PTYSize{}}.Validate(), "pty"},
		{"negative timeout", domain.Command{Args: []string{"id"}, Timeout: -time.Second}.Validate(), "timeout"},
		{"source", domain.TemplateSource{Packages: []string{"git", "libstdc++6"}}.Validate("source"), ""},
		{"two sources", domain.TemplateSource{Image: "a", Dir: "b"}.Validate("source"), "source"},
		{"steps", domain.TemplateSource{Steps: "FROM base", Context: "/x"}.Validate("source"), ""},
		{"steps and an image", domain.TemplateSource{Steps: "FROM base", Image: "a"}.Validate("source"), "source"},
		{"a context without steps", domain.TemplateSource{Image: "a", Context: "/x"}.Validate("source"), "source.context"},
		{"option as package", domain.TemplateSource{Packages: []string{"--hook"}}.Validate("source"), "source.packages"},
		{"pause mode", domain.PauseMode("nap").Validate("mode"), "mode"},
	} {
		if tc.field == "" {
			if tc.err != nil {
				t.Errorf("%s: %v", tc.name, tc.err)
			}
			continue
		}
		var e *errors.Error
		if !errors.As(tc.err, &e) || e.Code != errors.InvalidArgument || e.Field != tc.field {
			t.Errorf("%s: got %v, want an invalid %s", tc.name, tc.err, tc.field)
		}
	}
}

func TestIsolationOrder(t *testing.T) {
	t.Parallel()
	if domain.IsolationContainer.AtLeast(domain.IsolationMicroVM) || !domain.IsolationMicroVM.AtLeast(domain.IsolationGVisor) ||
		!domain.IsolationContainer.AtLeast("") {
		t.Error("the order of isolation is wrong")
	}
}
