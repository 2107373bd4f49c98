package attack

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// kernelAttacks are powers over the kernel that is shared with the host. The
// numbers say how many attempts each part makes at least.
var kernelAttacks = map[string]func(*testing.T, *bed, *machine){
	"system calls":       func(t *testing.T, b *bed, m *machine) { b.assail(t, m, 36, "calls") },
	"namespaces":         func(t *testing.T, b *bed, m *machine) { b.assail(t, m, 40, "namespaces") },
	"mounts":             func(t *testing.T, b *bed, m *machine) { b.assail(t, m, 40, "mounts") },
	"limits":             func(t *testing.T, b *bed, m *machine) { b.assail(t, m, 8, "limits") },
	"capabilities":       func(t *testing.T, b *bed, m *machine) { b.assail(t, m, 2, "capabilities") },
	"devices":            func(t *testing.T, b *bed, m *machine) { b.assail(t, m, 80, "devices") },
	"descriptors":        func(t *testing.T, b *bed, m *machine) { b.assail(t, m, 8, "descriptors") },
	"proc and sys":       func(t *testing.T, b *bed, m *machine) { b.assail(t, m, 36, "proc", marker(t)) },
	"a shared directory": attackShared,
	"processes": func(t *testing.T, b *bed, m *machine) {
		// The test's own process and its parent, and what no process has inside.
		b.assail(t, m, 4, "processes", strconv.Itoa(os.Getpid()), strconv.Itoa(os.Getppid()))
	},
}

// marker makes a file on the host that no machine may see.
func marker(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "of-the-host")
	if err := os.WriteFile(path, []byte(secret), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

const secret = "what only the host knows"

// attackShared tries to change a directory of the host that machines are given
// to read, as tools are: what one writes there, all others would run.
func attackShared(t *testing.T, b *bed, _ *machine) {
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "file")
	if err := os.WriteFile(path, []byte(secret), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	m := b.boot(t, afresh, func(s *vmm.Spec) {
		s.Mounts = append(s.Mounts, vmm.HostMount{Source: dir, Target: "/shared", ReadOnly: true})
	})
	_, body, err := m.client.Read(limited(t), "/shared/file", vmm.FileOptions{User: "root"})
	if err != nil {
		t.Fatalf("the directory is not there: %v", err)
	}
	_ = body.Close()
	if !b.Shared {
		// It may call the place writable; what is there is a drive that is not.
		m.permit("the drive is not", "make it writable:")
	}
	m.intrude(t, 19, "shared", "/shared")
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("the directory has %v, %v", entries, err)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != secret {
		t.Errorf("the file is %q, %v", text, err)
	}
}

// sums are checksums of what machines have in common.
func (b *bed) sums(t *testing.T) map[string]string {
	t.Helper()
	sums := map[string]string{}
	for _, pattern := range b.Common {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v, %v", pattern, files, err)
		}
		for _, path := range files {
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			sum := sha256.New()
			_, err = io.Copy(sum, f)
			_ = f.Close()
			if err != nil {
				t.Fatal(err)
			}
			sums[path] = fmt.Sprintf("%x", sum.Sum(nil))
		}
	}
	return sums
}

// hostFacts is what an attack could change on the host.
func hostFacts(t *testing.T) map[string]string {
	t.Helper()
	facts := map[string]string{}
	for _, path := range []string{
		"/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/kernel/hostname", "/proc/sys/kernel/domainname",
		"/proc/sys/kernel/sysrq", "/proc/sys/kernel/panic", "/proc/sys/vm/overcommit_memory", "/proc/sys/fs/file-max",
		"/sys/kernel/uevent_helper", "/sys/fs/cgroup/release_agent",
	} {
		if text, err := os.ReadFile(path); err == nil {
			facts[path] = strings.TrimSpace(string(text))
		}
	}
	if swaps, err := os.ReadFile("/proc/swaps"); err == nil {
		for line := range strings.Lines(string(swaps)) {
			name, _, _ := strings.Cut(line, " ") // how full it is changes
			facts["swap"] += name + " "
		}
	}
	agent, err := os.ReadFile(Agent())
	if err != nil {
		t.Fatal(err)
	}
	facts["the agent's program"] = fmt.Sprintf("%x", sha256.Sum256(agent))
	var null unix.Stat_t
	if err := unix.Stat("/dev/null", &null); err != nil {
		t.Fatal(err)
	}
	facts["/dev/null"] = fmt.Sprint(null.Uid, null.Gid, null.Mode, null.Rdev)
	return facts
}
