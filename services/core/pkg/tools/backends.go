package tools

import (
	"strings"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// backend is one way to get a tool: its name in mise and, as lines of TOML,
// the options that it needs.
type backend struct {
	name    string
	options []string
}

// backends are the ways to get a tool, in the order to try them. What mise
// downloads comes first; after it the same program by a package registry, for
// networks where nothing else can be reached. None: the template has it.
func backends(t domain.Tool, platform string) []backend {
	arch := strings.TrimPrefix(platform, "linux/")
	npm := map[string]string{"amd64": "x64", "arm64": "arm64"}[arch]
	switch t.Name {
	case "git":
		return nil
	case "node":
		// npm's package "node" fetches this one by a script of its own.
		return []backend{{name: "core:node"}, {name: "npm:node-linux-" + npm}}
	case "bun":
		return []backend{{name: "core:bun"}, npmBackend("bun")}
	case "claude-code", "claude":
		return []backend{npmBackend("@anthropic-ai/claude-code")}
	case "go":
		return []backend{{name: "core:go"}, goToolchain(arch)}
	}
	if name, ok := strings.CutPrefix(t.Name, "npm:"); ok {
		return []backend{npmBackend(name)}
	}
	return []backend{{name: t.Name}}
}

// npmBackend is a package of npm's. Its own install script may run, for many
// fetch their program by it: it runs where the tool is installed, and the tool
// itself is trusted by who asks for it. Those of its dependencies do not run.
func npmBackend(name string) backend {
	return backend{name: "npm:" + name, options: []string{`allow_builds = ["` + name + `"]`}}
}

// goToolchain is Go as its own module proxy has it, which go.mod's toolchain
// lines use too: a zip without modes, in which go.mod has another name.
func goToolchain(arch string) backend {
	const proxy = "https://proxy.golang.org/golang.org/toolchain/@v/"
	return backend{name: "http:go", options: []string{
		`url = "` + proxy + `v0.0.1-go{{version}}.linux-` + arch + `.zip"`,
		`version_list_url = "` + proxy + `list"`,
		`version_regex = 'v0\.0\.1-go([0-9]+\.[0-9]+(?:\.[0-9]+)?)\.linux-` + arch + `'`,
		`strip_components = 1`,
		`bin_path = "bin"`,
		`postinstall = 'cd "$MISE_TOOL_INSTALL_PATH" && d=$(echo toolchain@*) && mv "$d"/* . && rmdir "$d" && chmod -R a+x bin pkg/tool && cp src/_go.mod src/go.mod && cp src/cmd/_go.mod src/cmd/go.mod'`,
	}}
}

// recipe is mise's configuration for one tool. Everything in it has a form
// without quotes.
func (b backend) recipe(dir, version string) string {
	var s strings.Builder
	if b.name != dir {
		s.WriteString("[tool_alias]\n\"" + dir + "\" = \"" + b.name + "\"\n")
	}
	s.WriteString("[tools.\"" + dir + "\"]\nversion = \"" + version + "\"\n")
	for _, line := range b.options {
		s.WriteString(line + "\n")
	}
	return s.String()
}
