// Package preset holds the templates that come with the product: Debian
// packages, files of ours on top of them, and what is started in their VMs.
package preset

import (
	"embed"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// CodeInterpreter is the name of the preset that runs code in Jupyter kernels
// for clients on port 49999, and CodeInterpreterTemplate that of the template
// which SDKs of code interpreters ask for.
const (
	CodeInterpreter         = "code-interpreter"
	CodeInterpreterTemplate = "code-interpreter-v1"
)

// Preset is what a template is made from.
type Preset struct {
	Packages []string // of Debian's default suite
	Files    fs.FS    // regular files, root's, that all may read
	Dir      string   // where they are, relative to the root
	Env      map[string]string
	Start    string // a line of shell that runs in each VM
	Ready    string // a line of shell that succeeds once that may be used
}

// What runs in VMs; its tests stay here.
//
//go:embed code-interpreter/*.py code-interpreter/interpreter/*.py code-interpreter/kernels/*/*.json code-interpreter/kernels/*/*.py code-interpreter/kernels/*/*.js
var files embed.FS

// BasePackages are what the base template has on top of Debian's minimal system,
// which has bash and coreutils; a template in its place must have them, too. npm
// is left out: Debian's brings some four hundred packages.
func BasePackages() []string {
	return []string{"git", "curl", "python3", "nodejs", "ncurses-bin", "procps", "iproute2"}
}

func presets() map[string]Preset {
	return map[string]Preset{
		CodeInterpreter: {
			Packages: append(BasePackages(),
				// The server and its kernels, what makes JavaScript of TypeScript, then what code is written with.
				"python3-aiohttp", "python3-jupyter-client", "python3-ipykernel", "esbuild",
				"python3-pip", "python3-venv", "python3-numpy", "python3-pandas", "python3-matplotlib", "python3-requests", "python3-pil", "python3-bs4", "python3-openpyxl"),
			Files: sub(CodeInterpreter),
			Dir:   "usr/lib/aetherium/" + CodeInterpreter,
			// A VM is nobody's system: pip may add to it.
			Env:   map[string]string{"PIP_BREAK_SYSTEM_PACKAGES": "1"},
			Start: "exec /usr/bin/python3 -I /usr/lib/aetherium/" + CodeInterpreter + " --agent @aetherium-agent",
			Ready: "curl -fs -o /dev/null --max-time 5 http://127.0.0.1:49999/health",
		},
	}
}

func sub(dir string) fs.FS {
	f, err := fs.Sub(files, dir)
	if err != nil {
		panic(err) // not a path
	}
	return f
}

// Find gives a preset. Returns InvalidArgument for a name that is none.
func Find(name string) (Preset, error) {
	all := presets()
	p, ok := all[name]
	if !ok {
		return p, errors.New(errors.InvalidArgument, "there is no preset %.64q", name).WithField("source.preset").
			WithHint("there is %s", strings.Join(slices.Sorted(maps.Keys(all)), ", "))
	}
	return p, nil
}
