package e2e

import (
	"slices"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
)

// A tag is moved from one build of a template to another, and removed; VMs are
// made of what it points at then.
func TestTagsByTheCommandLine(t *testing.T) {
	t.Parallel()
	c := connect(t)
	const name = "tagged-app"
	ids := map[string]string{}
	for _, version := range []string{"one", "two"} {
		task, log := buildSteps(t, c, name, "FROM base\nRUN echo "+version+" > /version\n", nil)
		if task.State != "succeeded" {
			t.Fatalf("%+v\n%s", task, log)
		}
		ids[version] = task.Subject
	}
	other, log := buildSteps(t, c, name+"-other", "FROM base\n", nil)
	if other.State != "succeeded" {
		t.Fatalf("%+v\n%s", other, log)
	}
	tag := func(args ...string) {
		t.Helper()
		stdout, stderr, code := invoke(t, "", append([]string{"template", "tag"}, args...)...)
		if code != 0 || stdout != name+":"+args[1]+"\n" {
			t.Fatalf("tag %v: exit code %d, %s%s", args, code, stdout, stderr)
		}
	}
	version := func(ref, want string) {
		t.Helper()
		if got := inTemplate(t, ref, "cat /version"); got != want+"\n" {
			t.Errorf("%s is version %q, want %s", ref, got, want)
		}
	}
	tag(name, "stable")
	version(name+":stable", "two")
	tag(name+"@"+ids["one"], "stable")
	version(name+":stable", "one")
	tag(name+":stable", "latest")
	version(name, "one")

	_, stderr, code := invoke(t, "", "template", "tag", name+"@"+other.Subject, "stable")
	if code != 1 || !strings.Contains(stderr, "the build "+other.Subject+` is not one of the template "`+name+`" (invalid_argument)`) {
		t.Errorf("a build of another template: exit code %d, %s", code, stderr)
	}
	if stdout, stderr, code := invoke(t, "", "template", "untag", name, "stable"); code != 0 || stdout != name+":stable\n" {
		t.Errorf("untag: exit code %d, %s%s", code, stdout, stderr)
	}
	_, stderr, code = invoke(t, "", "run", "--template", name+":stable", "--", "true")
	if code != 125 || !strings.Contains(stderr, `no build tagged "stable"`) {
		t.Errorf("by a tag that is gone: exit code %d, %s", code, stderr)
	}
	_, stderr, code = invoke(t, "", "template", "untag", name, "latest")
	if code != 1 || !strings.Contains(stderr, "(invalid_argument)") {
		t.Errorf("removing what the name alone means: exit code %d, %s", code, stderr)
	}
	got, err := c.Template(limited(t), name)
	check(t, err)
	builds := slices.ContainsFunc(got.Builds, func(b api.Build) bool { return b.ID == ids["two"] })
	if len(got.Tags) != 1 || got.Tags["latest"] != ids["one"] || !builds {
		t.Errorf("%+v", got)
	}
}
