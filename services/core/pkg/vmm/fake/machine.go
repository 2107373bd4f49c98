package fake

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/agent"
	"github.com/aetherium/aetherium/services/core/internal/pipes"
	"github.com/aetherium/aetherium/services/core/pkg/guest/mux"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// machine is a directory, and while it runs an agent.
type machine struct {
	spec    vmm.Spec
	dir     string
	made    time.Time
	stream  *stream
	deleted chan struct{} // closed by Delete

	files    sync.Mutex // held while the directory is made or removed
	starting sync.Mutex // held while it starts

	mu      sync.Mutex
	status  vmm.Status
	run     *run
	exit    vmm.Exit    // of the last run
	began   bool        // it has been started: its memory is its own
	phases  []vmm.Phase // of the last start
	slept   *memory     // what ran when it was paused in mode memory; nil: it is not
	savedBy string      // the driver's version then
	// arrived is what ran when it was packed on another node: it is paused in mode
	// memory, and has no run before it is resumed.
	arrived *memory
}

// run is a machine from one Start to its end.
type run struct {
	agent  *agent.Agent    // nil: something else answers
	mux    *mux.Mux        // nil: it is reached directly
	direct *pipes.Listener // nil: it is reached by its stream
	cancel context.CancelFunc
	served chan struct{}
	ended  chan struct{} // closed once exit is known
	once   sync.Once
}

// home is where a user's files are: the machine's disk.
func (m *machine) home() string { return filepath.Join(m.dir, "home") }

// prepare makes the directory, from a snapshot or empty.
func (m *machine) prepare(from string) error {
	m.files.Lock()
	defer m.files.Unlock()
	select {
	case <-m.deleted:
		return errors.New(errors.Canceled, "the machine was deleted")
	default:
	}
	if m.dir == "" {
		return nil
	}
	if err := os.MkdirAll(filepath.Join(m.dir, "etc"), 0o755); err != nil {
		return err
	}
	if from != "" {
		if err := os.CopyFS(m.home(), os.DirFS(from)); err != nil {
			return err
		}
	}
	passwd := ""
	for _, name := range []string{"user", "root"} {
		home := filepath.Join(m.home(), name)
		if err := os.MkdirAll(home, 0o755); err != nil {
			return err
		}
		passwd += fmt.Sprintf("%s:x:%d:%d::%s:/bin/bash\n", name, os.Geteuid(), os.Getegid(), home)
	}
	return os.WriteFile(filepath.Join(m.dir, "etc", "passwd"), []byte(passwd), 0o644)
}

// boot begins a run. handler, if set, answers in place of the agent. m.mu is held.
func (m *machine) boot(handler http.Handler) {
	r := &run{served: make(chan struct{}), ended: make(chan struct{})}
	l := m.listen(r)
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	serve := func() error { return serveHandler(ctx, l, handler) }
	if handler == nil {
		r.agent = agent.New(agent.Options{Etc: filepath.Join(m.dir, "etc")})
		serve = func() error { return r.agent.Serve(ctx, l) }
	}
	go func() { defer close(r.served); _ = serve() }()
	m.run, m.exit, m.slept, m.arrived = r, vmm.Exit{}, nil, nil
}

// listen makes what a run is reached by.
func (m *machine) listen(r *run) net.Listener {
	if m.dir == "" {
		r.direct = pipes.Listen()
		return r.direct
	}
	r.mux = mux.New(mux.Guest, func(context.Context) (io.ReadWriteCloser, error) { return m.stream.openGuest(), nil }, mux.Options{})
	return r.mux.Listener()
}

// runs notes that a run has begun: what was to go on in it does.
func (m *machine) runs(r *run, phases []vmm.Phase) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.run == r {
		if m.status == vmm.StatusCreated {
			m.phases = phases
		}
		m.began = true
		if m.status == vmm.StatusCreated {
			m.status = vmm.StatusRunning
		}
	}
}

func serveHandler(ctx context.Context, l net.Listener, h http.Handler) error {
	var p http.Protocols
	p.SetHTTP1(true)
	p.SetUnencryptedHTTP2(true)
	s := &http.Server{Handler: h, Protocols: &p, ReadHeaderTimeout: time.Minute}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	return s.Serve(l)
}

// end ends a run and waits until it has ended. It may be called by several.
func (m *machine) end(r *run, grace time.Duration, exit vmm.Exit) {
	r.once.Do(func() {
		m.signal(r, syscall.SIGCONT)
		m.stream.freeze(false)
		if r.agent != nil {
			r.agent.Shutdown(grace)
		}
		m.signal(r, syscall.SIGKILL) // what left its process group
		r.cancel()
		<-r.served
		if r.mux != nil {
			_ = r.mux.Close()
		}
		exit.At = time.Now().UTC()
		m.mu.Lock()
		m.run, m.status, m.exit, m.slept = nil, vmm.StatusCreated, exit, nil
		m.mu.Unlock()
		close(r.ended)
	})
	<-r.ended
}

// current gives the run, if there is one.
func (m *machine) current() (*run, vmm.Status) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.run, m.status
}

func (m *machine) state() vmm.State {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := vmm.State{MachineID: m.spec.MachineID, Status: m.status, Handle: handleOf(m.spec.MachineID), CreatedAt: m.made}
	if m.run != nil && m.slept == nil && m.status != vmm.StatusCreated {
		s.PID = os.Getpid()
	}
	return s
}

func handleOf(id string) vmm.Handle {
	b, err := json.Marshal(struct {
		Version int    `json:"version"`
		Machine string `json:"machine"`
	}{1, id})
	if err != nil {
		return nil // a string and a number always marshal
	}
	return b
}

// pause freezes the machine, or lets it go on.
func (m *machine) pause(paused bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.run == nil {
		return errors.New(errors.Conflict, "the machine does not run")
	}
	if m.run.direct != nil {
		return errors.New(errors.Unsupported, "a machine without files has no processes to stop")
	}
	if paused {
		m.stream.freeze(true)
		m.signal(m.run, syscall.SIGSTOP)
		m.status = vmm.StatusPaused
	} else {
		m.signal(m.run, syscall.SIGCONT)
		m.stream.freeze(false)
		m.status, m.slept = vmm.StatusRunning, nil
	}
	return nil
}

// asleep reports whether the machine is paused in mode memory.
func (m *machine) asleep() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.slept != nil || m.arrived != nil
}

// forked reports whether the machine's next start is one from memory.
func (m *machine) forked() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.spec.Memory && !m.began
}
