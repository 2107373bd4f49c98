package audit

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

const (
	// maxLine bounds a record's line; its fields are clipped to fit.
	maxLine = 4 << 10
	// ahead is how much room is allocated at a time.
	ahead = 1 << 20
)

// journal is the file that records are appended to. What was appended is taken
// out by turning the file over: it is put aside whole, and another begun.
type journal struct {
	path string // of the file; the one put aside has aside behind it

	mu        sync.Mutex
	file      *os.File
	size      int64 // of whole lines
	allocated int64 // room up to this size is ours
	promised  int64 // records that have room promised and are not written yet
	fault     error // of the last write; then room is made sure of by trying
}

const aside = ".aside"

// openJournal opens the file in a directory, and cuts off a line that a crash
// left half: nobody was told of what it says.
func openJournal(dir string) (*journal, error) {
	j := &journal{path: filepath.Join(dir, "journal")}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, cannot(err)
	}
	var err error
	if j.file, err = openFile(j.path); err != nil {
		return nil, err
	}
	if j.size, err = wholeLines(j.file); err == nil {
		err = j.file.Truncate(j.size)
	}
	if err != nil {
		return nil, errors.Join(cannot(err), j.file.Close())
	}
	j.allocated = j.size
	return j, nil
}

func openFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, cannot(err)
	}
	return f, nil
}

func cannot(err error) error {
	code := errors.Unavailable
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		code = errors.NoSpace
	}
	return errors.Wrap(err, code, "the audit log cannot be written").WithHint("changes are refused until it can; look at the data directory's disk")
}

// wholeLines is the size of a file up to its last line end.
func wholeLines(f *os.File) (int64, error) {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	buf := make([]byte, maxLine)
	for end > 0 {
		from := max(0, end-int64(len(buf)))
		n, err := f.ReadAt(buf[:end-from], from)
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		if i := bytes.LastIndexByte(buf[:n], '\n'); i >= 0 {
			return from + int64(i) + 1, nil
		}
		end = from
	}
	return 0, nil
}

// promise makes sure that one more record will find room.
// Returns NoSpace, Unavailable.
func (j *journal) promise() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil {
		return closed()
	}
	if err := j.allocate(j.file, j.size, &j.allocated, j.promised+1); err != nil {
		return err
	}
	j.promised++
	return nil
}

func closed() error { return errors.New(errors.Unavailable, "the audit log is closed") }

// allocate makes room behind size for so many records.
func (j *journal) allocate(f *os.File, size int64, allocated *int64, records int64) error {
	if need := size + records*maxLine; need > *allocated {
		to := max(need, size+ahead)
		err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, to)
		switch {
		case err == nil:
			*allocated = to
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS):
			// A file system that cannot: what shows that there is no room is a write that fails.
		default:
			return cannot(err)
		}
	}
	if j.fault == nil {
		return nil
	}
	if _, err := f.Write(bytes.Repeat([]byte{' '}, maxLine)); err != nil {
		return errors.Join(cannot(err), f.Truncate(size))
	}
	j.fault = nil
	return f.Truncate(size)
}

// keep gives a promise back.
func (j *journal) keep() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.promised--
}

// append writes a record's line. Returns NoSpace, Unavailable.
func (j *journal) append(r *domain.AuditRecord) error {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false) // which would make it longer than it may be
	if err := enc.Encode(r); err != nil {
		return errors.Wrap(err, errors.Internal, "a record cannot be written")
	}
	line := buf.Bytes()
	if len(line) > maxLine {
		return errors.New(errors.Internal, "a record of %d bytes is too long", len(line))
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil {
		return closed()
	}
	if _, err := j.file.Write(line); err != nil {
		// A line that is there in part would spoil the next one.
		j.fault = errors.Join(err, j.file.Truncate(j.size))
		return cannot(err)
	}
	j.size += int64(len(line))
	return nil
}

// turnOver puts what was appended aside. Reports false when there is nothing
// aside.
func (j *journal) turnOver() (bool, error) {
	if _, err := os.Stat(j.path + aside); err == nil {
		return true, nil // from a time before, and not taken out yet
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil || j.size == 0 {
		return false, nil
	}
	// The next file has its room before this one goes.
	fresh, err := openFile(j.path + ".next")
	if err != nil {
		return false, err
	}
	var allocated int64
	if err = fresh.Truncate(0); err == nil {
		err = j.allocate(fresh, 0, &allocated, j.promised+1)
	}
	if err == nil {
		err = os.Rename(j.path, j.path+aside)
	}
	if err != nil {
		return false, errors.Join(cannot(err), fresh.Close(), os.Remove(j.path+".next"))
	}
	if err := os.Rename(j.path+".next", j.path); err != nil {
		return false, errors.Join(cannot(err), fresh.Close(), os.Rename(j.path+aside, j.path))
	}
	err = j.file.Close()
	j.file, j.size, j.allocated = fresh, 0, allocated
	return true, err
}

// aside reads the records of the file that is put aside, and hands them on in
// batches. A line that is none is counted and left out.
func (j *journal) readAside(batch int, take func([]*domain.AuditRecord) error) (damaged int, err error) {
	f, err := os.Open(j.path + aside)
	if err != nil {
		return 0, cannot(err)
	}
	defer func() { _ = f.Close() }()
	lines := bufio.NewReaderSize(f, 64<<10)
	var rs []*domain.AuditRecord
	for {
		line, rerr := lines.ReadBytes('\n')
		if rerr == nil {
			r := new(domain.AuditRecord)
			if json.Unmarshal(line, r) != nil || !domain.IsID(string(r.ID)) {
				damaged++
			} else {
				rs = append(rs, r)
			}
		}
		if len(rs) == batch || rerr != nil && len(rs) > 0 {
			if err := take(rs); err != nil {
				return damaged, err
			}
			rs = rs[:0]
		}
		switch {
		case errors.Is(rerr, io.EOF):
			return damaged, nil
		case rerr != nil:
			return damaged, cannot(rerr)
		}
	}
}

// dropAside removes the file that is put aside; a damaged one is kept under
// another name for people to look at.
func (j *journal) dropAside(damaged bool) error {
	if damaged {
		return os.Rename(j.path+aside, j.path+".damaged-"+string(domain.NewID()))
	}
	return os.Remove(j.path + aside)
}

// close lets go of the file.
func (j *journal) close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil {
		return nil
	}
	err := j.file.Close()
	j.file = nil
	return err
}
