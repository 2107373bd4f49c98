// Package e2b runs the published SDKs of E2B, unmodified, against a real server
// and real VMs. It needs root, node, python3, and the registries that the SDKs
// come from.
package e2b

import (
	"cmp"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/tests/internal/sdk"
	"github.com/aetherium/aetherium/tests/internal/server"
)

const (
	// driverEnv names the driver of the sandboxes.
	driverEnv = "AETHERIUM_TEST_E2B_DRIVER"

	// rootfsEnv names a directory that base is made from; else it is made as users
	// make it, which takes longer. The other is for all tests but one.
	rootfsEnv      = "AETHERIUM_TEST_ROOTFS"
	otherRootfsEnv = "AETHERIUM_TEST_OTHER_ROOTFS"

	defaultDriver = "oci"

	// registriesEnv sets which registries may be at private addresses.
	registriesEnv = "AETHERIUM_IMAGES_REGISTRIES="
)

// sdks are the newest of both languages and the line before the second
// generation of the control plane.
var sdks = []sdk.Package{
	{Language: sdk.JS, Name: "e2b", Version: "2.51.0"},
	{Language: sdk.JS, Name: "e2b", Version: "2.45.0"},
	{Language: sdk.Python, Name: "e2b", Version: "2.63.0"},
	{Language: sdk.Python, Name: "e2b", Version: "2.45.1"},
}

// TestSDKs runs what each SDK does. Where all was run on the default driver,
// the matrix in the documentation must say what came of it.
func TestSDKs(t *testing.T) {
	driver := wanted(t)
	host := images(t, nil)
	out := newOutside(t)
	s := serveFrom(t, os.Getenv(rootfsEnv), driver, registriesEnv+host, out.setting())
	environ := append(sdk.Plain(t, s), "TEST_SCHEME=http", "TEST_REGISTRY="+host, out.variable(), "TEST_DRIVER="+driver, "TEST_API="+s.URL)
	found := sdk.Matrix{By: "tests/e2e/e2b"}
	for _, p := range sdks {
		t.Run(p.String(), func(t *testing.T) {
			program, dir := install(t, p)
			found.Columns = append(found.Columns, p.String())
			for _, r := range play(t, program, dir, append(environ, "TEST_BREAKER="+breaks(t, s))) {
				found.Add(p.String(), r)
				t.Run(r.Feature+"/"+r.Check, r.Judge)
			}
		})
	}
	if log := sdk.CLI(t, s, "audit", "--operation", "start-execution", "--limit", "1"); !strings.Contains(log, "agent token") {
		t.Errorf("the commands that the SDKs ran are not in the audit log:\n%s", log)
	}
	sdk.Explain(t, s)
	if !t.Failed() && len(found.Columns) == len(sdks) && driver == defaultDriver {
		found.Compare(t)
	}
}

// wanted is the driver to test on; it skips where nothing can be tested.
func wanted(t *testing.T) string {
	t.Helper()
	sdk.Wanted(t)
	if driver := os.Getenv(driverEnv); driver != "" {
		return driver
	}
	return defaultDriver
}

func serve(t *testing.T, driver string, settings ...string) *server.Server {
	t.Helper()
	return serveFrom(t, cmp.Or(os.Getenv(rootfsEnv), os.Getenv(otherRootfsEnv)), driver, settings...)
}

func serveFrom(t *testing.T, rootfs, driver string, settings ...string) *server.Server {
	t.Helper()
	all := append([]string{"AETHERIUM_VM_DRIVER=" + driver, "AETHERIUM_BASE_SKIP=" + strconv.FormatBool(rootfs != "")}, settings...)
	const kernel = "AETHERIUM_MICROVM_KERNEL"
	if v := os.Getenv(kernel); v != "" {
		all = append(all, kernel+"="+v)
	}
	s := sdk.Serve(t, 10*time.Minute, all...)
	if rootfs != "" {
		sdk.CLI(t, s, "template", "build", "base", "--dir", rootfs)
	}
	return s
}

func install(t *testing.T, p sdk.Package) (program []string, dir string) {
	t.Helper()
	return p.Install(t, "e2b")
}

func play(t *testing.T, program []string, dir string, environ []string) []sdk.Result {
	t.Helper()
	return sdk.Play(t, 30*time.Minute, program, dir, environ) // ends one that hangs
}
