package worker

import (
	"context"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// Snapshot implements service.Node. A running guest flushes its file systems
// first; one that does not answer is snapshotted as after a power cut. It is carried
// through, and written down, also when whoever asked for it goes away or dies.
func (w *Worker) Snapshot(ctx context.Context, vm *domain.VM, id domain.ID, kind domain.SnapshotKind) (vmm.SnapshotInfo, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), service.MaxSnapshot)
	defer cancel()
	defer w.making.begin(id)()
	info, failed := w.snapshot(ctx, vm, id, kind)
	row := &domain.Snapshot{ID: id, ProjectID: vm.ProjectID}
	if _, err := service.EndSnapshot(ctx, w.Store, w.time(), row, info, failed); failed == nil && err != nil {
		w.Log.Warn("a snapshot was made, and that is not written down", "snapshot", id, "vm", vm.ID, "error", err)
	}
	return info, failed
}

func (w *Worker) snapshot(ctx context.Context, vm *domain.VM, id domain.ID, kind domain.SnapshotKind) (vmm.SnapshotInfo, error) {
	d, err := w.driver(vm.Spec.Driver)
	if err != nil {
		return vmm.SnapshotInfo{}, err
	}
	sn, ok := d.(vmm.Snapshotter)
	if !ok {
		return vmm.SnapshotInfo{}, errors.New(errors.Unsupported, "the driver %s makes no snapshots", vm.Spec.Driver)
	}
	if kind == domain.SnapshotMemory {
		w.lookAgain(ctx, vm.Spec.Driver)
	}
	done, err := w.turns.take(ctx, vm.MachineID)
	if err != nil {
		return vmm.SnapshotInfo{}, err
	}
	defer done()
	if l, err := w.vms.reach(ctx, vm.ID); err == nil && !l.suspended.Load() {
		defer w.use(l)()
		if w.quiesce(ctx, vm) {
			defer func() {
				if err := l.client.Thaw(context.WithoutCancel(ctx)); err != nil {
					w.Log.Warn("guest not thawed after a snapshot", "vm", vm.ID, "error", err)
				}
			}()
		}
	}
	return sn.Snapshot(ctx, string(vm.MachineID), string(id), kind)
}

// making is the snapshots that are being made here.
type making struct {
	mu  sync.Mutex
	ids map[domain.ID]bool
}

// begin has a snapshot be one until end is called.
func (m *making) begin(id domain.ID) (end func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ids == nil {
		m.ids = make(map[domain.ID]bool)
	}
	m.ids[id] = true
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.ids, id)
	}
}

func (m *making) has(id domain.ID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ids[id]
}

// unmadeAge is when a snapshot that is not made, or has no VM made from it, is
// waited for by nobody any more.
const unmadeAge = service.MaxSnapshot + 5*time.Minute

// sweepUnmade removes rows of snapshots whose gateway was gone before it could
// write down what became of them. Their data goes as that of others that are gone.
func (w *Worker) sweepUnmade(ctx context.Context) error {
	var left []*domain.Snapshot
	err := each(ctx, w.Store, func(tx storage.Tx, p storage.Page) (storage.List[*domain.Snapshot], error) {
		return tx.Snapshots().List(ctx, storage.SnapshotFilter{
			IncludeEphemeral: true, WorkerID: w.id, States: []domain.BuildState{domain.BuildWaiting}, Page: p,
		})
	}, func(s *domain.Snapshot) {
		if !s.DiskOfVM && w.Now().Sub(s.CreatedAt) >= unmadeAge && !w.making.has(s.ID) { // a move looks after its own
			left = append(left, s)
		}
	})
	for _, s := range left {
		err = errors.Join(err, w.Store.Update(ctx, func(tx storage.Tx) error {
			row, err := tx.Snapshots().Get(ctx, s.ProjectID, s.ID)
			if errors.HasCode(err, errors.NotFound) || err == nil && row.State != domain.BuildWaiting {
				return nil
			}
			if err != nil {
				return err
			}
			w.Log.Info("a snapshot was never made", "snapshot", s.ID, "vm", s.VMID)
			return tx.Snapshots().Delete(ctx, s.ProjectID, s.ID)
		}))
	}
	return err
}

// Files implements service.Node.
func (w *Worker) Files(ctx context.Context, vm *domain.VM) (service.GuestFiles, error) {
	l, err := w.vms.reach(ctx, vm.ID)
	if err != nil {
		return nil, err
	}
	l.lastUsed.Store(w.Now().UnixNano())
	return usedFiles{w, l, l.client}, nil
}

// Dial implements service.Node.
func (w *Worker) Dial(ctx context.Context, vm *domain.VM, port uint16) (net.Conn, error) {
	l, err := w.vms.reach(ctx, vm.ID)
	if err != nil {
		return nil, err
	}
	d, err := w.driver(vm.Spec.Driver)
	if err != nil {
		return nil, err
	}
	conn, err := d.Dial(ctx, string(l.machine), uint32(port))
	if err != nil {
		return nil, err
	}
	return &usedConn{Conn: conn, release: w.use(l)}, nil
}

// usedConn counts as use of its VM until it is closed.
type usedConn struct {
	net.Conn
	release func()
}

// Close implements net.Conn.
func (c *usedConn) Close() error {
	c.release()
	return c.Conn.Close()
}

// SyscallConn implements syscall.Conn, where the connection is one of this host's.
func (c *usedConn) SyscallConn() (syscall.RawConn, error) {
	if s, ok := c.Conn.(syscall.Conn); ok {
		return s.SyscallConn()
	}
	return nil, errors.New(errors.Conflict, "the connection is not a socket")
}

// CloseWrite lets the other side see the end of what was sent.
func (c *usedConn) CloseWrite() error {
	if h, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return nil
}
