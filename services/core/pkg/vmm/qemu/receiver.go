package qemu

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net"
	"os"
	"path/filepath"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/fault"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/microvm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/qemu/internal/qmp"
	"golang.org/x/sys/unix"
)

// receiver is a monitor that is sent a guest and never lets it run. Its memory is
// a file, so that the guest's is there when all has come. It ends with this
// process, and is in this process's control group: what it takes is the saving's,
// not the guest's.
type receiver struct {
	process *monitor
	qmp     *qmp.Client
	memory  *passage // nil: it is in its place already
}

// newReceiver starts one, with a machine like the guest's: its drives are empty
// ones of the same size, its network device leads nowhere.
func (e *Engine) newReceiver(ctx context.Context, h *host, g microvm.Guest, drives []drive, to microvm.Memory) (r *receiver, err error) {
	ram, err := os.OpenFile(filepath.Join(to.Dir, ramFile), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644) // other users' monitors read it
	if err != nil {
		return nil, fault.Of(err, "cannot write a machine's memory")
	}
	defer ram.Close()
	if err := reserve(ram, g.Memory); err != nil {
		return nil, fault.Of(err, "cannot write a machine's memory")
	}
	memory, err := e.passages.open(g.Memory)
	if err != nil {
		return nil, fault.Of(err, "cannot hold a machine's memory")
	}
	defer func() {
		if err != nil && memory != nil {
			memory.Close()
		}
	}()
	held := ram
	if memory != nil {
		held = memory.File
	}
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, fault.Of(err, "cannot speak with a monitor")
	}
	defer ours.Close()
	defer theirs.Close()

	// A guest that stands still while it is sent waits for no page to be made.
	m := machine{host: h, cpus: g.CPUs, memory: g.Memory, file: memoryFile{present: true, shared: true, ready: !h.countsWrites()}, control: first, alone: true}
	for _, d := range drives {
		m.drives = append(m.drives, drive{readOnly: d.readOnly, size: d.size})
	}
	l := &launch{
		dir: to.Dir, uid: g.UID, files: []*os.File{theirs}, limit: g.Memory, tied: true,
		shown:  []shown{{name: memoryName, path: ram.Name()}},
		opened: map[string]*os.File{memoryName: held},
	}
	if g.Link != nil {
		m.net = &netDevice{tap: first + 1, mac: g.Link.MAC.String(), mtu: g.Link.MTU}
		l.tap = new(string)
	}
	l.args = m.args()
	p, err := l.start(h)
	if err != nil {
		return nil, err
	}
	theirs.Close()
	c, err := speak(ctx, ours)
	if err != nil {
		return nil, p.failed(err)
	}
	p.stop()
	return &receiver{process: p, qmp: c, memory: memory}, nil
}

// speak begins to speak with the monitor at the other end of a socket.
func speak(ctx context.Context, socket *os.File) (*qmp.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	conn, err := net.FileConn(socket)
	if err != nil {
		return nil, fault.Of(err, "cannot speak with a monitor")
	}
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, errors.New(errors.Internal, "cannot speak with a monitor")
	}
	return qmp.Open(ctx, unixConn)
}

// take has it take the guest that comes in on a socket.
func (r *receiver) take(ctx context.Context, from *os.File) error {
	if err := capabilities(ctx, r.qmp, false); err != nil {
		return err
	}
	return receive(ctx, r.qmp, from)
}

// took waits until it has all of it.
func (r *receiver) took(ctx context.Context) error { return moved(ctx, r.qmp) }

// keep writes down what it has of the guest, of which its memory is there already.
func (r *receiver) keep(ctx context.Context, f form, to microvm.Memory) error {
	state, err := r.devices(ctx)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(to.Dir, stateFile), state, 0o600); err != nil {
		return fault.Of(err, "cannot write a machine's memory")
	}
	place := filepath.Join(to.Dir, ramFile)
	if r.memory != nil {
		err = fill(place, r.memory.File)
	} else {
		err = punch(place)
	}
	if err != nil {
		return fault.Of(err, "cannot write a machine's memory")
	}
	sum := sha256.Sum256(state)
	f.StateSum = hex.EncodeToString(sum[:])
	return f.keep(to)
}

// devices gives what the guest is beside its memory.
func (r *receiver) devices(ctx context.Context) ([]byte, error) {
	if err := capabilities(ctx, r.qmp, true); err != nil {
		return nil, err
	}
	w, all, err := catch(maxState)
	if err != nil {
		return nil, fault.Of(err, "cannot write a machine's memory")
	}
	err = send(ctx, r.qmp, w)
	w.Close()
	if err == nil {
		err = moved(ctx, r.qmp)
	}
	r.kill() // with it ends all that it holds
	raw, rerr := all()
	return raw, errors.Join(err, rerr)
}

func (r *receiver) kill() { _ = unix.Kill(r.process.pid, unix.SIGKILL) }

// end ends it and waits for that.
func (r *receiver) end() {
	r.qmp.Close()
	r.process.kill()
	if r.memory != nil {
		r.memory.Close()
	}
}

func socketPair() (a, b *os.File, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	return os.NewFile(uintptr(pair[0]), "socket"), os.NewFile(uintptr(pair[1]), "socket"), nil
}
