package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The doctor tries everything and leaves nothing. It runs before the tests
// that are parallel, so that what is there is its own.
func TestDoctorLeavesNothing(t *testing.T) {
	looked := func() []string {
		var all []string
		for _, pattern := range []string{"/sys/fs/cgroup/aetherium-doctor-*", "/sys/fs/cgroup/*/aetherium-doctor-*", "/run/aetherium-doctor-*", "/run/aetherium-host/leases/doctor-*"} {
			names, err := filepath.Glob(pattern)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, names...)
		}
		mounts, err := os.ReadFile("/proc/self/mounts")
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(mounts)) {
			if strings.Contains(line, "doctor-") {
				all = append(all, line)
			}
		}
		return all
	}
	before := looked()
	out, err := suite.Standalone(limited(t), "doctor")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out, "runc") {
		t.Errorf("it says nothing of runc:\n%s", out)
	}
	for _, left := range looked() {
		if !slices.Contains(before, left) {
			t.Errorf("left behind: %s", left)
		}
	}
}
