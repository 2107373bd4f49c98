package pager

import (
	"fmt"
	"math/bits"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxMemory bounds a memory that is served.
const maxMemory = 1 << 44

// touchedSize is how long the record of a memory's wanted pages is: a bit for
// each, in whole pages.
func touchedSize(memory int64) int64 {
	bytes := (memory/pageSize + 7) / 8
	return (bytes + pageSize - 1) / pageSize * pageSize
}

// OpenTouched opens the record of which pages of a saved memory were wanted,
// making an empty one where there is none.
func OpenTouched(path string, memory int64) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Size() != touchedSize(memory) {
		err = f.Truncate(touchedSize(memory))
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// memory is a saved memory with the record of its wanted pages. Servers of other
// guests may write the record at the same time.
type memory struct {
	size    uint64
	pages   []byte   // mapped
	touched []uint32 // mapped and shared
}

func openMemory(file, touched *os.File) (*memory, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	size := info.Size()
	if size <= 0 || size > maxMemory || size%pageSize != 0 {
		return nil, fmt.Errorf("a saved memory of %d bytes", size)
	}
	m := &memory{size: uint64(size)}
	if m.pages, err = unix.Mmap(int(file.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_PRIVATE); err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	length := touchedSize(size)
	if info, err = touched.Stat(); err != nil || info.Size() < length {
		return nil, fmt.Errorf("the record of wanted pages is too short: %w", err)
	}
	raw, err := unix.Mmap(int(touched.Fd()), 0, int(length), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	m.touched = unsafe.Slice((*uint32)(unsafe.Pointer(&raw[0])), len(raw)/4)
	_ = file.Close()
	_ = touched.Close()
	return m, nil
}

func (m *memory) wanted(page uint64) bool {
	return atomic.LoadUint32(&m.touched[page/32])&(1<<(page%32)) != 0
}

func (m *memory) want(page uint64) { atomic.OrUint32(&m.touched[page/32], 1<<(page%32)) }

// countWanted is how many pages are in the record.
func (m *memory) countWanted() uint64 {
	var n int
	for i := range m.touched {
		n += bits.OnesCount32(atomic.LoadUint32(&m.touched[i]))
	}
	return uint64(n)
}
