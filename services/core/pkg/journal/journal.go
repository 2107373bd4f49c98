package journal

import (
	"encoding/json"
	"math"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/watch"
)

// maxOffset keeps sums of offsets far from overflow, whatever a guest says.
const maxOffset = math.MaxInt64 / 4

// Journal is the output of one execution. It has one writer at a time and any
// number of readers; all methods are safe for concurrent use.
type Journal struct {
	store *Store
	key   Key
	refs  int // guarded by store.mu

	mu       sync.Mutex
	loaded   bool
	begin    []extent   // the record of Begin, if there is one
	extents  []extent   // what else lies in packs, ascending; it comes before the segments
	segments []*segment // ascending; those before the last are complete
	file     *os.File   // the last segment, open for writing; nil until needed
	bytes    int64      // on disk
	next     int64
	note     []byte // of Begin; nil: not begun
	end      *domain.ExecutionEnd
	modified time.Time
	fail     error // deleted or shut: nothing more is written
	partings int   // how often those who followed it were told to look elsewhere
	carried  bool  // it is elsewhere, too
	change   watch.Change
	changes  uint64 // so far
	holds    map[*hold]struct{}
	roomy    chan struct{}                  // closed when a hold has moved; nil while nobody waits
	head     [len(magic) + frameHeader]byte // what goes before the data of a write

	waiting atomic.Int32 // writers in Feed
}

// segment is one file. Its fields are guarded by the journal's mutex.
type segment struct {
	base int64 // offset of its first byte
	size int64 // bytes of the file that readers may look at
}

func newJournal(s *Store, k Key) *Journal {
	return &Journal{store: s, key: k, loaded: true, modified: time.Now()}
}

// Key names the journal.
func (j *Journal) Key() Key { return j.key }

// NextOffset is the offset after the last byte that is kept for good: where
// output is to be resumed.
func (j *Journal) NextOffset() int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.next
}

// FirstOffset is the oldest offset that can still be read.
func (j *Journal) FirstOffset() int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.first()
}

func (j *Journal) first() int64 {
	switch {
	case len(j.extents) > 0:
		return j.extents[0].offset
	case len(j.segments) > 0:
		return j.segments[0].base
	}
	return j.next
}

// Ended gives the execution's end once it is written.
func (j *Journal) Ended() (domain.ExecutionEnd, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.end == nil {
		return domain.ExecutionEnd{}, false
	}
	return *j.end, true
}

// MaxNote bounds what Begin keeps.
const MaxNote = 1 << 10

// Begin writes that the journal exists, so that it is found after a restart
// also when no output came, with a note of at most 1 KiB for whoever finds it.
// A journal that was begun before, or has output, keeps what it has: began is
// false then. Returns NoSpace, Gone.
func (j *Journal) Begin(note []byte) (began bool, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(note) > MaxNote {
		return false, errors.New(errors.TooLarge, "the journal's note is longer than %d bytes", MaxNote)
	}
	if j.fail != nil {
		return false, j.fail
	}
	if !j.empty() {
		return false, nil
	}
	e, err := j.pack(kindBegin, note)
	if err != nil {
		return false, err
	}
	j.begin, j.note = []extent{e}, append([]byte{}, note...)
	return true, nil
}

// Note gives what Begin kept; nil when it was never called.
func (j *Journal) Note() []byte {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.note
}

// Append adds output. Bytes below NextOffset were taken before and are
// skipped. Returns OutOfRange when offset lies beyond NextOffset, Conflict
// after the end, NoSpace, Gone after Delete. After an error NextOffset tells
// what was taken, and the call can be made again as it was.
func (j *Journal) Append(offset int64, stream domain.OutputStream, data []byte) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.writable(); err != nil {
		return err
	}
	if !knownKind(byte(stream)) || !holdsOutput(byte(stream)) {
		return errors.New(errors.InvalidArgument, "output stream %d is unknown", stream)
	}
	if offset < 0 || offset > j.next {
		return errors.New(errors.OutOfRange, "output at offset %d leaves a hole after %d", offset, j.next)
	}
	skip := j.next - offset
	if skip >= int64(len(data)) {
		return nil
	}
	data = data[skip:]
	if j.next+int64(len(data)) > maxOffset {
		return errors.New(errors.OutOfRange, "the output is too long")
	}
	for len(data) > 0 {
		n := min(len(data), j.maxWrite())
		if err := j.write(byte(stream), data[:n]); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

// Skip says that the output between NextOffset and to is not to be had;
// readers see a gap. Going back is OutOfRange.
func (j *Journal) Skip(to int64) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.writable(); err != nil {
		return err
	}
	if to < j.next || to > maxOffset {
		return errors.New(errors.OutOfRange, "output cannot go on at offset %d after %d", to, j.next)
	}
	if to == j.next {
		return nil
	}
	// A segment that begins later than the one before it ended is the gap.
	next := j.next
	j.next = to
	if err := j.roll(); err != nil {
		j.next = next
		return err
	}
	j.wake()
	return nil
}

// AppendEnd finishes the journal. A journal that has ended keeps its first
// end: then AppendEnd does nothing. Returns NoSpace, Gone.
func (j *Journal) AppendEnd(end domain.ExecutionEnd) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.fail != nil {
		return j.fail
	}
	if j.end != nil {
		return nil
	}
	if r := []rune(end.LostReason); len(r) > 1024 {
		end.LostReason = string(r[:1024])
	}
	data, err := json.Marshal(end)
	if err != nil {
		return errors.Wrap(err, errors.Internal, "the execution's end cannot be written")
	}
	if err := j.put(kindEnd, data); err != nil {
		return err
	}
	j.end = &end
	j.closeFile()
	j.store.fresh.add(j.key)
	j.wake()
	return nil
}

// Close lets go of the journal; see [Store.Open].
func (j *Journal) Close() { j.store.release(j) }

func (j *Journal) writable() error {
	switch {
	case j.fail != nil:
		return j.fail
	case j.end != nil:
		return errors.New(errors.Conflict, "the execution has ended")
	}
	return nil
}

// maxWrite bounds one write, and with it how far a segment outgrows its size.
func (j *Journal) maxWrite() int { return int(min(maxFrameData, j.store.maxBytes/8)) }

// write adds one piece of output and enforces the bound.
func (j *Journal) write(kind byte, data []byte) error {
	if err := j.put(kind, data); err != nil {
		return err
	}
	j.next += int64(len(data))
	j.wake()
	for j.bytes > j.store.maxBytes && (len(j.extents) > 0 || len(j.segments) > 1) && j.dropOldest() == nil {
		// What cannot be removed now is tried again by the next write.
		continue
	}
	return nil
}

// put writes data, at most a frame, at j.next, into a pack as long as the
// journal is short. It is one write(2), so that data is taken altogether or not at all.
func (j *Journal) put(kind byte, data []byte) error {
	if len(j.segments) > 0 || len(j.extents) >= maxPackedRecords || j.packedBytes()+len(data) > maxPacked {
		return j.writeFrame(kind, data)
	}
	e, err := j.pack(kind, data)
	if err != nil {
		return err
	}
	j.extents = append(j.extents, e)
	return nil
}

// pack writes data at j.next into a pack.
func (j *Journal) pack(kind byte, data []byte) (extent, error) {
	now := time.Now()
	e, err := j.store.packs.add(j.key, frame{kind: kind, offset: j.next, data: data}, now)
	if err == nil {
		j.account(e.size(), now)
	}
	return e, err
}

// empty reports whether nothing was ever written.
func (j *Journal) empty() bool { return len(j.begin)+len(j.extents)+len(j.segments) == 0 }

// writeFrame writes data to the last segment.
func (j *Journal) writeFrame(kind byte, data []byte) error {
	if n := len(j.segments); n == 0 || j.segments[n-1].size >= j.store.maxSegment {
		if err := j.roll(); err != nil {
			return err
		}
	}
	last := j.segments[len(j.segments)-1]
	if j.file == nil {
		f, err := os.OpenFile(j.store.path(j.key, last.base), os.O_WRONLY|os.O_CREATE, 0o600)
		if err != nil {
			return ioError(err, "the journal cannot be opened")
		}
		j.file = f
	}
	head := j.head[:0]
	if last.size == 0 {
		head = append(head, magic...)
	}
	head = appendFrameHeader(head, frame{kind: kind, offset: j.next, data: data})
	// Written at the known size: what a failed write left there is replaced.
	if err := writeTogether(j.file, last.size, head, data); err != nil {
		return ioError(err, "the journal cannot be written")
	}
	size := int64(len(head) + len(data))
	last.size += size
	j.account(size, time.Now())
	return nil
}

// writeTogether writes head and data at an offset, by one system call and
// without copying them together first.
func writeTogether(f *os.File, at int64, head, data []byte) error {
	n, err := unix.Pwritev(int(f.Fd()), [][]byte{head, data}, at)
	for errors.Is(err, unix.EINTR) {
		n, err = unix.Pwritev(int(f.Fd()), [][]byte{head, data}, at)
	}
	if err != nil || n == len(head)+len(data) {
		return err
	}
	// Cut short, as on a disk that is almost full: the rest tells why.
	rest := append(append([]byte(nil), head...), data...)[n:]
	_, err = f.WriteAt(rest, at+int64(n))
	return err
}

// account notes that the journal grew by n bytes.
func (j *Journal) account(n int64, at time.Time) {
	j.bytes += n
	j.store.bytes.Add(n)
	if at.After(j.modified) {
		j.modified = at
	}
}

// roll begins a new segment at j.next.
func (j *Journal) roll() error {
	if n := len(j.segments); n > 0 && j.segments[n-1].size == 0 {
		// The last segment never got a byte: it is replaced.
		_ = os.Remove(j.store.path(j.key, j.segments[n-1].base))
		j.segments = j.segments[:n-1]
	}
	f, err := os.OpenFile(j.store.path(j.key, j.next), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return ioError(err, "the journal cannot be made")
	}
	j.closeFile()
	j.file = f
	j.segments = append(j.segments, &segment{base: j.next})
	j.modified = time.Now()
	return nil
}

// shut stops the writer because the store closes.
func (j *Journal) shut() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.fail == nil {
		j.fail = errors.New(errors.Unavailable, "the journals are closed")
	}
	j.closeFile()
	j.wake()
	j.makeRoom()
}

// idle closes the file of a journal that nobody holds, and tells whether
// nothing was ever written to it.
func (j *Journal) idle() (empty bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.closeFile()
	return j.empty()
}

func (j *Journal) closeFile() {
	if j.file != nil {
		_ = j.file.Close()
		j.file = nil
	}
}

// info describes the journal. The store's mutex is held.
func (j *Journal) info() Info {
	j.mu.Lock()
	defer j.mu.Unlock()
	return Info{Key: j.key, Bytes: j.bytes, Modified: j.modified, Open: j.refs > 0, Carried: j.carried}
}

// lastModified tells when the journal was last written to.
func (j *Journal) lastModified() time.Time {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.modified
}

// part lets those who follow the journal go.
func (j *Journal) part() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.partings++
	j.wake()
}

// wake tells the waiting readers that something changed.
func (j *Journal) wake() {
	j.changes++
	j.change.Notify()
}
