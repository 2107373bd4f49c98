package server

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// What a process had copied of a server's mounts is on its way out for a moment after
// that process was killed, and is nobody's leftover then either.
func TestCopiedMountsOnTheirWayOut(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("it needs root")
	}
	dir := t.TempDir()
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	image, at := filepath.Join(dir, "image"), filepath.Join(dir, "at")
	run("mkdir", at)
	run("truncate", "--size=1G", image)
	run("mkfs.btrfs", "--quiet", image)
	run("mount", "-o", "loop", image, at)
	run("dd", "if=/dev/zero", "of="+filepath.Join(at, "dirty"), "bs=1M", "count=256", "status=none") // takes time to be written
	holder := exec.CommandContext(t.Context(), "unshare", "--mount", "--propagation", "private", "sh", "-c", "echo; exec sleep 1000")
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	run("umount", at)

	s := &Server{DataDir: dir}
	ended := make(chan struct{})
	if err := holder.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = holder.Wait(); close(ended) }()
	for looks := 0; ; looks++ {
		if left := s.loops(t.Context()); len(left) > 0 {
			t.Fatalf("look %d: %v", looks, left)
		}
		select {
		case <-ended:
			return
		default:
		}
	}
}
