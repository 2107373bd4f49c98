// Command guest is what the engine's tests boot as a guest's first process: it
// holds pages of memory that its host can have written and summed up, and reads
// and writes its disks, over the channel that the kernel's command line names.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aetherium/aetherium/services/core/pkg/guest/bootline"
	"github.com/aetherium/aetherium/services/core/pkg/guest/mux"
	"golang.org/x/sys/unix"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
	}
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func run() error {
	for _, m := range []struct{ kind, at string }{{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}} {
		if err := os.MkdirAll(m.at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.at, m.kind, 0, ""); err != nil && err != unix.EBUSY {
			return err
		}
	}
	if err := loadModules(); err != nil {
		return err
	}
	raw, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	line, err := bootline.Parse(string(raw))
	if err != nil {
		return err
	}
	s := &server{line: line, pages: make([]byte, 4096), going: make(chan struct{})}
	go s.tick()
	serving := &http.Server{Handler: s.routes(), ReadHeaderTimeout: time.Minute}
	if line.Channel == bootline.ChannelVsock {
		return serveVsock(serving) // it is printed
	}
	m := mux.New(mux.Guest, func(ctx context.Context) (io.ReadWriteCloser, error) { return openPort(line.Channel) }, mux.Options{})
	return serving.Serve(m.Listener()) // it is printed
}

// loadModules loads what is in /modules, in the order of its list.
func loadModules() error {
	list, err := os.ReadFile("/modules/list")
	if err != nil {
		return err
	}
	for name := range strings.FieldsSeq(string(list)) {
		f, err := os.Open(filepath.Join("/modules", name))
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		_ = f.Close()
		if err != nil && err != unix.EEXIST {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func openPort(name string) (io.ReadWriteCloser, error) {
	ports, err := filepath.Glob("/sys/class/virtio-ports/*/name")
	if err != nil {
		return nil, err
	}
	for _, p := range ports {
		if got, err := os.ReadFile(p); err == nil && strings.TrimSpace(string(got)) == name {
			return os.OpenFile("/dev/"+filepath.Base(filepath.Dir(p)), os.O_RDWR|unix.O_NONBLOCK, 0)
		}
	}
	return nil, fmt.Errorf("no port %q", name)
}

type server struct {
	line  bootline.Line
	ticks atomic.Int64
	going chan struct{} // closed: who lingers goes

	mu     sync.Mutex
	pages  []byte
	rounds []uint64
}

func (s *server) tick() {
	for range time.Tick(20 * time.Millisecond) {
		s.ticks.Add(1)
	}
}

func (s *server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /hello", func(w http.ResponseWriter, _ *http.Request) {
		up, _ := os.ReadFile("/proc/uptime")
		fmt.Fprintf(w, "%s", up)
	})
	mux.HandleFunc("GET /ticks", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, s.ticks.Load()) })
	mux.HandleFunc("POST /fill", s.fill)
	mux.HandleFunc("GET /sum", s.sum)
	mux.HandleFunc("POST /churn", s.churn)
	mux.HandleFunc("GET /churn", s.churned)
	mux.HandleFunc("GET /drives", s.drives)
	mux.HandleFunc("POST /disk", s.writeDisk)
	mux.HandleFunc("GET /file", func(w http.ResponseWriter, r *http.Request) {
		raw, err := os.ReadFile(r.URL.Query().Get("path"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		_, _ = w.Write(raw)
	})
	mux.HandleFunc("POST /link", setLink)
	mux.HandleFunc("GET /peer", askPeer)
	mux.HandleFunc("GET /linger", s.linger)
	mux.HandleFunc("POST /go", func(http.ResponseWriter, *http.Request) { close(s.going) })
	mux.HandleFunc("POST /reset", func(http.ResponseWriter, *http.Request) { _ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART) })
	mux.HandleFunc("POST /off", func(http.ResponseWriter, *http.Request) { _ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF) })
	return mux
}

// linger answers, and keeps the connection, whose host may have gone, until it is told to go.
func (s *server) linger(w http.ResponseWriter, _ *http.Request) {
	w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(w).Flush() // the answer is read
	<-s.going
}

// fill writes as many bytes of memory as asked for, from a seed. Where it had more
// before, the kernel has that back.
func (s *server) fill(w http.ResponseWriter, r *http.Request) {
	n, _ := strconv.Atoi(r.URL.Query().Get("bytes"))
	seed, _ := strconv.ParseUint(r.URL.Query().Get("seed"), 10, 64)
	s.mu.Lock()
	defer s.mu.Unlock()
	if before := len(s.pages); before != n {
		s.pages = make([]byte, n)
		if before > n {
			debug.FreeOSMemory()
		}
	}
	source := rand.New(rand.NewPCG(seed, seed)) // a pattern
	for at := 0; at+8 <= n; at += 8 {
		binary.LittleEndian.PutUint64(s.pages[at:], source.Uint64())
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *server) sum(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sum := sha256.Sum256(s.pages)
	fmt.Fprint(w, hex.EncodeToString(sum[:]))
}

// churn begins to write memory for ever: the number of the round to each page in turn.
func (s *server) churn(w http.ResponseWriter, r *http.Request) {
	n, _ := strconv.Atoi(r.URL.Query().Get("pages"))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rounds = make([]uint64, n*pageWords)
	go func() {
		for round := uint64(1); ; round++ {
			for page := range n {
				// The lock is what lets churned look between two pages.
				s.mu.Lock()
				s.rounds[page*pageWords] = round
				s.mu.Unlock()
			}
		}
	}()
}

const pageWords = 4096 / 8

// churned says how far churn is, or which page is not of its round: the first
// ones are of the one under way, the others of that before.
func (s *server) churned(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	round := s.rounds[0]
	for page := range len(s.rounds) / pageWords {
		switch got := s.rounds[page*pageWords]; {
		case got == round:
		case got == s.rounds[0]-1:
			round = got
		default:
			http.Error(w, fmt.Sprintf("page %d is of round %d in round %d", page, got, s.rounds[0]), http.StatusInternalServerError)
			return
		}
	}
	fmt.Fprint(w, s.rounds[0])
}

// drives says, for each drive of the command line, how it begins and whether it can be written.
func (s *server) drives(w http.ResponseWriter, _ *http.Request) {
	for _, d := range s.line.Drives {
		head := make([]byte, 16)
		f, err := os.Open("/dev/" + d.Device)
		if err == nil {
			_, err = f.Read(head)
			_ = f.Close()
		}
		ro, _ := os.ReadFile("/sys/block/" + d.Device + "/ro")
		fmt.Fprintf(w, "%s %s ro=%s %v\n", d.Role, strings.TrimRight(string(head), "\x00\n"), strings.TrimSpace(string(ro)), err)
	}
}

// writeDisk writes text at the beginning of the machine's own disk, through to it
// where sync is asked for.
func (s *server) writeDisk(w http.ResponseWriter, r *http.Request) {
	for _, d := range s.line.Drives {
		if d.Role != bootline.RoleDisk {
			continue
		}
		f, err := os.OpenFile("/dev/"+d.Device, os.O_RDWR, 0)
		if err == nil {
			block := make([]byte, 4096)
			copy(block, r.URL.Query().Get("text"))
			_, err = f.Write(block)
		}
		if err == nil {
			err = f.Sync()
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
		_ = f.Close()
	}
}
