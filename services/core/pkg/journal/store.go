package journal

import (
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// DefaultMaxBytes bounds a journal, frame headers included.
const DefaultMaxBytes = 64 << 20

// Options tune a store. Zero fields mean the defaults.
type Options struct {
	// MaxBytes bounds each journal on disk; default [DefaultMaxBytes], at least 64 KiB.
	MaxBytes int64
}

// Store owns a directory of journals. It is safe for concurrent use.
type Store struct {
	dir        string
	lock       *os.File
	maxBytes   int64
	maxSegment int64

	packs packs
	bytes atomic.Int64 // of all journals
	fresh fresh

	// mu is taken before a journal's own mutex, never after it.
	mu       sync.Mutex
	closed   bool
	journals map[Key]*Journal
}

// OpenStore opens the directory, making it if needed, and locks it against
// other processes for as long as the store is open. Returns Conflict when
// another process holds it.
func OpenStore(dir string, o Options) (*Store, error) {
	if o.MaxBytes <= 0 {
		o.MaxBytes = DefaultMaxBytes
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, ioError(err, "the journal directory cannot be made")
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, ioError(err, "the journal directory cannot be locked")
	}
	if err := takeLock(lock); err != nil {
		_ = lock.Close()
		return nil, errors.Wrap(err, errors.Conflict, "another process uses this journal directory")
	}
	maxBytes := max(o.MaxBytes, 64<<10)
	s := &Store{
		dir: dir, lock: lock, maxBytes: maxBytes,
		// Sixteen segments: dropping one loses little more than it must.
		maxSegment: max(maxBytes/16, 4<<10),
		packs:      packs{dir: dir, all: make(map[*pack]struct{})},
		journals:   make(map[Key]*Journal),
	}
	if err := s.scan(); err != nil {
		s.packs.close()
		_ = lock.Close()
		return nil, err
	}
	return s, nil
}

// lockWithin is how long a lock may outlive its process: a child that was
// forked and has not yet called exec when its parent is killed shares it.
const lockWithin = 2 * time.Second

func takeLock(f *os.File) error {
	for pause, deadline := time.Millisecond, time.Now().Add(lockWithin); ; pause *= 2 {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil || time.Now().Add(pause).After(deadline) {
			return err
		}
		time.Sleep(pause)
	}
}

// Open gives the journal of a key for writing and reading, making it if it is
// new; nothing is written before the first byte. Every Open must be matched by a
// [Journal.Close]. A torn tail is cut off, see [Journal.NextOffset].
// Returns InvalidArgument for a key of bad form.
func (s *Store) Open(k Key) (*Journal, error) { return s.acquire(k, true) }

// Lookup is Open for a journal that must exist. Returns NotFound.
func (s *Store) Lookup(k Key) (*Journal, error) { return s.acquire(k, false) }

func (s *Store) acquire(k Key, create bool) (*Journal, error) {
	if !k.valid() {
		return nil, errors.New(errors.InvalidArgument, "the journal's key is malformed")
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil, errors.New(errors.Unavailable, "the journals are closed")
	}
	j := s.journals[k]
	if j == nil {
		if !create {
			s.mu.Unlock()
			return nil, errors.New(errors.NotFound, "this execution has no output journal")
		}
		j = newJournal(s, k)
		s.journals[k] = j
	}
	j.refs++
	s.mu.Unlock()

	if err := j.load(); err != nil {
		j.Close()
		return nil, err
	}
	return j, nil
}

// release undoes acquire. A journal that never got a byte is forgotten.
func (s *Store) release(j *Journal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	j.refs--
	if j.refs > 0 {
		return
	}
	if empty := j.idle(); empty && s.journals[j.key] == j {
		delete(s.journals, j.key)
	}
}

// Read opens a journal for one reader: Lookup and [Journal.NewReader] in one.
// Closing the reader lets go of the journal.
func (s *Store) Read(k Key, from int64, follow bool) (*Reader, error) {
	j, err := s.Lookup(k)
	if err != nil {
		return nil, err
	}
	r, err := j.NewReader(from, follow)
	if err != nil {
		j.Close()
		return nil, err
	}
	r.owned = true
	return r, nil
}

// Part tells those who follow what goes on in an epoch of a VM that it does so
// elsewhere: they get what there is, and then Unavailable. Whoever begins to read
// after that is not concerned.
func (s *Store) Part(vm domain.ID, epoch int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, j := range s.journals {
		if k.VM == vm && k.Epoch == epoch && j.refs > 0 {
			j.part()
		}
	}
}

// Tail gives the last n bytes of a journal's output, all streams together.
// Returns NotFound.
func (s *Store) Tail(k Key, n int) ([]byte, error) {
	j, err := s.Lookup(k)
	if err != nil {
		return nil, err
	}
	defer j.Close()
	return j.Tail(n)
}

// Delete removes a journal. Absent is success. Its readers go on with what
// they have open and then fail with Gone; so does its writer.
func (s *Store) Delete(k Key) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.deleteLocked(k)
}

// deleteLocked holds mu through the removal of the files: a new journal of the
// same key would use the same names.
func (s *Store) deleteLocked(k Key) error {
	j := s.journals[k]
	if j == nil {
		return nil
	}
	delete(s.journals, k)
	s.fresh.drop(k)
	return j.remove()
}

// Info describes a journal without opening it.
type Info struct {
	Key      Key
	Bytes    int64     // its share of the disk
	Modified time.Time // when it was last written to
	Open     bool      // somebody holds it open
	Carried  bool      // it is elsewhere, too
}

// List tells what journals there are, in no particular order.
func (s *Store) List() []Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Info, 0, len(s.journals))
	for _, j := range s.journals {
		out = append(out, j.info())
	}
	return out
}

// Bytes is what all journals take on disk together. Packs add what was deleted
// in them, up to the size of a pack for each long-lived short journal.
func (s *Store) Bytes() int64 { return s.bytes.Load() }

// RemoveOlderThan deletes the journals that nobody holds open and that were
// last written before the given time, and tells how many those were.
func (s *Store) RemoveOlderThan(t time.Time) (int, error) {
	return s.removeWhile(func(i Info) bool { return i.Modified.Before(t) })
}

// ShrinkTo deletes the journals that nobody holds open, oldest first, until
// all together take at most total bytes, and tells how many those were.
func (s *Store) ShrinkTo(total int64) (int, error) {
	return s.removeWhile(func(Info) bool { return s.Bytes() > total })
}

func (s *Store) removeWhile(remove func(Info) bool) (n int, err error) {
	list := s.List()
	slices.SortFunc(list, func(a, b Info) int { return a.Modified.Compare(b.Modified) })
	for _, i := range list {
		if i.Open || !remove(i) {
			continue
		}
		removed, err := s.deleteIdle(i.Key)
		if err != nil {
			return n, err
		}
		if removed {
			n++
		}
	}
	return n, nil
}

func (s *Store) deleteIdle(k Key) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if j := s.journals[k]; j == nil || j.refs > 0 {
		return false, nil
	}
	return true, s.deleteLocked(k)
}

// Close lets go of the directory. Journals still open stop taking data.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	for _, j := range s.journals {
		j.shut()
	}
	s.packs.close()
	// Let go of the lock itself: a child that is being forked at this moment has
	// the descriptor, too.
	_ = unix.Flock(int(s.lock.Fd()), unix.LOCK_UN)
	return s.lock.Close()
}

func (s *Store) path(k Key, base int64) string {
	return filepath.Join(s.dir, segmentName(k, base))
}

func ioError(err error, message string) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return errors.Wrap(err, errors.NoSpace, "the disk that holds the journals is full")
	}
	return errors.Wrap(err, errors.Internal, "%s", message)
}
