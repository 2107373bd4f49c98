package kernel_test

import (
	"bytes"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/microvm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/microvm/kernel"
)

func source(t *testing.T) kernel.Source {
	t.Helper()
	dir := os.Getenv("AETHERIUM_TEST_KERNEL")
	if dir == "" {
		t.Skip("AETHERIUM_TEST_KERNEL names no directory with an unpacked kernel package")
	}
	s, err := kernel.Find(dir)
	must(t, err)
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func build(t *testing.T, s kernel.Source, agent, cache string) microvm.Kernel {
	t.Helper()
	k, err := kernel.Build(t.Context(), s, agent, cache)
	must(t, err)
	return k
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return b
}

// self stands in for the agent: any program is put into the initrd.
func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	must(t, err)
	return path
}

func TestDistributionKernel(t *testing.T) {
	t.Parallel()
	s := source(t)
	cache := t.TempDir()
	var all sync.WaitGroup
	built := make([]microvm.Kernel, 2)
	for i := range built {
		all.Go(func() { built[i], _ = kernel.Build(t.Context(), s, self(t), cache) })
	}
	all.Wait()
	k := build(t, s, self(t), cache)
	if built[0] != k || built[1] != k {
		t.Errorf("beside each other: %+v, then %+v", built, k)
	}
	if left, _ := filepath.Glob(filepath.Join(cache, "*")); len(left) != 1 {
		t.Errorf("the cache holds %v", left)
	}
	f, err := elf.Open(k.ELF)
	must(t, err)
	defer func() { _ = f.Close() }()
	if f.Type != elf.ET_EXEC || !bytes.Contains(read(t, k.ELF), []byte("Linux version "+k.Version)) || k.Version == "" {
		t.Errorf("the uncompressed kernel is a %v of version %q", f.Type, k.Version)
	}
	if again := build(t, s, self(t), t.TempDir()); !bytes.Equal(read(t, again.Initrd), read(t, k.Initrd)) {
		t.Error("the same kernel and agent make another initrd")
	}
	if filepath.Base(filepath.Dir(build(t, s, "/proc/self/exe", cache).Image)) != filepath.Base(filepath.Dir(k.Image)) {
		t.Error("the name tells where the agent was")
	}
}

// What the kernel unpacks, cpio does as well.
func TestInitrd(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("cpio"); err != nil {
		t.Skip("cpio is not installed")
	}
	k := build(t, source(t), self(t), t.TempDir())
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "cpio", "--extract", "--quiet", "init", "modules*", "proc", "sys")
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(read(t, k.Initrd))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if !bytes.Equal(read(t, filepath.Join(dir, "init")), read(t, self(t))) {
		t.Error("/init is another program")
	}
	var loaded []string
	for line := range strings.Lines(string(read(t, filepath.Join(dir, "modules/order")))) {
		words := strings.Fields(line)
		for _, need := range words[1:] {
			if !slices.Contains(loaded, need) {
				t.Errorf("%s comes before %s, which it needs", words[0], need)
			}
		}
		loaded = append(loaded, words[0])
		if _, err := elf.Open(filepath.Join(dir, "modules", words[0]+".ko")); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"virtio_mmio", "virtio_blk", "virtio_console", "vmw_vsock_virtio_transport", "virtio_net", "erofs", "overlay"} {
		if !slices.Contains(loaded, name) {
			t.Errorf("%s is missing from %v", name, loaded)
		}
	}
}

// A user's own kernel may come uncompressed and with everything built in.
func TestOwnKernel(t *testing.T) {
	t.Parallel()
	elfOnly := kernel.Source{Image: build(t, source(t), self(t), t.TempDir()).ELF}
	k := build(t, elfOnly, self(t), t.TempDir())
	if !bytes.Equal(read(t, k.ELF), read(t, k.Image)) || k.Version == "" {
		t.Errorf("%+v", k)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	text := filepath.Join(dir, "text")
	must(t, os.WriteFile(text, bytes.Repeat([]byte("no kernel "), 1000), 0o600))
	if _, err := kernel.Find(dir); !errors.HasCode(err, errors.NotFound) {
		t.Errorf("nothing there: %v", err)
	}
	for name, tc := range map[string]struct {
		from  kernel.Source
		agent string
		code  errors.Code
	}{
		"no file":   {kernel.Source{Image: filepath.Join(dir, "none")}, self(t), errors.InvalidArgument},
		"no kernel": {kernel.Source{Image: text}, self(t), errors.InvalidArgument},
	} {
		if _, err := kernel.Build(t.Context(), tc.from, tc.agent, dir); !errors.HasCode(err, tc.code) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := kernel.UnpackDebian(t.Context(), text, filepath.Join(dir, "k")); err == nil {
		t.Error("a text was unpacked")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".new-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// A maker makes a kernel anew for another agent, and when the one that it made is gone.
func TestMaker(t *testing.T) {
	t.Parallel()
	_ = source(t) // or there is nothing to make one of
	agent, cache := filepath.Join(t.TempDir(), "agent"), t.TempDir()
	program := read(t, self(t))
	must(t, os.WriteFile(agent, program, 0o755))
	m := &kernel.Maker{Installed: os.Getenv("AETHERIUM_TEST_KERNEL"), Agent: agent, Cache: cache}
	made := func() microvm.Kernel {
		t.Helper()
		k, err := m.Kernel(t.Context())
		must(t, err)
		read(t, k.Initrd)
		return k
	}
	first := made()
	if again := made(); again != first {
		t.Errorf("%+v, then %+v", first, again)
	}
	must(t, os.RemoveAll(filepath.Dir(first.Initrd)))
	if again := made(); again != first {
		t.Errorf("%+v, then %+v", first, again)
	}
	must(t, os.WriteFile(agent, append(program, "another one"...), 0o755))
	if other := made(); other == first || !bytes.Contains(read(t, other.Initrd), []byte("another one")) {
		t.Errorf("with another agent: %+v, then %+v", first, other)
	}
	must(t, os.Remove(agent))
	if k, err := m.Kernel(t.Context()); !errors.HasCode(err, errors.Unsupported) {
		t.Errorf("without an agent: %+v, %v", k, err)
	}
}
