package attack

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aetherium/aetherium/services/core/pkg/vmm/vmmtest"
	"golang.org/x/sys/unix"
)

// The programs that the suite runs; where there is no Go they are given.
const (
	agentEnv    = vmmtest.AgentEnv
	intruderEnv = "AETHERIUM_TEST_INTRUDER"
	insideEnv   = "AETHERIUM_ATTACK_TEST"
)

// OnOwnHost reports whether the caller runs on a host of its own already: the
// test binary in network and mount namespaces that nothing leads out of. If
// not, it runs the test there, with further variables in its environment, and
// fails as that did. It skips where there is neither Go nor the programs.
func OnOwnHost(t *testing.T, env ...string) bool {
	t.Helper()
	if os.Getenv(insideEnv) != "" {
		if err := settleIn(); err != nil {
			t.Fatal(err)
		}
		return true
	}
	if os.Geteuid() != 0 {
		t.Skip("machines need root")
	}
	t.Parallel()
	dir := t.TempDir()
	for name, source := range map[string]string{agentEnv: "services/core/cmd/fc-agent", intruderEnv: "services/core/pkg/vmm/vmmtest/attack/testdata/intruder"} {
		program := cmp.Or(os.Getenv(name), filepath.Join(dir, filepath.Base(source)))
		if _, err := os.Stat(program); err != nil {
			if _, err := exec.LookPath("go"); err != nil {
				t.Skip("there is no Go to build the programs with, and none in " + name)
			}
			build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "github.com/aetherium/aetherium/"+source)
			build.Env = append(os.Environ(), "CGO_ENABLED=0")
			if out, err := build.CombinedOutput(); err != nil {
				t.Fatalf("building %s: %v\n%s", source, err, out)
			}
		}
		env = append(env, name+"="+program)
	}
	verbose := "-test.v"
	if f := flag.Lookup("test.v"); f.Value.String() == "test2json" {
		verbose += "=test2json" // in which each test's end is told when it comes
	}
	run := "^" + t.Name() + "$"
	if _, some, ok := strings.Cut(flag.Lookup("test.run").Value.String(), "/"); ok {
		run += "/" + some
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", verbose, "-test.run="+run)
	if end, ok := t.Deadline(); ok { // one that hangs says where before it is killed
		cmd.Args = append(cmd.Args, "-test.timeout="+(time.Until(end)*9/10).String())
	}
	cmd.Env = append(append(os.Environ(), insideEnv+"=1"), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET, Unshareflags: unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL,
	}
	// Pdeathsig goes off when the thread that started the child ends, and threads
	// of other tests do end.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output() // as it comes: on emulated hosts it takes long
	if err := cmd.Run(); err != nil {
		t.Errorf("on its own host: %v", err)
	}
	return false
}

// MoveToOwnHost makes the calling program one on a host of its own, for a
// TestMain whose tests all want one: it begins anew in network and mount
// namespaces that nothing leads out of. There it returns. Its files are those of
// before, /run among them.
func MoveToOwnHost() error {
	if os.Getenv(insideEnv) != "" {
		return errors.Join(fail("mounts", keepMounts()), fail("loopback", up("lo")))
	}
	runtime.LockOSThread() // what the thread is in, the program that it becomes is
	if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS); err != nil {
		return fail("namespaces", err)
	}
	return fail("beginning anew", unix.Exec("/proc/self/exe", os.Args, append(os.Environ(), insideEnv+"=1")))
}

// Agent is the ordinary agent's program, which the machines run.
func Agent() string { return os.Getenv(agentEnv) }

// settleIn gives the new namespaces what a host has: sysfs of this network, and
// a /run that goes with them.
func settleIn() error {
	return errors.Join(
		keepMounts(),
		fail("run", unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=755")),
	)
}

// keepMounts has what is mounted from now on go with the namespace.
func keepMounts() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") }

func fail(what string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}
