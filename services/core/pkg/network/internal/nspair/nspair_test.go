package nspair_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/network/internal/nspair"
	"github.com/aetherium/aetherium/services/core/pkg/network/networktest"
)

const count = 1 << 16

func newMaker(t *testing.T) *nspair.Maker {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("namespaces with IDs of others need root")
	}
	m, err := nspair.NewMaker()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func TestPair(t *testing.T) {
	m := newMaker(t)
	dir := t.TempDir()
	base, _ := networktest.IDs(t)
	is, err := m.Make(t.Context(), dir, base, count)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := nspair.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	if again, err := nspair.Identify(dir); err != nil || again != is || is.Zero() {
		t.Errorf("%+v, then %+v, %v", is, again, err)
	}
	// Who made them has gone, and root in there is the range's first.
	used, err := nspair.Processes()
	if err != nil || used.In(nspair.Range{Base: base, Count: count}) {
		t.Errorf("processes are left: %v", err)
	}
	user, net := "--user="+dir+"/"+nspair.UserFile, "--net="+dir+"/"+nspair.NetFile
	out, err := exec.CommandContext(t.Context(), "nsenter", user, net, "--", "sh", "-c", "cat /proc/self/uid_map /proc/self/gid_map; ip -o link").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if f := strings.Fields(string(out)); len(f) < 7 || strings.Join(f[:6], " ") != fmt.Sprintf("0 %d %d 0 %[1]d %[2]d", base, count) {
		t.Errorf("in there: %s", out)
	}
	if !strings.Contains(string(out), " lo:") || strings.Contains(string(out), "eth0") {
		t.Errorf("its links: %s", out)
	}
}

// The kernel refuses in a user namespace that may have none below it.
func TestRefused(t *testing.T) {
	m := newMaker(t)
	if os.Getenv("AETHERIUM_TEST_FULL") == "" {
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestRefused$", "-test.v")
		cmd.Env = append(os.Environ(), "AETHERIUM_TEST_FULL=1")
		ids := []syscall.SysProcIDMap{{HostID: 0, Size: 1}}
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags: syscall.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids, GidMappingsEnableSetgroups: true,
		}
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "--- PASS: TestRefused") {
			t.Errorf("%v: %s", err, out)
		}
		return
	}
	if err := os.WriteFile("/proc/sys/user/max_net_namespaces", []byte("0"), 0); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	_, err := m.Make(t.Context(), dir, 0, 1)
	if !errors.HasCode(err, errors.Unavailable) || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("refused: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("pins of nothing: %v, %v", left, err)
	}
}
