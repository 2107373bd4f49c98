// Command aetherium-standalone is the whole product in one process, and the
// commands to run it in the background.
package main

import (
	"context"
	"io"
	"os"

	"github.com/aetherium/aetherium/services/core/pkg/daemon/commandline"
	"github.com/aetherium/aetherium/services/standalone/internal/settings"
)

func main() { os.Exit(commandline.Main(run)) }

// run is main as a value: it returns the exit code.
func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	p := &program{commandline.Program{Name: "aetherium-standalone", Environ: environ, Stdout: stdout, Stderr: stderr}}
	defaults := settings.Defaults()
	return p.Run(ctx, args, "Machines for AI agents: the server, in one process",
		p.serve(), p.start(), p.stop(), p.down(), p.doctor(), p.keys(), p.kernel(), p.health(), p.Reference(&defaults))
}

type program struct{ commandline.Program }
