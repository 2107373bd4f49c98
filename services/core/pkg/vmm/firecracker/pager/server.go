package pager

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Of linux/userfaultfd.h.
const (
	eventPagefault = 0x12
	eventRemove    = 0x15
	messageSize    = 32

	ioctlCopy     = 0xc028aa03 // UFFDIO_COPY
	ioctlZeropage = 0xc020aa04 // UFFDIO_ZEROPAGE
	ioctlWake     = 0x8010aa02 // UFFDIO_WAKE
)

const (
	// maxRecorded bounds how many pages of a run are recorded as wanted, and
	// recordShare how many of a memory: a run that wants everything is no help to
	// the next.
	maxRecorded = 8192
	recordShare = 4
	// ahead is how many pages are served ahead at once, between looks at what is wanted.
	ahead = 64
)

// server serves one guest.
type server struct {
	memory   *memory
	fault    int
	regions  []region
	removed  []uint32 // pages that the guest gave back: they are empty
	record   int      // how many more pages may be recorded
	next     uint64   // the first page that was not looked at for serving ahead
	pages    uint64
	deferred []uint64 // addresses whose serving has to wait for an event to be read
}

func newServer(m *memory, fault int, regions []region) *server {
	s := &server{memory: m, fault: fault, regions: regions, pages: m.size / pageSize}
	s.removed = make([]uint32, (s.pages+31)/32)
	if have, most := m.countWanted(), s.pages/recordShare; have < most {
		s.record = int(min(most-have, maxRecorded))
	}
	return s
}

// serve serves until something is wrong.
func (s *server) serve() error {
	runtime.LockOSThread()
	for {
		timeout := -1
		if s.next < s.pages || len(s.deferred) > 0 {
			timeout = 0
		}
		fds := []unix.PollFd{{Fd: int32(s.fault), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, timeout); err != nil && err != unix.EINTR { //nolint:errorlint // a raw errno
			return os.NewSyscallError("poll", err)
		}
		if fds[0].Revents&(unix.POLLERR|unix.POLLHUP|unix.POLLNVAL) != 0 {
			return fmt.Errorf("the memory is gone")
		}
		if err := s.events(); err != nil {
			return err
		}
		if err := s.again(); err != nil {
			return err
		}
		if s.next < s.pages {
			if err := s.serveAhead(); err != nil {
				return err
			}
		}
	}
}

// events takes what the kernel tells.
func (s *server) events() error {
	var buf [16 * messageSize]byte
	for {
		n, err := unix.Read(s.fault, buf[:])
		switch {
		case err == unix.EAGAIN: //nolint:errorlint // a raw errno
			return nil
		case err == unix.EINTR: //nolint:errorlint // a raw errno
			continue
		case err != nil:
			return os.NewSyscallError("read", err)
		case n == 0 || n%messageSize != 0:
			return fmt.Errorf("the kernel told %d bytes", n)
		}
		for m := buf[:n]; len(m) > 0; m = m[messageSize:] {
			if err := s.event(m[:messageSize]); err != nil {
				return err
			}
		}
	}
}

func (s *server) event(m []byte) error {
	switch m[0] {
	case eventPagefault:
		return s.wanted(binary.NativeEndian.Uint64(m[16:]) &^ (pageSize - 1))
	case eventRemove:
		return s.remove(binary.NativeEndian.Uint64(m[8:]), binary.NativeEndian.Uint64(m[16:]))
	}
	return fmt.Errorf("the kernel told of event %#x", m[0])
}

// page gives the page of the saved memory that belongs at an address.
func (s *server) page(address uint64) (uint64, bool) {
	for _, r := range s.regions {
		if address >= r.Base && address-r.Base < r.Size {
			return (address - r.Base + r.Offset) / pageSize, true
		}
	}
	return 0, false
}

// address is where a page belongs, and how many from there on lie in one region.
func (s *server) address(page uint64) (address, run uint64, ok bool) {
	at := page * pageSize
	for _, r := range s.regions {
		if at >= r.Offset && at-r.Offset < r.Size {
			return r.Base + at - r.Offset, (r.Size - (at - r.Offset)) / pageSize, true
		}
	}
	return 0, 0, false
}

func (s *server) wanted(address uint64) error {
	page, ok := s.page(address)
	if !ok {
		return fmt.Errorf("a page at %#x is wanted, where no memory is", address)
	}
	if s.record > 0 && !s.memory.wanted(page) && !s.isRemoved(page) {
		s.memory.want(page)
		s.record--
	}
	if s.isRemoved(page) {
		return s.done(address, s.zero(address))
	}
	_, err := s.copy(address, page, 1)
	return s.done(address, err)
}

// done says what came of serving a page that is waited for.
func (s *server) done(address uint64, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EEXIST): // it is there already; who waits may have missed that
		wake := struct{ start, length uint64 }{address, pageSize}
		return s.ioctl(ioctlWake, unsafe.Pointer(&wake))
	case errors.Is(err, unix.EAGAIN): // the memory is changing: that is told first
		s.deferred = append(s.deferred, address)
		return nil
	}
	return fmt.Errorf("a page cannot be served: %w", err)
}

// again serves what had to wait.
func (s *server) again() error {
	waiting := s.deferred
	s.deferred = nil
	for _, address := range waiting {
		if err := s.wanted(address); err != nil {
			return err
		}
	}
	return nil
}

func (s *server) remove(start, end uint64) error {
	if end < start || end-start > s.memory.size {
		return fmt.Errorf("the kernel told of a removal from %#x to %#x", start, end)
	}
	for a := start &^ (pageSize - 1); a < end; a += pageSize {
		if page, ok := s.page(a); ok {
			s.removed[page/32] |= 1 << (page % 32)
		}
	}
	return nil
}

func (s *server) isRemoved(page uint64) bool { return s.removed[page/32]&(1<<(page%32)) != 0 }

// serveAhead serves some pages that earlier runs wanted.
func (s *server) serveAhead() error {
	for s.next < s.pages && (s.next%32 != 0 || s.memory.touched[s.next/32] != 0) && !s.due(s.next) {
		s.next++
	}
	if s.next < s.pages && !s.due(s.next) {
		s.next += 32 // an empty word
		return nil
	}
	first := s.next
	if first >= s.pages {
		return nil
	}
	address, run, ok := s.address(first)
	if !ok {
		s.next++
		return nil
	}
	n := uint64(1)
	for n < run && n < ahead && s.due(first+n) {
		n++
	}
	copied, err := s.copy(address, first, n)
	switch {
	case err == nil, errors.Is(err, unix.EAGAIN):
		s.next = first + copied
	case errors.Is(err, unix.EEXIST):
		s.next = first + copied + 1
	default:
		return fmt.Errorf("pages cannot be served: %w", err)
	}
	return nil
}

func (s *server) due(page uint64) bool {
	return page < s.pages && s.memory.wanted(page) && !s.isRemoved(page)
}

// copy puts pages of the saved memory in their place and tells how many it did.
func (s *server) copy(address, page, n uint64) (uint64, error) {
	call := struct {
		to, from, length, mode uint64
		copied                 int64
	}{to: address, from: uint64(uintptr(unsafe.Pointer(&s.memory.pages[page*pageSize]))), length: n * pageSize}
	err := s.ioctl(ioctlCopy, unsafe.Pointer(&call))
	if err == nil {
		return n, nil
	}
	return uint64(max(call.copied, 0)) / pageSize, err
}

func (s *server) zero(address uint64) error {
	call := struct {
		start, length, mode uint64
		zeroed              int64
	}{start: address, length: pageSize}
	return s.ioctl(ioctlZeropage, unsafe.Pointer(&call))
}

func (s *server) ioctl(request uintptr, p unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(s.fault), request, uintptr(p)); errno != 0 {
		return errno
	}
	return nil
}
