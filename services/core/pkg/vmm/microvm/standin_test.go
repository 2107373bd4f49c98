package microvm_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	guestv1 "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1"
	"github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1/guestv1connect"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/microvm"
)

// The stand-in for an engine: its monitors are processes of this test's own
// program, and a guest is a number that its memory and its disk both have. It
// grows each time the guest goes on, so that a disk which is not of the same
// moment as the memory is seen, and each boot has a name, so that it is seen
// whether a machine lives the life that it had.
type standIn struct {
	ledger  string // a file that monitors write down in what must not be forgotten
	version string
}

const (
	monitorEnv = "AETHERIUM_TEST_MONITOR" // the guest, as JSON
	agentSock  = "agent"
	controlSck = "control"
	// What a machine does by its name: its monitor ends before it is heard; its
	// agent knows nobody.
	nameDies, nameRefuses = "dies", "refuses"
)

// life is a guest's memory.
type life struct {
	Life  string `json:"life"`
	Count uint64 `json:"count"`
	Saved string `json:"saved,omitempty"` // names the saving
}

type standInGuest struct {
	ID, Dir, Disk, From, Ledger string
}

func (e *standIn) Name() string                            { return "standin" }
func (e *standIn) Version(context.Context) (string, error) { return e.version, nil }
func (e *standIn) Overhead(context.Context) (int64, error) { return 64 << 20, nil }
func (e *standIn) MaxDrives() int                          { return 6 }
func (e *standIn) Close() error                            { return nil }

func (e *standIn) Boot(ctx context.Context, g microvm.Guest) (int, error) {
	return e.start(ctx, g, "")
}

func (e *standIn) Restore(ctx context.Context, g microvm.Guest, from microvm.Memory) (int, error) {
	return e.start(ctx, g, filepath.Join(from.Dir, "memory"))
}

// start starts a monitor, which waits to be let go until it is in its control group.
func (e *standIn) start(ctx context.Context, g microvm.Guest, from string) (int, error) {
	told, err := json.Marshal(standInGuest{ID: g.ID, Dir: g.Dir, Disk: g.Drives[1].Path, From: from, Ledger: e.ledger})
	if err != nil {
		return 0, err
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), monitorEnv+"="+string(told))
	in, err := cmd.StdinPipe()
	if err != nil {
		return 0, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	pid := cmd.Process.Pid
	for _, dir := range g.Cgroup {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
			return 0, err
		}
	}
	if _, err := io.WriteString(in, "go\n"); err != nil {
		return 0, err
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stop()
	said, err := io.ReadAll(out)
	if err != nil || string(said) != "ready\n" {
		_ = cmd.Wait()
		return 0, errors.Join(err, fmt.Errorf("the monitor says %q", said))
	}
	return pid, nil // whoever follows it takes its remains
}

func (e *standIn) Freeze(ctx context.Context, g microvm.Guest) error {
	return e.tell(ctx, g, "freeze", nil)
}

func (e *standIn) Thaw(ctx context.Context, g microvm.Guest) error {
	return e.tell(ctx, g, "thaw", nil)
}

func (e *standIn) Save(ctx context.Context, g microvm.Guest, to microvm.Memory, last bool, disk func(context.Context) error) (time.Duration, error) {
	var was struct{ Runs bool }
	if err := e.tell(ctx, g, "save?to="+filepath.Join(to.Dir, "memory"), &was); err != nil {
		return 0, err
	}
	err := disk(ctx)
	if was.Runs && (!last || err != nil) {
		err = errors.Join(err, e.Thaw(context.WithoutCancel(ctx), g))
	}
	return time.Millisecond, err
}

func (e *standIn) Dial(ctx context.Context, g microvm.Guest) (net.Conn, error) {
	return dialIn(ctx, g.Dir, agentSock)
}

func (e *standIn) Shutdown(context.Context, microvm.Guest) error { return nil }
func (e *standIn) Clean(context.Context, microvm.Guest) error    { return nil }

func dialIn(ctx context.Context, dir, socket string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(dir, socket))
}

func (e *standIn) tell(ctx context.Context, g microvm.Guest, what string, answer any) error {
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dialIn(ctx, g.Dir, controlSck) },
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://monitor/"+what, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("the monitor says %q", text)
	}
	if err != nil || answer == nil {
		return err
	}
	return json.Unmarshal(text, answer)
}

// standInMonitor is a monitor with its guest, and the agent in there.
type standInMonitor struct {
	guestv1connect.UnimplementedMachineServiceHandler
	g    standInGuest
	disk *os.File

	mu    sync.Mutex
	still bool
	life  life
	told  atomic.Bool // it knows who it is in this life
}

// runMonitor is what a monitor's process does.
func runMonitor(told string) int {
	m := &standInMonitor{}
	if err := m.run(told); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

func (m *standInMonitor) run(told string) error {
	if err := json.Unmarshal([]byte(told), &m.g); err != nil {
		return err
	}
	// Before it is let go it ends with who started it.
	if line := make([]byte, 3); true {
		if _, err := io.ReadFull(os.Stdin, line); err != nil {
			return err
		}
	}
	var err error
	if m.disk, err = os.OpenFile(m.g.Disk, os.O_RDWR, 0); err != nil {
		return err
	}
	if m.g.From == "" {
		m.life = life{Life: rand.Text(), Count: m.onDisk()}
		m.note("born %s %s", m.g.ID, m.life.Life)
		m.goOn()
	} else {
		raw, err := os.ReadFile(m.g.From)
		if err != nil {
			return err
		}
		if err := json.Unmarshal(raw, &m.life); err != nil {
			return err
		}
		m.still = true
	}
	agent, err := net.Listen("unix", filepath.Join(m.g.Dir, agentSock))
	if err != nil {
		return err
	}
	control, err := net.Listen("unix", filepath.Join(m.g.Dir, controlSck))
	if err != nil {
		return err
	}
	fmt.Println("ready")
	os.Stdout.Close()
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	mux := http.NewServeMux()
	mux.Handle(guestv1connect.NewMachineServiceHandler(m))
	mux.HandleFunc("POST /life", func(w http.ResponseWriter, _ *http.Request) {
		m.mu.Lock()
		defer m.mu.Unlock()
		_ = json.NewEncoder(w).Encode(m.life)
	})
	go func() {
		_ = (&http.Server{Protocols: protocols, Handler: m.whileRunning(mux)}).Serve(agent)
	}()
	return http.Serve(control, m.control())
}

// whileRunning has a guest that stands still answer nobody.
func (m *standInMonitor) whileRunning(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.mu.Lock()
		still := m.still
		m.mu.Unlock()
		if still {
			<-r.Context().Done()
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (m *standInMonitor) control() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /freeze", func(http.ResponseWriter, *http.Request) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.still = true
	})
	mux.HandleFunc("POST /thaw", func(http.ResponseWriter, *http.Request) {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.still {
			m.goOn()
		}
	})
	mux.HandleFunc("POST /save", func(w http.ResponseWriter, r *http.Request) {
		m.mu.Lock()
		defer m.mu.Unlock()
		was := struct{ Runs bool }{!m.still}
		m.still = true
		saved := m.life
		saved.Saved = rand.Text()
		raw, err := json.Marshal(saved)
		if err == nil {
			err = os.WriteFile(r.FormValue("to"), raw, 0o600)
		}
		if err == nil {
			err = json.NewEncoder(w).Encode(was)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	return mux
}

func (m *standInMonitor) onDisk() uint64 {
	count := make([]byte, 8)
	_, _ = m.disk.ReadAt(count, 0)
	return binary.LittleEndian.Uint64(count)
}

// goOn lets the guest run.
func (m *standInMonitor) goOn() {
	if disk := m.onDisk(); disk != m.life.Count {
		m.note("torn %s: its disk is of moment %d, its memory of %d", m.g.ID, disk, m.life.Count)
	}
	if m.life.Saved != "" {
		m.note("used %s %s", m.life.Saved, m.g.From)
		m.life.Saved = ""
	}
	m.still = false
	// A disk that is full takes nothing: there the moment did not come.
	if _, err := m.disk.WriteAt(binary.LittleEndian.AppendUint64(nil, m.life.Count+1), 0); err == nil {
		m.life.Count++
	}
}

func (m *standInMonitor) note(format string, args ...any) {
	f, err := os.OpenFile(m.g.Ledger, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		os.Exit(1)
	}
	defer f.Close()
	_, _ = f.Write(bytes.TrimSpace(fmt.Appendf(nil, format, args...)))
	_, _ = f.WriteString("\n")
}

func (m *standInMonitor) Handshake(context.Context, *connect.Request[guestv1.HandshakeRequest]) (*connect.Response[guestv1.HandshakeResponse], error) {
	if strings.HasPrefix(m.g.ID, nameDies) {
		os.Exit(3)
	}
	if m.g.From != "" && !m.told.Load() {
		return nil, connect.NewError(connect.CodeFailedPrecondition, errors.Plain("it is asked before it is told who it is"))
	}
	return connect.NewResponse(&guestv1.HandshakeResponse{Protocol: 1}), nil
}

func (m *standInMonitor) Assume(_ context.Context, r *connect.Request[guestv1.AssumeRequest]) (*connect.Response[guestv1.AssumeResponse], error) {
	if _, err := os.Stat(m.g.Ledger + "." + nameRefuses); err == nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, errors.Plain("it will not"))
	}
	m.told.Store(true)
	m.note("told %s %s fork=%t", m.g.ID, r.Msg.GetHostname(), r.Msg.GetFork())
	return connect.NewResponse(&guestv1.AssumeResponse{}), nil
}

func (m *standInMonitor) Quiesce(context.Context, *connect.Request[guestv1.QuiesceRequest]) (*connect.Response[guestv1.QuiesceResponse], error) {
	return connect.NewResponse(&guestv1.QuiesceResponse{}), nil
}

func (m *standInMonitor) Thaw(context.Context, *connect.Request[guestv1.ThawRequest]) (*connect.Response[guestv1.ThawResponse], error) {
	return connect.NewResponse(&guestv1.ThawResponse{}), nil
}

func (m *standInMonitor) Shutdown(context.Context, *connect.Request[guestv1.ShutdownRequest]) (*connect.Response[guestv1.ShutdownResponse], error) {
	m.note("asked %s", m.g.ID)
	os.Exit(0)
	return nil, nil
}
