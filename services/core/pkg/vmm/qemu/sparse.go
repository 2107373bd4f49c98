package qemu

import (
	"bytes"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/aetherium/aetherium/services/core/internal/diskroom"
	"golang.org/x/sys/unix"
)

// reserve gives a file its length, and the space for it, so that a full disk is
// told of before a guest waits for it.
func reserve(f *os.File, length int64) error {
	if err := f.Truncate(length); err != nil {
		return err
	}
	return diskroom.Reserve(f, length)
}

// passages are the files in memory that guests' memories pass through at the moment.
// Pages of a file in memory are made several times faster than those of one on a disk.
type passages struct {
	available func() (int64, error) // what the host could give

	mu       sync.Mutex
	promised int64 // what the files may come to hold
}

// passage is a file in memory for one guest's.
type passage struct {
	*os.File
	release func()
}

// open gives a file for a guest's memory, or nil where it and those that are open
// might take more than half of what the host can give: however little of them is
// written yet, it was promised.
func (p *passages) open(length int64) (*passage, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	available, err := p.available()
	if err != nil || p.promised+length > available/2 {
		return nil, nil //nolint:nilerr,nilnil // it goes without
	}
	fd, err := unix.MemfdCreate("guest", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "guest")
	if err := f.Truncate(length); err != nil {
		f.Close()
		return nil, err
	}
	p.promised += length
	return &passage{f, sync.OnceFunc(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.promised -= length
	})}, nil
}

// Close gives the memory back, once no monitor has the file any more.
func (p *passage) Close() error {
	defer p.release()
	return p.File.Close()
}

// availableMemory is what the kernel thinks it could give (proc_meminfo(5)).
func availableMemory() (int64, error) {
	raw, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(raw)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "MemAvailable:" {
			kib, err := strconv.ParseInt(fields[1], 10, 64)
			return kib << 10, err
		}
	}
	return 0, os.ErrNotExist
}

// fill copies a memory into its place, which has the length and the space: what
// is zero takes none.
func fill(path string, from *os.File) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	// The space was there: it is given back and taken piece by piece.
	if err := f.Truncate(0); err != nil {
		return err
	}
	if err := f.Truncate(info.Size()); err != nil {
		return err
	}
	buf, zeros := make([]byte, piece), make([]byte, piece)
	for at := int64(0); at < info.Size(); at += piece {
		n, err := from.ReadAt(buf[:min(piece, info.Size()-at)], at)
		if err != nil && err != io.EOF {
			return err
		}
		if bytes.Equal(buf[:n], zeros[:n]) {
			continue
		}
		if _, err := f.WriteAt(buf[:n], at); err != nil {
			return err
		}
	}
	return nil
}

// piece is the least that is left out where it is zero: a file of many small
// pieces is slow to read.
const piece = 64 << 10

// punch gives the space back that a file needs for nothing but zeros.
func punch(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	buf, zeros := make([]byte, piece), make([]byte, piece)
	var from int64 = -1 // where zeros began
	end := func(at int64) error {
		if from < 0 {
			return nil
		}
		err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, from, at-from)
		from = -1
		if err == unix.EOPNOTSUPP {
			return nil
		}
		return os.NewSyscallError("fallocate", err)
	}
	for at := int64(0); ; at += piece {
		n, err := io.ReadFull(f, buf)
		if n == 0 && err == io.EOF {
			return end(at)
		}
		if err != nil && err != io.ErrUnexpectedEOF {
			return err
		}
		if bytes.Equal(buf[:n], zeros[:n]) {
			if from < 0 {
				from = at
			}
		} else if err := end(at); err != nil {
			return err
		}
		if n < piece {
			return end(at + int64(n))
		}
	}
}
