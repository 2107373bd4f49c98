package disk

import (
	"context"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"golang.org/x/sys/unix"
)

const (
	// guardInterval is short against the time in which anything fills a margin.
	guardInterval = 250 * time.Millisecond
	// maxMargin is two of the largest chunks that btrfs takes at once.
	maxMargin = 2 << 30
	// ballastStep is the least by which the ballast changes: far less than a chunk.
	ballastStep = 4 << 20
	// liftInterval bounds how often the ballast is taken out and put in anew.
	liftInterval = 5 * time.Second
)

// guard lets btrfs in a sparse file live on when the disk around the file is
// full. btrfs believes in room that the disk may not have, and where a write of
// its own books finds none it turns read-only for every volume, until it is
// unmounted. So the guard keeps two things true:
//
//   - The chunks with btrfs's books have their room in the file (btrfsBooks).
//   - What volumes can still write fits on the disk, less a margin. Where it
//     would not, a file beside the volumes, the ballast, takes the difference:
//     volumes are then refused what does not fit, as on any full disk, and btrfs
//     finds no place for new chunks.
//
// One process guards a pool; the others wait until it ends.
type guard struct {
	root   string
	image  *os.File
	margin int64 // of the disk's room, what volumes are not let into
	books  btrfsBooks
	log    *slog.Logger

	mu      sync.Mutex // one round at a time
	mine    bool       // this process guards
	ballast int64      // its size
	lifted  time.Time  // when the ballast was taken out last
	asked   bool       // it is to be taken out now
	trouble string     // last logged
	rounds  atomic.Int64

	cancel context.CancelFunc
	busy   sync.WaitGroup
}

// startGuard guards the file system at root, which is in the file, until close.
func startGuard(root, image string, log *slog.Logger) (*guard, error) {
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return nil, fail(err, "cannot open the volume file")
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, fail(err, "cannot read the volume file")
	}
	ctx, cancel := context.WithCancel(context.Background())
	g := &guard{root: root, image: f, margin: min(info.Size()/8, maxMargin), log: log, cancel: cancel}
	g.look()
	g.busy.Go(func() { g.run(ctx) })
	return g, nil
}

func (g *guard) run(ctx context.Context) {
	tick := time.NewTicker(guardInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			g.mu.Lock()
			g.look()
			g.mu.Unlock()
		}
	}
}

// close ends the guard; the ballast stays. Nil and twice are fine.
func (g *guard) close() {
	if g == nil {
		return
	}
	g.cancel()
	g.busy.Wait()
	g.image.Close()
}

// room returns NoSpace while the disk has too little left for new volumes.
func (g *guard) room() error {
	if g == nil {
		return nil
	}
	free, err := g.free()
	if err != nil {
		return fail(err, "cannot read the disk's free space")
	}
	if free < g.margin {
		return errors.New(errors.NoSpace, "the disk that holds the volumes is full: no space is left").
			WithHint("new volumes need %d MiB free where the data directory is", g.margin>>20)
	}
	return nil
}

// again looks now at what the disk has left, and takes nothing for the volumes'
// that is somebody's to have. Nil is fine.
func (g *guard) again() {
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.asked = true
	g.look()
}

// look is one round; mu is held. What fails is tried again in the next.
func (g *guard) look() {
	err := g.round()
	trouble := ""
	if err != nil {
		trouble = err.Error()
	}
	switch {
	case trouble == "" || trouble == g.trouble:
	case readOnly(g.root):
		g.log.Error("the volumes have turned read-only, as their file system met an error: machines here write no more until they are stopped and the server starts again", "error", err)
	default:
		g.log.Warn("cannot guard the volumes against a full disk", "error", err)
	}
	g.trouble = trouble
	g.rounds.Add(1)
}

func (g *guard) round() error {
	if !g.mine {
		if err := unix.Flock(int(g.image.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			return nil // another process guards
		}
		g.mine = true
	}
	root, err := os.Open(g.root)
	if err != nil {
		return err
	}
	// Not held between rounds: it would keep others from unmounting.
	defer root.Close()
	var here, around unix.Stat_t
	if err := errors.Join(unix.Fstat(int(root.Fd()), &here), unix.Fstat(int(g.image.Fd()), &around)); err != nil {
		return err
	}
	if here.Dev == around.Dev {
		return nil // another process unmounted it
	}
	return errors.Join(g.weigh(root), g.books.back(root, g.image, g.room() == nil))
}

// weigh gives the ballast the size that it must have now.
func (g *guard) weigh(root *os.File) error {
	fd, err := unix.Openat(int(root.Fd()), "ballast", unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), "ballast")
	defer f.Close()
	size, lifted, err := g.lift(root, f)
	if err != nil {
		return err
	}
	excess, err := g.excess(root)
	if err != nil {
		return err
	}
	if !lifted && excess < ballastStep && (size == 0 || -excess < ballastStep) {
		g.tell(size)
		return nil
	}
	// The numbers are as of the last transaction, and room that was freed and not
	// given back to the disk yet is no excess.
	if err := reclaim(root); err != nil {
		return err
	}
	if excess, err = g.excess(root); err != nil {
		return err
	}
	next := max(0, size+excess)
	if next > size {
		next, err = occupy(f, size, next)
	} else {
		err = f.Truncate(next)
	}
	g.tell(next)
	return err
}

// lift takes the ballast out for a moment when it sits on much of the disk's
// room: volumes freed that while the ballast grew, and now nobody could use it.
func (g *guard) lift(root, ballast *os.File) (size int64, lifted bool, err error) {
	info, err := ballast.Stat()
	if err != nil {
		return 0, false, err
	}
	least := g.margin / 2
	if g.asked {
		least, g.asked = ballastStep, false
	} else if time.Since(g.lifted) < liftInterval {
		return info.Size(), false, nil
	}
	if info.Size() == 0 {
		return 0, false, nil
	}
	image, err := g.image.Stat()
	if err != nil {
		return 0, false, err
	}
	placed, err := dataPlaced(root)
	if err != nil {
		return 0, false, err
	}
	used, err := dataUsed(root)
	if err != nil {
		return 0, false, err
	}
	if idle := allocated(image) - g.books.size - (used + placed - info.Size()); idle < least {
		return info.Size(), false, nil
	}
	g.lifted = time.Now()
	return 0, true, ballast.Truncate(0)
}

// excess is how much more volumes could write than the disk can hold.
//
// What was written since the last transaction is on the disk already, but btrfs
// still has its room as available: a volume that writes much would pass for a
// disk that is full. The three are read in the order in which data moves on, so
// that what moves between two readings makes the excess smaller for one round,
// never larger.
func (g *guard) excess(root *os.File) (int64, error) {
	free, err := g.free()
	if err != nil {
		return 0, err
	}
	placed, err := dataPlaced(root)
	if err != nil {
		return 0, err
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(root.Fd()), &st); err != nil {
		return 0, err
	}
	return available(st) - placed - max(0, free-g.margin), nil
}

// free is what the disk has left; it can be asked after close, too.
func (g *guard) free() (int64, error) {
	var st unix.Statfs_t
	err := unix.Statfs(g.image.Name(), &st)
	return available(st), err
}

func available(st unix.Statfs_t) int64 { return int64(st.Bavail) * int64(st.Bsize) } //nolint:unconvert // Bsize differs by architecture

// tell logs when the ballast begins and ends to matter.
func (g *guard) tell(ballast int64) {
	switch {
	case g.ballast == 0 && ballast > 0:
		g.log.Warn("the disk has less room than the volumes were promised; they are kept to what there is", "missing", ballast)
	case g.ballast > 0 && ballast == 0:
		g.log.Info("the disk has room for the volumes again")
	}
	g.ballast = ballast
}

// occupy takes room for the file from its file system, as much as there is.
// It returns the file's size then.
func occupy(f *os.File, from, to int64) (int64, error) {
	for step := to - from; from < to && step >= 1<<20; step = min(step, to-from) {
		switch err := unix.Fallocate(int(f.Fd()), 0, from, step); err { //nolint:errorlint // a raw errno
		case nil:
			from += step
		case unix.EINTR:
		case unix.ENOSPC:
			step /= 2
		default:
			return from, err
		}
	}
	return from, nil
}
