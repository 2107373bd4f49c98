package fleet

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
)

// Output of what has ended is read byte for byte when its worker was killed, by the
// other one, which fetches it once; and is in the storage in a form that shows nothing.
func TestOutputOutlivesItsWorker(t *testing.T) {
	f, gateway, first := newSharing(t)
	ctx, c := f.ctx, f.client(gateway)
	vm, err := c.CreateVM(ctx, api.CreateVM{Template: "shared", Network: "none", Resources: &api.Resources{MemoryBytes: 256 << 20}})
	must(t, err)
	second := f.worker("worker-2", gateway)

	scripts := map[string]string{ // and what they print
		"echo told": "told\n", "exit 4": "",
		"i=0; while [ $i -lt 20000 ]; do echo \"line $i of what is printed\"; i=$((i+1)); done": "",
	}
	printed, all := map[string]string{}, []string{}
	for script, want := range scripts {
		x, err := c.StartExecution(ctx, vm.ID, start(script))
		must(t, err)
		out, err := gateway.CLI(ctx, "logs", "--follow", x.ID)
		must(t, err)
		if want != "" && out != want || strings.Contains(script, "while") && len(out) < 500_000 {
			t.Fatalf("%s prints %d bytes", script, len(out))
		}
		printed[x.ID], all = out, append(all, x.ID)
	}
	running, err := c.StartExecution(ctx, vm.ID, start("echo begun; sleep 1000"))
	must(t, err)
	for _, id := range all {
		for {
			x, err := c.Execution(ctx, id)
			must(t, err)
			if x.Stored {
				break
			}
			must(t, ctx.Err())
			time.Sleep(50 * time.Millisecond) // it is no event
		}
	}
	must(t, filepath.WalkDir(f.storage, func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || !strings.Contains(name, "-output") {
			return err
		}
		b, err := os.ReadFile(name)
		if strings.Contains(string(b), "told") || strings.Contains(string(b), "line") {
			t.Error("output is in the storage in clear")
		}
		return err
	}))

	must(t, first.Kill())
	// At once, and when it is known to be away.
	for id, want := range printed {
		f.printed(gateway, id, want)
	}
	for !f.isAway(c, vm.WorkerID) {
		must(t, ctx.Err())
		time.Sleep(100 * time.Millisecond) // nobody is told of it here
	}
	for id, want := range printed {
		f.printed(gateway, id, want)
		if x, err := c.Execution(ctx, id); err != nil || x.State != "exited" {
			t.Errorf("%+v, %v", x, err)
		}
	}
	if _, err := c.Execution(ctx, running.ID); !errors.HasCode(err, errors.Unavailable) {
		t.Errorf("of what may run: %v", err)
	}
	stored := strings.Count(second.Log(), "output was fetched")
	if stored < 1 || stored > len(all) {
		t.Errorf("objects were fetched %d times", stored)
	}
	must(t, first.Run(ctx))
	for id, want := range printed {
		f.printed(gateway, id, want)
	}
	if n := strings.Count(second.Log(), "output was fetched"); n != stored {
		t.Error("it is fetched though its worker is back")
	}
	if _, err := c.DeleteVM(ctx, vm.ID); err != nil {
		t.Error(err)
	}
}
