// Package codeinterpreter runs the published SDKs of E2B's code interpreter,
// unmodified, against a real server whose sandboxes are of the product's own
// template. It needs root, node, python3, Debian's archive, and the registries
// that the SDKs come from.
package codeinterpreter

import (
	"os"
	"slices"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/pkg/image/preset"
	"github.com/aetherium/aetherium/tests/internal/sdk"
	"github.com/aetherium/aetherium/tests/internal/server"
)

// rootfsEnv names a root filesystem to make the template from at once.
const rootfsEnv = "AETHERIUM_TEST_CODE_ROOTFS"

// sdks are the newest of both languages upon the newest SDK, and the newest that
// go with the 2.45 line of the SDK that they are made upon.
var sdks = []sdk.Package{
	{Language: sdk.JS, Name: "@e2b/code-interpreter", Version: "2.8.0", With: []string{"e2b@2.51.0"}},
	{Language: sdk.JS, Name: "@e2b/code-interpreter", Version: "2.7.2", With: []string{"e2b@2.45.0"}},
	{Language: sdk.Python, Name: "e2b-code-interpreter", Version: "2.11.5", With: []string{"e2b==2.63.0"}},
	{Language: sdk.Python, Name: "e2b-code-interpreter", Version: "2.10.0", With: []string{"e2b==2.45.0"}},
}

// most are the checks that are made by names and over TLS, and of emulated machines, too.
const most = "TEST_CHECKS=runCode: text, results and the count,runCode: callbacks,contexts: made, listed, restarted and removed,runCode: a timeout ends what runs,files: beside it,runCode: a sandbox that is killed"

// TestSDKs runs what each SDK does, without names and then as `aetherium e2b
// env` sets it up. The matrix in the documentation must say what came of it.
func TestSDKs(t *testing.T) {
	sdk.Wanted(t)
	names := sdk.NewNames(t)
	s := serve(t, names.Settings...)
	build(t, s)
	found := sdk.Matrix{By: "tests/e2e/codeinterpreter"}
	asked := 0
	for i, results := range run(t, s, sdks, sdk.Plain(t, s)) {
		asked += min(1, len(results))
		found.Columns = append(found.Columns, sdks[i].String())
		for _, r := range results {
			found.Add(sdks[i].String(), r)
		}
	}
	environ := append(names.Environ(t, s), most)
	t.Run("TLS", func(t *testing.T) { run(t, s, sdks, environ, names.Inside...) })
	if !t.Failed() && asked == len(sdks) {
		found.Compare(t)
	}
}

// Sandboxes that go on from a memory, in which server and kernel run already,
// have what is their own all the same.
func TestSDKsOnMachinesFromMemory(t *testing.T) {
	kernel := os.Getenv("AETHERIUM_TEST_KERNEL")
	if kernel == "" {
		t.Skip("AETHERIUM_TEST_KERNEL names no kernel")
	}
	sdk.Wanted(t)
	s := serve(t, "AETHERIUM_MICROVM_KERNEL="+kernel, "AETHERIUM_DRIVERS=oci,qemu", "AETHERIUM_POOL_SIZE=0", "AETHERIUM_VM_DRIVER=qemu")
	usable(t, s, "qemu")
	build(t, s, "--memory", "--driver", "qemu", "--vm-memory", "768MiB")
	var vm api.VM
	if err := s.JSON(t.Context(), &vm, "vm", "create", "--template", preset.CodeInterpreterTemplate); err != nil {
		t.Fatal(err)
	}
	if vm.Driver != "qemu" || !vm.Memory {
		t.Errorf("VMs are on %s, from memory %v", vm.Driver, vm.Memory)
	}
	sdk.CLI(t, s, "vm", "rm", vm.ID)
	run(t, s, sdks[2:3], append(sdk.Plain(t, s), most, "TEST_LIMIT=600")) // emulated, each takes minutes; what differs is the machine, not the client
}

// usable waits until a driver was tried out, which boots a machine.
func usable(t *testing.T, s *server.Server, driver string) {
	t.Helper()
	c, err := s.Client()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	tick := time.NewTicker(200 * time.Millisecond) // nobody tells of it
	defer tick.Stop()
	for {
		drivers, err := c.Drivers(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range drivers {
			if d.Name == driver && d.Usable {
				return
			}
		}
		select {
		case <-tick.C:
		case <-t.Context().Done():
			t.Fatalf("the driver %s was never usable", driver)
		}
	}
}

// run has packages do what they do, at the same time, and returns what each
// told; inside is what their programs are run by.
func run(t *testing.T, s *server.Server, packages []sdk.Package, environ []string, inside ...string) [][]sdk.Result {
	t.Helper()
	results := make([][]sdk.Result, len(packages))
	t.Run("packages", func(t *testing.T) {
		for i, p := range packages {
			t.Run(p.String(), func(t *testing.T) {
				t.Parallel()
				program, dir := p.Install(t, "e2b-code")
				results[i] = sdk.Play(t, 30*time.Minute, slices.Concat(inside, program), dir, environ) // ends one that hangs
				for _, r := range results[i] {
					t.Run(r.Feature+"/"+r.Check, r.Judge)
				}
			})
		}
	})
	sdk.Explain(t, s)
	return results
}

func serve(t *testing.T, settings ...string) *server.Server {
	t.Helper()
	return sdk.Serve(t, 5*time.Minute, append(settings, "AETHERIUM_BASE_SKIP=true")...)
}

// build makes the template as users do; where a root filesystem is given, of
// that, with what the preset starts.
func build(t *testing.T, s *server.Server, more ...string) {
	t.Helper()
	args := append([]string{"template", "build", preset.CodeInterpreterTemplate}, more...)
	if rootfs := os.Getenv(rootfsEnv); rootfs != "" {
		p, err := preset.Find(preset.CodeInterpreter)
		if err != nil {
			t.Fatal(err)
		}
		args = append(args, "--dir", rootfs, "--start", p.Start, "--ready", p.Ready)
	} else {
		args = append(args, "--preset", preset.CodeInterpreter)
	}
	sdk.CLI(t, s, args...)
}
