package disk_test

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/disk"
	"golang.org/x/sys/unix"
)

// A disk that fills up around a sparse pool harms no volume: nothing turns
// read-only, nothing that was on disk is lost, and with room again all goes on.
func TestDiskAroundIsFull(t *testing.T) {
	t.Parallel()
	ctx, around := t.Context(), smallDisk(t, 900)
	cfg := disk.Config{Dir: around + "/data", Backend: disk.BackendBtrfs, Size: 640 * mib, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))}
	p := openPool(t, cfg)
	must(t, p.Create(ctx, "a", 0))
	must(t, p.Create(ctx, "b", 64*mib))
	kept := &ledger{sums: map[string][32]byte{}}
	must(t, kept.write(p.Path("a")+"/kept", 16*mib))

	var volumes sync.WaitGroup
	working, stop := context.WithCancel(ctx)
	defer stop()
	var gate sync.RWMutex // nobody writes between the disk's filling up and the guard's next look
	for _, id := range []string{"a", "b"} {
		volumes.Go(func() { work(working, t, &gate, kept, p.Path(id)) })
	}
	for round := range 2 {
		gate.Lock()
		filler := occupy(t, around)
		looked(t, p)
		gate.Unlock()
		if err := p.Create(ctx, "new", 0); !errors.HasCode(err, errors.NoSpace) {
			t.Errorf("a new volume on a full disk: %v", err)
		}
		if err := p.Clone(ctx, "a", "new", 0); !errors.HasCode(err, errors.NoSpace) {
			t.Errorf("a clone on a full disk: %v", err)
		}
		if round == 0 {
			manyFiles(t, p.Path("a"))
		}
		must(t, p.Delete(ctx, fmt.Sprintf("clone%d", round-1)))
		must(t, os.Remove(filler))

		roomAgain(t, p.Path("a")+"/again")
		must(t, p.Sync())
		must(t, p.Clone(ctx, "a", fmt.Sprintf("clone%d", round), 0))
		must(t, kept.write(fmt.Sprintf("%s/round%d", p.Path("a"), round), 16*mib))
	}
	stop()
	volumes.Wait()
	kept.check(t)

	must(t, p.Unmount(ctx))
	openPool(t, cfg)
	kept.check(t)
	if out, err := exec.CommandContext(ctx, "btrfs", "scrub", "start", "-B", cfg.Dir+"/vmdata").CombinedOutput(); err != nil {
		t.Errorf("btrfs scrub: %v\n%s", err, out)
	}
}

// Where only volumes can make room on a full disk, they get the room they make.
func TestVolumeMakesRoomOnAFullDisk(t *testing.T) {
	t.Parallel()
	ctx, around := t.Context(), smallDisk(t, 1200)
	p := openPool(t, disk.Config{Dir: around + "/data", Backend: disk.BackendBtrfs, Size: 960 * mib, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	must(t, p.Create(ctx, "a", 0))
	_, err := fill(p.Path("a")+"/big", 400*mib)
	must(t, err)
	filler := occupy(t, around)
	looked(t, p)
	if n, err := fill(p.Path("a")+"/more", 200*mib); !full(err) {
		t.Errorf("wrote %d MiB on a full disk: %v", n/mib, err)
	}
	must(t, os.Remove(p.Path("a")+"/more"))
	// What is freed and taken again just then must not get lost between the two.
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(300 * time.Millisecond) {
		must(t, os.Remove(p.Path("a")+"/big"))
		_, _ = fill(p.Path("a")+"/big", 400*mib)
	}
	must(t, os.Remove(p.Path("a")+"/big"))
	roomAgain(t, p.Path("a")+"/again")
	for end := time.Now().Add(30 * time.Second); freeBytes(t, around) < 380*mib; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the disk has only %d MiB back", freeBytes(t, around)/mib)
		}
	}
	must(t, p.Create(ctx, "b", 0))
	must(t, os.Remove(filler))
}

// Room of what was deleted is there when it was asked back: around the pool, and for
// other volumes. What a process has open keeps nobody waiting for ever.
func TestRoomIsAskedBack(t *testing.T) {
	t.Parallel()
	ctx, around := t.Context(), smallDisk(t, 900)
	p := openPool(t, disk.Config{Dir: around + "/data", Backend: disk.BackendBtrfs, Size: 640 * mib, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	must(t, p.Create(ctx, "a", 0))
	_, err := fill(p.Path("a")+"/big", 400*mib)
	must(t, err)
	must(t, p.Sync())
	before := freeBytes(t, around)
	must(t, p.Delete(ctx, "a"))
	must(t, p.ReclaimAll(ctx))
	if got := freeBytes(t, around) - before; got < 380*mib {
		t.Errorf("of 400 MiB %d are back", got/mib)
	}
	must(t, p.Create(ctx, "b", 0))
	_, err = fill(p.Path("b")+"/big", 400*mib)
	must(t, err)
	f, err := os.Open(p.Path("b") + "/big")
	must(t, err)
	defer f.Close()
	must(t, p.Delete(ctx, "b"))
	must(t, p.Reclaim(ctx))
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	if err := p.Reclaim(canceled); !errors.Is(err, context.Canceled) {
		t.Errorf("nobody waits for it any more: %v", err)
	}
}

// Room that is freed while the ballast grows has the ballast on it before it is given
// back to the disk. Who asks for it has it nevertheless.
func TestBallastOnFreedRoom(t *testing.T) {
	t.Parallel()
	ctx, around := t.Context(), smallDisk(t, 900)
	cfg := disk.Config{Dir: around + "/data", Backend: disk.BackendBtrfs, Size: 640 * mib, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))}
	p := openPool(t, cfg)
	must(t, p.Create(ctx, "a", 0))
	_, err := fill(p.Path("a")+"/big", 300*mib)
	must(t, err)
	must(t, p.Sync())
	occupy(t, around)
	looked(t, p)
	before := freeBytes(t, around)
	must(t, p.WithoutGuard(func() error {
		if err := p.Delete(ctx, "a"); err != nil {
			return err
		}
		for done := false; !done; time.Sleep(10 * time.Millisecond) {
			if done, err = p.Freed(); err != nil {
				return err
			}
		}
		ballast := cfg.Dir + "/vmdata/ballast"
		info, err := os.Stat(ballast)
		if err != nil {
			return err
		}
		if out, err := exec.CommandContext(ctx, "fallocate", "-l", fmt.Sprint(info.Size()+290*mib), ballast).CombinedOutput(); err != nil {
			return fmt.Errorf("growing the ballast: %w: %s", err, out)
		}
		return nil
	}))
	must(t, p.ReclaimAll(ctx))
	if got := freeBytes(t, around) - before; got < 280*mib {
		t.Errorf("of 300 MiB %d are back", got/mib)
	}
	must(t, p.Create(ctx, "b", 0))
}

// Volumes that have turned read-only are said to be, and once nobody uses them the
// next who opens the pool has them whole.
func TestTurnedReadOnly(t *testing.T) {
	t.Parallel()
	ctx, dir := t.Context(), t.TempDir()
	var logged lines
	cfg := disk.Config{Dir: dir, Backend: disk.BackendBtrfs, Size: 512 * mib, Logger: slog.New(slog.NewTextHandler(&logged, nil))}
	p := openPool(t, cfg)
	must(t, p.Create(ctx, "a", 0))
	kept := &ledger{sums: map[string][32]byte{}}
	must(t, kept.write(p.Path("a")+"/kept", 16*mib))
	must(t, p.Sync())
	must(t, unix.Mount("", dir+"/vmdata", "", unix.MS_REMOUNT|unix.MS_RDONLY, "")) // as an error does
	looked(t, p)
	if err := p.Create(ctx, "b", 0); !errors.HasCode(err, errors.Unavailable) || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("a volume of what is read-only: %v", err)
	}
	if text := logged.String(); strings.Count(text, "have turned read-only") != 1 {
		t.Errorf("logged:\n%s", text)
	}
	must(t, p.Close())
	f, err := os.Open(p.Path("a") + "/kept")
	must(t, err)
	if _, err := disk.Open(ctx, cfg); !errors.HasCode(err, errors.Unavailable) || !strings.Contains(err.Error(), "hold it") {
		t.Errorf("opened while a file is open: %v", err)
	}
	must(t, f.Close())
	p = openPool(t, cfg)
	must(t, p.Create(ctx, "b", 0))
	kept.check(t)
}

// What volumes write and btrfs has not counted yet does not pass for a lack of room.
func TestAWriteIsNoLackOfRoom(t *testing.T) {
	t.Parallel()
	ctx, around := t.Context(), smallDisk(t, 1160)
	var logged lines
	p := openPool(t, disk.Config{Dir: around + "/data", Backend: disk.BackendBtrfs, Size: 960 * mib, Logger: slog.New(slog.NewTextHandler(&logged, nil))})
	must(t, p.Create(ctx, "a", 0))
	for range 3 {
		_, err := fill(p.Path("a")+"/big", 400*mib)
		must(t, err)
		must(t, os.Remove(p.Path("a")+"/big"))
		must(t, p.Sync())
		looked(t, p)
	}
	if text := logged.String(); strings.Contains(text, "less room") {
		t.Errorf("of a disk that has the room:\n%s", text)
	}
}

// What volumes hold is theirs: it does not count against what they can hold.
func TestCapacity(t *testing.T) {
	t.Parallel()
	ctx, around := t.Context(), smallDisk(t, 900)
	for name, reserve := range map[string]bool{"sparse": false, "reserved": true} {
		t.Run(name, func(t *testing.T) {
			p := openPool(t, disk.Config{Dir: filepath.Join(around, name), Backend: disk.BackendBtrfs, Size: 512 * mib, Reserve: reserve})
			must(t, p.Create(ctx, "v", 0))
			before, err := p.Capacity(ctx)
			must(t, err)
			// ext4 keeps a fiftieth of itself back.
			if free := freeBytes(t, around) - 32*mib; reserve && before < free+512*mib || !reserve && before < free {
				t.Errorf("volumes can hold %d MiB of a disk with %d MiB left", before/mib, free/mib)
			}
			_, err = fill(p.Path("v")+"/f", 200*mib)
			must(t, err)
			must(t, p.Sync())
			after, err := p.Capacity(ctx)
			must(t, err)
			// The file system around keeps books of what it gave.
			if after > before || after < before-8*mib {
				t.Errorf("volumes could hold %d MiB, and %d MiB after 200 MiB were written", before/mib, after/mib)
			}
		})
	}
}

// smallDisk is a file system of a size in MiB, mounted for one test.
func smallDisk(t *testing.T, size int) string {
	t.Helper()
	return mounted(t, "fallocate", "-l", fmt.Sprintf("%dM", size))
}

// mounted is a file system in a file that a command makes, mounted for one test.
func mounted(t *testing.T, file ...string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	image, dir := filepath.Join(t.TempDir(), "image"), t.TempDir()
	for _, args := range [][]string{
		append(file, image),
		{"mkfs.ext4", "-q", "-m", "0", image},
		{"mount", "-o", "loop", image, dir},
	} {
		if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	t.Cleanup(func() {
		// Detached: other processes' mount namespaces may hold the pool a while.
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// looked waits until the guard has looked at everything as it is now.
func looked(t *testing.T, p *disk.Pool) {
	t.Helper()
	for before := p.GuardRounds(); p.GuardRounds() < before+2; time.Sleep(10 * time.Millisecond) {
		if t.Context().Err() != nil {
			t.FailNow()
		}
	}
}

// occupy takes all the room of a disk, to the last block, for a while.
func occupy(t *testing.T, dir string) (filler string) {
	t.Helper()
	filler = filepath.Join(dir, "filler")
	f, err := os.Create(filler)
	must(t, err)
	defer f.Close()
	chunk := make([]byte, mib)
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
		n := len(chunk)
		for n >= 512 {
			if _, err := f.Write(chunk[:n]); err != nil {
				n /= 2
			}
		}
		_ = f.Sync()
		time.Sleep(10 * time.Millisecond) // and what volumes give back
	}
	return filler
}

// work writes to a volume and removes from it. It is refused, but never because
// the file system turned read-only.
func work(ctx context.Context, t *testing.T, gate *sync.RWMutex, kept *ledger, dir string) {
	for i := 0; ctx.Err() == nil; i++ {
		path := fmt.Sprintf("%s/work%d", dir, i%8)
		gate.RLock()
		err := kept.write(path, 3*mib)
		gate.RUnlock()
		if err != nil && !full(err) && !errors.Is(err, unix.EIO) {
			t.Error(err)
			return
		}
		if err != nil || i%3 == 0 {
			kept.remove(path)
		}
	}
}

// manyFiles makes file systems need room for their books, more than they had.
func manyFiles(t *testing.T, dir string) {
	t.Helper()
	dir += "/many"
	err := os.Mkdir(dir, 0o700)
	for i := 0; err == nil && i < 80000; i++ {
		err = os.Symlink(strings.Repeat("x", 2000), fmt.Sprintf("%s/%d", dir, i)) // no data, only books
	}
	if err != nil && !full(err) && !errors.Is(err, unix.EIO) {
		t.Error(err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Errorf("removing files on a full disk: %v", err)
	}
}

// roomAgain waits until a volume takes data again.
func roomAgain(t *testing.T, path string) {
	t.Helper()
	var err error
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if _, err = fill(path, 32*mib); err == nil {
			must(t, os.Remove(path))
			return
		}
	}
	t.Fatalf("with room again: %v", err)
}

// lines is a log that is read while others write it.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// ledger knows what was written and is on disk.
type ledger struct {
	mu   sync.Mutex
	sums map[string][32]byte
}

func (l *ledger) write(path string, n int) error {
	l.mu.Lock()
	delete(l.sums, path)
	l.mu.Unlock()
	content := make([]byte, n)
	if _, err := rand.Read(content); err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sums[path] = sha256.Sum256(content)
	return nil
}

func (l *ledger) remove(path string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.sums, path)
	_ = os.Remove(path)
}

func (l *ledger) check(t *testing.T) {
	t.Helper()
	for path, sum := range l.sums {
		if content, err := os.ReadFile(path); err != nil || sha256.Sum256(content) != sum {
			t.Errorf("%s is not what was written: %v", path, err)
		}
	}
}
