package pager

import (
	"bytes"
	"crypto/rand"
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

const testPages = 1024

// paged is memory of this process that a server serves.
type paged struct {
	bytes  []byte
	server *server
	ended  chan error
	fault  int
}

// userfault makes memory whose faults go to a descriptor; touch it from threads
// of its own only, which wait in a system call's stead.
func userfault(t *testing.T) (fault int, mem []byte) {
	t.Helper()
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|unix.O_NONBLOCK, 0, 0)
	if errno != 0 {
		t.Skipf("userfaultfd: %v", errno)
	}
	const featureRemove = 1 << 3
	api := struct{ api, features, ioctls uint64 }{api: 0xaa, features: featureRemove}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, 0xc018aa3f, uintptr(unsafe.Pointer(&api))); errno != 0 {
		t.Fatal(errno)
	}
	mem, err := unix.Mmap(-1, 0, testPages*pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	reg := struct{ start, length, mode, ioctls uint64 }{uint64(uintptr(unsafe.Pointer(&mem[0]))), uint64(len(mem)), 1, 0}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, 0xc020aa00, uintptr(unsafe.Pointer(&reg))); errno != 0 {
		t.Fatal(errno)
	}
	return int(fd), mem
}

func saved(t *testing.T) (path string, content []byte) {
	t.Helper()
	content = make([]byte, testPages*pageSize)
	_, _ = rand.Read(content)
	path = filepath.Join(t.TempDir(), "memory")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path, content
}

// start serves a saved memory to new memory of this process. The two halves
// stand in the other order there.
func start(t *testing.T, path, touched string) *paged {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	record, err := OpenTouched(touched, testPages*pageSize)
	if err != nil {
		t.Fatal(err)
	}
	m, err := openMemory(f, record)
	if err != nil {
		t.Fatal(err)
	}
	p := &paged{ended: make(chan error, 1)}
	p.fault, p.bytes = userfault(t)
	base, half := uint64(uintptr(unsafe.Pointer(&p.bytes[0]))), uint64(testPages*pageSize/2)
	regions := []region{{Base: base, Size: half, Offset: half}, {Base: base + half, Size: half}}
	if err := checkRegions(regions, m.size); err != nil {
		t.Fatal(err)
	}
	p.server = newServer(m, p.fault, regions)
	go func() { p.ended <- p.server.serve() }()
	return p
}

// read reads through a pipe: a system call waits for the page, and no goroutine
// holds up the others.
func (p *paged) read(t *testing.T, page int) []byte {
	t.Helper()
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	if _, err := unix.Write(fds[1], p.bytes[page*pageSize:(page+1)*pageSize]); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, pageSize)
	if n, err := unix.Read(fds[0], buf); n != pageSize || err != nil {
		t.Fatal(n, err)
	}
	return buf
}

func TestServe(t *testing.T) {
	path, content := saved(t)
	touched := filepath.Join(t.TempDir(), "touched")
	half := testPages / 2
	p := start(t, path, touched)
	for _, page := range []int{0, 5, 100, half, testPages - 1, 5} {
		in := (page + half) % testPages // the page of the saved memory
		if !bytes.Equal(p.read(t, page), content[in*pageSize:(in+1)*pageSize]) {
			t.Errorf("page %d is another", page)
		}
		if !p.server.memory.wanted(uint64(in)) {
			t.Errorf("page %d was wanted, and that is not recorded", page)
		}
	}
	// What was given back is empty afterwards.
	if err := unix.Madvise(p.bytes[5*pageSize:6*pageSize], unix.MADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(p.read(t, 5), make([]byte, pageSize)) {
		t.Error("a page that was given back is not empty")
	}
	// The next one gets what was wanted ahead: the pages come to be there untouched.
	q := start(t, path, touched)
	resident := make([]byte, testPages)
	for n := 0; n < 5; {
		if _, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&q.bytes[0])), uintptr(len(q.bytes)), uintptr(unsafe.Pointer(&resident[0]))); errno != 0 {
			t.Fatal(errno)
		}
		n = bytes.Count(resident, []byte{1})
		select {
		case err := <-q.ended:
			t.Fatal(err)
		default:
		}
	}
	for page := range testPages {
		in := (page + half) % testPages
		if !bytes.Equal(q.read(t, page), content[in*pageSize:(in+1)*pageSize]) {
			t.Fatalf("page %d is another", page)
		}
	}
	if most := uint64(testPages / recordShare); q.server.memory.countWanted() > most {
		t.Errorf("%d pages are recorded, more than %d", q.server.memory.countWanted(), most)
	}
}

func TestRegions(t *testing.T) {
	t.Parallel()
	const size = 1 << 20
	good := []region{{Base: 1 << 30, Size: size / 2, PageSize: pageSize}, {Base: 2 << 30, Size: size / 2, Offset: size / 2, PageKiB: 4}}
	if err := checkRegions(good, size); err != nil {
		t.Error(err)
	}
	for name, bad := range map[string][]region{
		"none":       {},
		"beyond":     {{Base: 1 << 30, Size: size, Offset: pageSize}},
		"wrapping":   {{Base: ^uint64(0) - 4095, Size: size}},
		"huge":       {{Base: 1 << 30, Size: 1 << 62, Offset: 1 << 62}},
		"half pages": {{Base: 1<<30 + 1, Size: pageSize}},
		"no pages":   {{Base: 1 << 30}},
		"huge pages": {{Base: 1 << 30, Size: size, PageSize: 2 << 20}},
		"one place":  {{Base: 1 << 30, Size: size / 2}, {Base: 1 << 30, Size: size / 2, Offset: size / 2}},
		"one source": {{Base: 1 << 30, Size: size / 2}, {Base: 2 << 30, Size: size / 2}},
		"many":       make([]region, maxRegions+1),
	} {
		if checkRegions(bad, size) == nil {
			t.Error(name)
		}
	}
}
