package supply

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

type workflow struct {
	On          map[string]any    `yaml:"on"`
	Permissions map[string]string `yaml:"permissions"`
	Jobs        map[string]struct {
		Permissions map[string]string `yaml:"permissions"`
		RunsOn      string            `yaml:"runs-on"`
		Timeout     int               `yaml:"timeout-minutes"`
		Steps       []struct {
			Name string            `yaml:"name"`
			Uses string            `yaml:"uses"`
			Run  string            `yaml:"run"`
			Env  map[string]string `yaml:"env"`
		} `yaml:"steps"`
	} `yaml:"jobs"`
}

// A workflow may read the repository and nothing else, runs no one else's
// action but by the hash of its commit, and has no text from outside in a
// script: what a stranger proposes cannot become a command.
func TestWorkflowsAreHeldShort(t *testing.T) {
	t.Parallel()
	pinned := regexp.MustCompile(`^[\w.-]+/[\w./-]+@[0-9a-f]{40}$`)
	names := tracked(t, ".github/workflows/*")
	if len(names) == 0 {
		t.Fatal("there is no workflow")
	}
	var all strings.Builder
	for _, name := range names {
		var w workflow
		if err := yaml.Unmarshal([]byte(read(t, name)), &w); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if len(w.Permissions) != 1 || w.Permissions["contents"] != "read" {
			t.Errorf("%s may do %v", name, w.Permissions)
		}
		for event := range w.On {
			if !slices.Contains([]string{"push", "pull_request", "schedule", "workflow_dispatch"}, event) {
				t.Errorf("%s runs on %s", name, event)
			}
		}
		for id, job := range w.Jobs {
			if len(job.Permissions) > 0 || job.Timeout == 0 || strings.HasSuffix(job.RunsOn, "latest") {
				t.Errorf("%s, %s: permissions %v, %d minutes, on %q", name, id, job.Permissions, job.Timeout, job.RunsOn)
			}
			for _, step := range job.Steps {
				if step.Uses != "" && !pinned.MatchString(step.Uses) {
					t.Errorf("%s, %s: %s is not named by a commit", name, id, step.Uses)
				}
				if strings.Contains(step.Run, "${{") {
					t.Errorf("%s, %s, %s: an expression stands in a script", name, id, step.Name)
				}
				for k, v := range step.Env {
					if strings.Contains(v, "github.event") || strings.Contains(v, "github.head_ref") {
						t.Errorf("%s, %s, %s: %s comes from outside", name, id, step.Name, k)
					}
				}
				all.WriteString(step.Run)
			}
		}
	}
	for _, want := range []string{".ci/run", "make lint", "make vulncheck", "make sbom", "make reproducible"} {
		if !strings.Contains(all.String(), want) {
			t.Errorf("no workflow runs %s", want)
		}
	}
}
