package logging

import (
	"fmt"
	"io/fs"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	// lookEvery is how often it is looked whether the file is still where it was,
	// and how often one that could not be opened is tried again.
	lookEvery = time.Second
	tellEvery = time.Minute
)

// File writes lines to a file that is put aside when it has become large. Whoever
// logs is never told of what goes wrong with it, and waits for nothing but the write.
type File struct {
	path string
	size int64 // most of one
	keep int   // of those put aside
	tell func(error)

	mu      sync.Mutex
	file    *os.File // nil: it could not be opened
	written int64
	lost    int64
	looked  time.Time
	told    time.Time
}

// OpenFile opens a file for more lines, and makes it with mode 0600. Of those that
// were put aside (path.1 is the newest) as many are kept as said. tell, if any, is
// told what goes wrong, once a minute at most.
func OpenFile(path string, size int64, keep int, tell func(error)) (*File, error) {
	if tell == nil {
		tell = func(error) {}
	}
	f := &File{path: path, size: size, keep: keep, tell: tell}
	return f, f.open()
}

func (f *File) open() error {
	f.looked = time.Now()
	file, size, err := open(f.path, 0)
	if err == nil {
		f.file, f.written = file, size
	}
	return err
}

// open opens a regular file for more, of nobody else to read, and waits for nobody
// who has a pipe of that name open. It tells how much there is in it.
func open(path string, flags int) (*os.File, int64, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND|syscall.O_NONBLOCK|flags, 0o600)
	if err != nil {
		return nil, 0, err
	}
	info, err := file.Stat()
	switch {
	case err != nil:
	case !info.Mode().IsRegular():
		err = &fs.PathError{Op: "open", Path: path, Err: fs.ErrInvalid}
	case info.Mode().Perm()&0o077 != 0:
		err = file.Chmod(0o600)
	}
	if err != nil {
		_ = file.Close()
		return nil, 0, err
	}
	return file, info.Size(), nil
}

// Write appends one line. It fails for nobody.
func (f *File) Write(line []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	taken, err := f.append(line)
	if !taken {
		f.lost++
	}
	if now := time.Now(); err != nil && now.Sub(f.told) >= tellEvery {
		f.told = now
		f.tell(err)
	}
	return len(line), nil
}

// Lost is how many lines were lost so far.
func (f *File) Lost() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lost
}

// append can take a line and fail to put the file aside.
func (f *File) append(line []byte) (taken bool, err error) {
	if now := time.Now(); now.Sub(f.looked) >= lookEvery {
		f.looked = now
		if f.file != nil && !f.there() {
			_ = f.file.Close()
			f.file = nil
		}
		if f.file == nil {
			if err := f.open(); err != nil {
				return false, err
			}
		}
	}
	if f.file == nil {
		return false, fs.ErrClosed
	}
	var aside error
	if f.written > 0 && f.written+int64(len(line)) > f.size {
		aside = f.putAside()
	}
	n, err := f.file.Write(line)
	if err != nil {
		// Half a line (a full disk) is none.
		if n > 0 && f.file.Truncate(f.written) != nil {
			f.written += int64(n)
		}
		return false, err
	}
	f.written += int64(n)
	return true, aside
}

// there reports whether the path still leads to the open file.
func (f *File) there() bool {
	now, err := os.Stat(f.path)
	if err != nil {
		return false
	}
	open, err := f.file.Stat()
	return err == nil && os.SameFile(now, open)
}

// putAside begins another file. Where that fails it goes on with the one that there is.
func (f *File) putAside() error {
	name := func(n int) string { return fmt.Sprintf("%s.%d", f.path, n) }
	if f.keep == 0 {
		if err := f.file.Truncate(0); err != nil {
			return err
		}
		f.written = 0
		return nil
	}
	// The next one is there before any is moved: where that fails nothing has changed.
	next := name(0)
	file, _, err := open(next, os.O_TRUNC)
	if err != nil {
		return err
	}
	if err = f.shift(name); err == nil {
		err = os.Rename(next, f.path)
	}
	if err != nil {
		_ = file.Close()
		_ = os.Remove(next)
		return err // lines go on to the one that there is
	}
	old := f.file
	f.file, f.written = file, 0
	return old.Close()
}

// shift moves the file to name(1), and those there as far as one is in the way.
func (f *File) shift(name func(int) string) error {
	free := 1
	for free < f.keep {
		if _, err := os.Lstat(name(free)); err != nil {
			break
		}
		free++
	}
	for n := free; n > 1; n-- {
		if err := os.Rename(name(n-1), name(n)); err != nil {
			return err
		}
	}
	return os.Rename(f.path, name(1))
}

// Close closes the file.
func (f *File) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.file == nil {
		return nil
	}
	err := f.file.Close()
	f.file, f.looked, f.tell = nil, time.Now().Add(time.Hour), func(error) {} // what comes now is lost
	return err
}
