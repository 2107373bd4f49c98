package fsys

import (
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/bulk"
	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

const (
	// cachedBytes of a file go into the page cache. What is longer than this
	// would drive out of the machine's memory what its processes use there.
	cachedBytes = 64 << 20
	paceBytes   = 16 << 20 // before this nothing is said of how fast direct writing is
)

// Store writes all that r yields to a file that was just made or emptied. A
// long one goes past the page cache from some point on, for as long as that is
// the faster way: it usually takes a third of the processor's time, but a slow
// disk is felt.
func Store(f *os.File, r io.Reader) error {
	cached := &clocked{w: f}
	n, err := bulk.Store(cached, io.LimitReader(r, cachedBytes))
	if err != nil || n < cachedBytes {
		return err
	}
	buf, free, err := directBuffer()
	if err != nil {
		return err
	}
	defer free()
	d := &direct{mode: mode{f: f}, par: cached.took}
	_, err = bulk.StoreBy(buf, d, r)
	if offErr := d.mode.set(false); err == nil {
		err = offErr
	}
	return err
}

// clocked adds up the time that writes take.
type clocked struct {
	w    io.Writer
	took time.Duration
}

func (c *clocked) Write(p []byte) (int, error) {
	start := time.Now()
	n, err := c.w.Write(p)
	c.took += time.Since(start)
	return n, err
}

// direct writes a file past the page cache. It goes back to it for good when
// the file system cannot do otherwise or is not faster.
type direct struct {
	mode  mode
	par   time.Duration // what cachedBytes took through the page cache
	ended bool

	took    time.Duration
	written int64
}

func (d *direct) Write(p []byte) (int, error) {
	if err := d.mode.set(!d.ended && len(p)%directAlign == 0); err != nil {
		return 0, err
	}
	if !d.mode.direct {
		return d.mode.f.Write(p)
	}
	start := time.Now()
	n, err := d.mode.f.Write(p)
	if errors.Is(err, unix.EINVAL) { // also for what a short write has left
		d.ended = true
		m, err := d.Write(p[n:])
		return n + m, err
	}
	d.pace(n, time.Since(start))
	return n, err
}

// pace ends direct writing when all of it together was slower than the cache,
// which one slow write does not make it.
func (d *direct) pace(n int, took time.Duration) {
	d.written += int64(n)
	d.took += took
	if d.written >= paceBytes {
		d.ended = d.took.Seconds()*cachedBytes > d.par.Seconds()*float64(d.written)
	}
}
