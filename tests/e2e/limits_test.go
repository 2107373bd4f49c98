package e2e

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/pkg/client"
	"github.com/aetherium/aetherium/tests/internal/server"
)

// bounded is a VM with little of everything, without a network.
func bounded(t *testing.T, c *client.Client) api.VM {
	t.Helper()
	vm, err := c.CreateVM(limited(t), api.CreateVM{
		Network: "none", Resources: &api.Resources{MemoryBytes: 96 << 20, DiskBytes: 32 << 20, PIDs: 48},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = c.DeleteVM(context.Background(), vm.ID) })
	return vm
}

// shell runs a line in a VM.
func shell(ctx context.Context, c *client.Client, vm, line string) (api.ExecuteResult, error) {
	return c.Execute(ctx, vm, api.Execute{Command: api.Command{Args: []string{"bash", "-c", line}}})
}

// mustShell is shell for a line that succeeds; it returns what was written.
func mustShell(t *testing.T, c *client.Client, vm, line string) string {
	t.Helper()
	res, err := shell(limited(t), c, vm, line)
	if err != nil || res.Execution.ExitCode == nil || *res.Execution.ExitCode != 0 {
		t.Fatalf("%s in %s: %+v, %v", line, vm, res, err)
	}
	return res.Stdout
}

// neighbour is a VM beside the one that is in trouble; it must not notice.
func neighbour(t *testing.T, c *client.Client) (unharmed func()) {
	t.Helper()
	vm := bounded(t, c)
	return func() {
		t.Helper()
		if out := mustShell(t, c, vm.ID, "echo well > f && cat f"); out != "well\n" {
			t.Errorf("the neighbour says %q", out)
		}
	}
}

// A disk that is full refuses what does not fit with a code, keeps what it has,
// and takes more when there is room. Commands run all the while.
func TestGuestDiskIsFull(t *testing.T) {
	t.Parallel()
	ctx, c := limited(t), connect(t)
	vm, unharmed := bounded(t, c), neighbour(t, c)
	mustShell(t, c, vm.ID, "echo kept > kept")
	res, err := shell(ctx, c, vm.ID, "dd if=/dev/zero of=big bs=64k 2>&1; dd if=/dev/zero of=small bs=1 2>/dev/null; true")
	if err != nil || !strings.Contains(res.Stdout, "quota exceeded") && !strings.Contains(res.Stdout, "No space left") {
		t.Fatalf("the disk has no limit: %+v, %v", res, err)
	}
	data := make([]byte, 4<<20)
	for name, put := range map[string]func() error{
		"file": func() error {
			_, err := c.WriteFile(ctx, client.File{VM: vm.ID, Path: "upload"}, bytes.NewReader(data), int64(len(data)), 0o644)
			return err
		},
		"tar": func() error {
			return c.WriteTar(ctx, client.File{VM: vm.ID, Path: "tree"}, bytes.NewReader(tarOfOne(t, "f", data)))
		},
	} {
		if err := put(); !errors.HasCode(err, errors.NoSpace) {
			t.Errorf("%s into a full disk: %v", name, err)
		}
	}
	if out := mustShell(t, c, vm.ID, "cat kept; ls"); !strings.HasPrefix(out, "kept\n") || strings.Contains(out, "upload") {
		t.Errorf("the full disk has %q", out)
	}
	unharmed()
	mustShell(t, c, vm.ID, "rm -f big small && sync")
	if _, err := c.WriteFile(ctx, client.File{VM: vm.ID, Path: "upload"}, bytes.NewReader(data), int64(len(data)), 0o644); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

func tarOfOne(t *testing.T, name string, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	_ = w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data)), Typeflag: tar.TypeReg})
	_, _ = w.Write(data)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// A program that takes more memory than there is ends; its VM and the others
// go on, and what happened is told.
func TestGuestIsOutOfMemory(t *testing.T) {
	t.Parallel()
	ctx, c := limited(t), connect(t)
	vm, unharmed := bounded(t, c), neighbour(t, c)
	for range 3 {
		res, err := shell(ctx, c, vm.ID, "exec python3 -c 'x = bytearray(300 << 20)'")
		if err != nil || res.Execution.ExitCode == nil || *res.Execution.ExitCode != 137 || res.Execution.Signal != 9 {
			t.Errorf("%+v, %v", res, err)
		}
		unharmed()
	}
	usage, err := c.VMUsage(ctx, vm.ID)
	if err != nil || usage.OOMKills < 3 {
		t.Errorf("usage %+v, %v", usage, err)
	}
	if out := mustShell(t, c, vm.ID, "echo alive"); out != "alive\n" {
		t.Errorf("%q", out)
	}
}

// A fork bomb meets the limit of processes. The host and the other VMs do not
// notice, what cannot be started in the VM is refused precisely, and the VM can
// be deleted.
func TestForkBomb(t *testing.T) {
	t.Parallel()
	ctx, c := limited(t), connect(t)
	vm, unharmed := bounded(t, c), neighbour(t, c)
	bomb, err := c.StartExecution(ctx, vm.ID, api.StartExecution{Command: api.Command{Args: []string{"bash", "-c", "bomb() { bomb | bomb & }; bomb; while :; do bomb 2>/dev/null; sleep 0.01; done"}}})
	if err != nil {
		t.Fatal(err)
	}
	full := false
	for deadline := time.Now().Add(crashWait); !full && time.Now().Before(deadline); {
		usage, err := c.VMUsage(ctx, vm.ID)
		if err != nil || usage.PIDs > 48 {
			t.Fatalf("usage %+v, %v", usage, err)
		}
		full = usage.PIDs >= 46
	}
	if !full {
		t.Error("the bomb did not go off")
	}
	for range 5 {
		unharmed()
		res, err := shell(ctx, c, vm.ID, "true")
		if err != nil && !errors.HasCode(err, errors.CapacityExhausted) {
			t.Errorf("a command in the VM: %+v, %v", res, err)
		}
	}
	if x, err := c.Execution(ctx, bomb.ID); err != nil {
		t.Errorf("%+v %v", x, err)
	}
	gone, err := c.DeleteVM(ctx, vm.ID)
	if err != nil || gone.State != "deleted" {
		t.Errorf("%+v %v", gone, err)
	}
	unharmed()
}

// Where the room of VMs' disks is to be reserved and is not there, the server
// says so and has begun nothing; down, which needs no room, ends it.
func TestNoRoomToReserve(t *testing.T) {
	t.Parallel()
	ctx := limited(t)
	s, err := server.New(filepath.Join(smallDisk(t, 300), "data"), "AETHERIUM_DISK_SIZE=1GiB", "AETHERIUM_BASE_SKIP=true")
	if err != nil {
		t.Fatal(err)
	}
	begun := func() (left []string) {
		if _, err := os.Stat(s.RuntimeDir); err == nil {
			left = append(left, s.RuntimeDir)
		}
		all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, file := range all {
			if text, _ := os.ReadFile(file); bytes.Contains(text, []byte(s.RuntimeDir+"/")) {
				left = append(left, string(text))
			}
		}
		return left
	}
	if err := s.Start(ctx); err == nil || !strings.Contains(err.Error(), "no space is left") {
		t.Errorf("a start without the room: %v", err)
	}
	if left := begun(); len(left) > 0 {
		t.Errorf("a start that failed left %q", left)
	}
	if err := s.Down(ctx, "--purge"); err != nil {
		t.Error(err)
	}
	if left := begun(); len(left) > 0 {
		t.Errorf("down left %q", left)
	}
}

// The disk of the data directory fills up. The server stays up and says so with
// a code; VMs that run go on; with room again everything does, and not a byte
// of what was written meanwhile is lost.
func TestHostDiskIsFull(t *testing.T) {
	t.Parallel()
	dir := smallDisk(t, 1200)
	s := ownIn(t, dir, "AETHERIUM_DISK_SIZE=512MiB", "AETHERIUM_POOL_SIZE=0", "AETHERIUM_VM_DISK=64MiB")
	c, err := s.Client()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	vm := bounded(t, c)
	mustShell(t, c, vm.ID, "echo kept > kept")

	stream, err := c.Start(t.Context(), vm.ID, api.StartExecution{Command: api.Command{Args: []string{"bash", "-c",
		`i=0; while [ $i -lt 2000 ]; do i=$((i+1)); echo line $i; [ $((i % 20)) = 0 ] && sleep 0.02; done; exit 7`}}}, client.StreamOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()

	filler := fill(t, dir)
	// Output that cannot be kept is not taken: these may have to wait for room.
	waiting := make(chan string, 2)
	for _, line := range []string{"echo hello", "dd if=/dev/urandom of=much bs=1M count=24 conv=fsync 2>/dev/null && rm much && echo written"} {
		go func() {
			res, err := shell(t.Context(), c, vm.ID, line)
			if err != nil && !errors.HasCode(err, errors.NoSpace) {
				waiting <- fmt.Sprintf("%s: %v", line, err)
				return
			}
			waiting <- res.Stdout
		}()
	}
	full(t, s, c, vm.ID)
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if out := <-waiting; out != "hello\n" && out != "written\n" && out != "" {
			t.Errorf("a command on a full disk: %q", out)
		}
	}

	if out := readAll(limited(t), t, stream, 7); out != numbered(2000) {
		t.Errorf("%d bytes, not the 2000 lines: %q", len(out), tail(out, 3))
	}
	if out := mustShell(t, c, vm.ID, "cat kept; echo more > more; cat more"); out != "kept\nmore\n" {
		t.Errorf("%q", out)
	}
	other := bounded(t, c)
	if out := mustShell(t, c, other.ID, "echo hello > f; cat f"); out != "hello\n" {
		t.Errorf("%q", out)
	}
	if _, err := c.ForkVM(limited(t), vm.ID, api.ForkVM{Count: 1}); err != nil {
		t.Error(err)
	}
}

// The same where VMs' disks are in a sparse file, as they are by default. They
// are refused what the disk has no room for, and nothing else: none turns
// read-only, what was on disk stays, and with room again all goes on by itself.
func TestHostDiskIsFullSparse(t *testing.T) {
	t.Parallel()
	dir := smallDisk(t, 1400)
	s := ownIn(t, dir, "AETHERIUM_POOL_SIZE=0", "AETHERIUM_VM_DISK=64MiB")
	c, err := s.Client()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	writer, reader := bounded(t, c), bounded(t, c)
	for _, vm := range []api.VM{writer, reader} {
		mustShell(t, c, vm.ID, "echo kept > kept; sync")
	}
	// Writes what it can, all the while, until there is a file "stop".
	stream, err := c.Start(t.Context(), writer.ID, api.StartExecution{Command: api.Command{Args: []string{"bash", "-c",
		`while ! [ -e stop ]; do
			mkdir d; dd if=/dev/urandom of=d/f bs=1M count=4 conv=fsync; rm -rf d; sleep 0.02
		done >/dev/null 2>&1; exit 7`}}}, client.StreamOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()

	filler := fill(t, dir)
	full(t, s, c, reader.ID)
	for range 5 {
		fill(t, dir) // what was freed meanwhile, too
		if res, err := shell(limited(t), c, reader.ID, "cat kept"); err != nil && !errors.HasCode(err, errors.NoSpace) || err == nil && res.Stdout != "kept\n" {
			t.Errorf("a command on a full disk: %+v, %v", res, err)
		}
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}

	// What the disk has room for is looked at now and then, and the volumes are let into it
	// by and by: that one could write tells nothing of another, nor of the next moment.
	deadline := time.Now().Add(crashWait)
	goesOn := func(vm, line, want string) {
		t.Helper()
		for {
			res, err := shell(limited(t), c, vm, line)
			if err == nil && res.Stdout == want {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("with room again: %+v, %v", res, err)
			}
		}
	}
	goesOn(writer.ID, "dd if=/dev/zero of=new bs=1M count=8 conv=fsync && touch stop && echo written", "written\n")
	readAll(limited(t), t, stream, 7)
	for _, vm := range []api.VM{writer, reader} {
		goesOn(vm.ID, "cat kept; echo more > more; sync; cat more", "kept\nmore\n")
	}
	other := bounded(t, c)
	mustShell(t, c, other.ID, "echo hello > f; sync; cat f")
	if _, err := c.ForkVM(limited(t), writer.ID, api.ForkVM{Count: 2}); err != nil {
		t.Error(err)
	}
}

// full tries everything while the disk is full.
func full(t *testing.T, s *server.Server, c *client.Client, vm string) {
	t.Helper()
	refused := 0
	for name, try := range map[string]func() error{
		"create": func() error {
			_, err := c.CreateVM(limited(t), api.CreateVM{Network: "none", Resources: &api.Resources{MemoryBytes: 96 << 20}})
			return err
		},
		"fork":     func() error { _, err := c.ForkVM(limited(t), vm, api.ForkVM{Count: 1}); return err },
		"snapshot": func() error { _, err := c.CreateSnapshot(limited(t), vm, api.CreateSnapshot{}); return err },
		"upload": func() error {
			_, err := c.Upload(limited(t), bytes.NewReader(make([]byte, 8<<20)), 8<<20)
			return err
		},
	} {
		err := try()
		if err == nil {
			continue
		}
		refused++
		if !errors.HasCode(err, errors.NoSpace) {
			t.Errorf("%s on a full disk: %v", name, err)
		}
		if _, err := c.Status(limited(t)); err != nil {
			t.Errorf("after %s the server does not answer: %v", name, err)
		}
	}
	if refused == 0 {
		t.Error("the disk was not full")
	}
}

// readAll reads a stream to its end, which is an exit with the code.
func readAll(ctx context.Context, t *testing.T, stream *client.Stream, code int) string {
	t.Helper()
	var out strings.Builder
	for {
		ev, err := stream.Next(ctx)
		if err != nil || ev.Gap != nil {
			t.Fatalf("after %d bytes: %+v %v", out.Len(), ev, err)
		}
		out.Write(ev.Data)
		if ev.Exit != nil {
			if ev.Exit.LostReason != "" || ev.Exit.ExitCode != code {
				t.Errorf("%+v", ev.Exit)
			}
			return out.String()
		}
	}
}

// smallDisk is a file system of a size in MiB, mounted for one test.
func smallDisk(t *testing.T, mib int) string {
	t.Helper()
	base := t.TempDir()
	image, dir := filepath.Join(base, "image"), filepath.Join(base, "disk")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"fallocate", "-l", fmt.Sprintf("%dM", mib), image},
		{"mkfs.ext4", "-q", "-m", "0", image},
		{"mount", "-o", "loop", image, dir},
	} {
		if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	t.Cleanup(func() {
		if out, err := exec.CommandContext(context.Background(), "umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v\n%s", err, out)
		}
	})
	return dir
}

// fill takes all the room that is left, to the last block.
func fill(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "filler")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	for chunk := make([]byte, 1<<20); len(chunk) >= 512; {
		if _, err := f.Write(chunk); err != nil {
			chunk = chunk[:len(chunk)/2]
		}
	}
	_ = f.Sync()
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}
