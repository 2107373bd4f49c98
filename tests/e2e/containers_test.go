package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"

	"github.com/aetherium/aetherium/tests/internal/server"
)

// images are ours: by name the program in each, and what it is made by.
var images = map[string]struct{ program, file string }{
	"aetherium-gateway":    {"aetherium-gateway", "services/gateway/Dockerfile"},
	"aetherium-worker":     {"aetherium-worker", "services/core/Dockerfile.worker"},
	"aetherium-standalone": {"aetherium-standalone", "services/standalone/Dockerfile"},
}

// The compose files are valid by the specification of such, and what our
// programs are told by them and by their images are settings that they have.
func TestComposeFile(t *testing.T) {
	root, err := server.Root()
	if err != nil {
		t.Fatal(err)
	}
	load := func(files ...string) *types.Project {
		t.Helper()
		for i, f := range files {
			files[i] = filepath.Join(root, "config", f)
		}
		options, err := cli.NewProjectOptions(files, cli.WithProfiles([]string{"*"}), cli.WithEnv([]string{"POSTGRES_PASSWORD=pg-secret", "REDIS_PASSWORD=redis-secret"}))
		if err != nil {
			t.Fatal(err)
		}
		project, err := options.LoadProject(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return project
	}
	load("docker-compose.yml", "docker-compose.infrastructure.yml")
	told := 0
	for _, s := range load("docker-compose.yml").Services {
		ours, ok := images[strings.TrimSuffix(s.Image, ":latest")]
		if !ok {
			continue
		}
		variables := s.Environment.Resolve(nil)
		for name := range variables {
			if !known(t, ours.program)[name] {
				t.Errorf("%s is told %s, which %s does not know", s.Name, name, ours.program)
			}
			told++
		}
	}
	for name, i := range images {
		text, err := os.ReadFile(filepath.Join(root, i.file))
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range regexp.MustCompile(`\bAETHERIUM_\w+`).FindAllString(string(text), -1) {
			if !known(t, i.program)[v] {
				t.Errorf("the image %s sets %s, which %s does not know", name, v, i.program)
			}
			told++
		}
	}
	if told < 20 {
		t.Errorf("only %d settings were looked at", told)
	}
}

// known are the variables of a program's settings, by what it says of itself.
func known(t *testing.T, program string) map[string]bool {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), filepath.Join(suite.Bin, program), "reference").Output()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]bool{}
	for _, v := range regexp.MustCompile("`(AETHERIUM_\\w+)`").FindAllStringSubmatch(string(out), -1) {
		all[v[1]] = true
	}
	return all
}
