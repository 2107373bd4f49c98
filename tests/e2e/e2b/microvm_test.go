package e2b

import (
	"os"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/tests/internal/sdk"
)

// TestSDKsOnMicroVMs runs the calls that are other ones to machines with a
// kernel of their own: those that keep memory. Booting takes long without KVM,
// so it is the newest SDK of each language alone.
func TestSDKsOnMicroVMs(t *testing.T) {
	wanted(t)
	kernel := os.Getenv("AETHERIUM_TEST_KERNEL")
	if kernel == "" {
		t.Skip("AETHERIUM_TEST_KERNEL names no kernel for guests")
	}
	// Templates are made by the oci driver.
	s := serve(t, "qemu", "AETHERIUM_MICROVM_KERNEL="+kernel, "AETHERIUM_DRIVERS=oci,qemu", "AETHERIUM_POOL_SIZE=0")
	environ := append(sdk.Plain(t, s), "TEST_SCHEME=http", "TEST_LIMIT=300", "TEST_DRIVER=qemu", "TEST_API="+s.URL, "TEST_FEATURES=create,metrics,pause,connect,snapshots,fork,kill")
	newest := map[string]bool{}
	found := sdk.Matrix{By: "tests/e2e/e2b on qemu"}
	for _, p := range sdks {
		if newest[p.Language] {
			continue
		}
		newest[p.Language] = true
		t.Run(p.String(), func(t *testing.T) {
			program, dir := install(t, p)
			found.Columns = append(found.Columns, p.String())
			for _, r := range play(t, program, dir, environ) {
				found.Add(p.String(), r)
				t.Run(r.Feature+"/"+strings.ReplaceAll(r.Check, "/", "-"), r.Judge)
			}
		})
	}
	sdk.Explain(t, s)
	if !t.Failed() && len(found.Columns) == len(newest) {
		found.Compare(t)
	}
}
