package e2b

import (
	"os"
	"strings"
	"testing"
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
	key := strings.TrimSpace(cli(t, s, "key", "create", "sdk", "--e2b", "--scope", "manage"))
	environ := append(plain(t, s, key), "TEST_LIMIT=300", "TEST_FEATURES=create,metrics,pause,connect,snapshots,fork,kill")
	newest := map[string]bool{}
	for _, sdk := range sdks {
		if newest[sdk.language] {
			continue
		}
		newest[sdk.language] = true
		t.Run(sdk.name(), func(t *testing.T) {
			program, dir, err := sdk.install(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range play(t, program, dir, environ) {
				t.Run(r.Feature+"/"+strings.ReplaceAll(r.Check, "/", "-"), r.judge)
			}
		})
	}
	if t.Failed() {
		t.Logf("the server's log ends with\n%s", lastLines(s.Log(), 60))
	}
}
