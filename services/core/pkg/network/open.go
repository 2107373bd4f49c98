package network

import (
	"bytes"
	"context"
	"os"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/network/internal/firewall"
	"github.com/aetherium/aetherium/services/core/pkg/network/internal/hostlease"
	"github.com/aetherium/aetherium/services/core/pkg/network/internal/link"
	"github.com/aetherium/aetherium/services/core/pkg/network/internal/nspair"
	"github.com/aetherium/aetherium/services/core/pkg/network/internal/statefile"
	"github.com/aetherium/aetherium/services/core/pkg/network/netd"
	"github.com/aetherium/aetherium/services/core/pkg/network/netd/egresslog"
)

// instanceFile is instance.json: a copy of the lease, so that an instance
// whose host directory was wiped can take it up again.
type instanceFile struct {
	Version int             `json:"version"`
	Lease   hostlease.Lease `json:"lease"`
}

// Open takes up the instance's network where the last process left it:
// claimed pairs are kept, ready ones adopted, half-made ones removed, and the
// bridge, the rules and netd repaired if machines need them. ctx bounds Open
// only. Returns InvalidArgument; Conflict while another process has the
// runtime directory; Unavailable when state cannot be read or written.
func Open(ctx context.Context, cfg Config) (*Manager, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m := &Manager{
		cfg: cfg, wake: make(chan struct{}, 1),
		pairs: map[string]*pair{}, machines: map[string]*pair{}, coming: map[string]chan struct{}{}, wanted: map[string]domain.Egress{},
	}
	m.netd, m.logs = netd.NewClient(m.path("netd.sock")), egresslog.NewFollower(cfg.EgressLogDir)
	if m.reg, err = hostlease.Open(cfg.HostDir); err != nil {
		return nil, err
	}
	if m.maker, err = nspair.NewMaker(); err != nil {
		return nil, err
	}
	if err := m.takeLock(ctx); err != nil {
		return nil, errors.Join(err, m.maker.Close())
	}
	m.ctx, m.cancel = context.WithCancel(context.WithoutCancel(ctx))
	if err := m.takeUp(); err != nil {
		m.cancel()
		return nil, errors.Join(err, m.maker.Close(), m.lock.Close())
	}
	m.tasks.Add(1)
	go m.tend()
	return m, nil
}

// lockWithin is how long a lock may outlive its process: a child that was
// forked and has not yet called exec when its parent is killed shares it.
const lockWithin = 2 * time.Second

func (m *Manager) takeLock(ctx context.Context) error {
	if err := os.MkdirAll(m.path("pairs"), 0o700); err != nil {
		return errors.Wrap(err, errors.Unavailable, "cannot make the runtime directory")
	}
	f, err := os.OpenFile(m.path("lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return errors.Wrap(err, errors.Unavailable, "cannot open the runtime directory's lock")
	}
	ctx, cancel := context.WithTimeout(ctx, lockWithin)
	defer cancel()
	for pause := time.Millisecond; ; pause *= 2 {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			m.lock = f
			return nil
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			_ = f.Close()
			return errors.Wrap(err, errors.Conflict, "another process manages this instance's network").
				WithHint("one server at a time can use a data directory")
		}
	}
}

// takeUp reads what is on disk and reconciles it with the kernel.
func (m *Manager) takeUp() error {
	boot, err := bootID()
	if err != nil {
		return err
	}
	var own unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &own); err != nil {
		return errors.Wrap(err, errors.Unavailable, "cannot look at the own network namespace")
	}
	var known instanceFile
	if err := statefile.Read(m.path("instance.json"), &known); err != nil && !errors.HasCode(err, errors.NotFound) {
		return err
	}
	records, err := m.loadRecords()
	if err != nil {
		return err
	}
	// What an earlier boot, or another life of a container that this runs in, made is gone.
	if known.Version != 0 && (known.Lease.BootID != boot || known.Lease.HostNet != own.Ino) {
		if err := m.forget(records); err != nil {
			return err
		}
		records, known = nil, instanceFile{}
	}
	if err := m.updateLease(func(v *hostlease.View) error { return m.takeLease(v, known, boot, own.Ino) }); err != nil {
		return err
	}
	m.ids = newSlots(len(m.blocks()) * rangesPerBlock)
	m.ids.mark(0) // the instance's own: netd's user
	return m.reconcile(records)
}

// forget removes the state of pairs whose kernel objects ended otherwise.
// Returns Conflict when a claimed pair lives: its links are then in the other
// network namespace, where only a process there can manage them.
func (m *Manager) forget(records []record) error {
	for _, r := range records {
		is, err := nspair.Identify(m.pairDir(r.ID))
		if r.State == stateClaimed && err == nil && is == r.Namespace {
			return errors.New(errors.Conflict, "the instance's machines are connected in another network namespace").
				WithHint("run the server in the network namespace where it was started first")
		}
	}
	for _, r := range records {
		if err := nspair.Remove(m.pairDir(r.ID)); err != nil {
			return errors.Wrap(err, errors.Unavailable, "cannot remove namespaces of an earlier run")
		}
		if err := m.eraseRecord(r.ID); err != nil {
			return err
		}
	}
	return nil
}

// takeLease registers the instance on the host, or takes its lease up again.
func (m *Manager) takeLease(v *hostlease.View, known instanceFile, boot string, hostNet uint64) error {
	for _, l := range append([]hostlease.Lease(nil), v.Others...) {
		if stale(l, boot, hostNet) {
			m.cfg.Log.Warn("the lease of an instance that is gone is dropped", "instance", l.Instance, "runtime_dir", l.RuntimeDir)
			if err := v.Drop(l.Instance); err != nil {
				return err
			}
		}
	}
	if l := v.Mine; l.Version != 0 && l.RuntimeDir != m.cfg.RuntimeDir && !stale(l, boot, hostNet) {
		return errors.New(errors.Conflict, "an instance named %s runs on this host with another runtime directory", l.Instance).
			WithHint("give this one another name")
	}
	if v.Mine.BootID != boot || v.Mine.HostNet != hostNet || v.Mine.RuntimeDir != m.cfg.RuntimeDir {
		v.Mine = known.Lease // zero, or what the wiped register said
		if v.Clash() {
			return errors.New(errors.Conflict, "another instance has leased what this one held before the host's register was removed").
				WithHint("end this instance's machines, remove %s and start again", m.cfg.RuntimeDir)
		}
	}
	if v.Mine.Instance == "" {
		v.Mine = hostlease.Lease{Instance: m.cfg.Instance, RuntimeDir: m.cfg.RuntimeDir, BootID: boot, HostNet: hostNet}
	}
	if v.Mine.Prefix == "" {
		survey, err := link.Look()
		if err != nil {
			return err
		}
		for salt := 0; v.Mine.Prefix == "" || survey.Taken(v.Mine.Prefix) || v.Clash(); salt++ {
			v.Mine.Prefix = interfacePrefix(m.cfg.Instance, salt)
		}
	}
	if len(v.Mine.Blocks) == 0 {
		return m.addBlock(v)
	}
	return v.Save()
}

// stale reports whether a lease holds nothing any more: it is of an earlier
// boot, or its instance's directory was removed and neither its bridge nor
// its IDs are in use. A lease in another network namespace is left alone.
func stale(l hostlease.Lease, boot string, hostNet uint64) bool {
	if l.BootID != boot {
		return true
	}
	if _, err := os.Stat(l.RuntimeDir); err == nil || !errors.Is(err, os.ErrNotExist) {
		return false
	}
	if l.HostNet == hostNet && link.Exists(bridgeName(l.Prefix)) {
		return false
	}
	inUse, err := nspair.Processes()
	if err != nil {
		return false
	}
	for _, b := range l.Blocks {
		if inUse.In(nspair.Range{Base: b, Count: hostlease.BlockSize}) {
			return false
		}
	}
	return true
}

// reconcile compares the records with the kernel.
func (m *Manager) reconcile(records []record) error {
	var broken []*pair
	needNAT := false
	for _, r := range records {
		if !m.markIDs(r.IDBase) {
			return errors.New(errors.Conflict, "pair %s has user IDs that the host leased to someone else", r.ID)
		}
		p := &pair{rec: r, egress: domain.Egress{Policy: r.Policy}}
		m.pairs[r.ID] = p
		if r.Machine != "" {
			m.machines[r.Machine] = p
		}
		if r.State == stateDraining {
			continue
		}
		is, err := nspair.Identify(m.pairDir(r.ID))
		whole := err == nil && is == r.Namespace && (r.Mode != domain.NetworkNAT || r.State == stateClaimed || link.Exists(r.Interface))
		if !r.usable() || !whole {
			broken = append(broken, p)
			continue
		}
		needNAT = needNAT || r.Mode == domain.NetworkNAT
	}
	for _, p := range broken {
		// A failure is kept in state removing: Open must not fail for it.
		if err := m.takeApart(p); err != nil {
			m.cfg.Log.Warn("a broken pair cannot be removed", "pair", p.rec.ID, "err", err)
		}
	}
	if needNAT {
		if _, err := m.ensureNAT(); err != nil {
			m.cfg.Log.Warn("the instance's network cannot be repaired", "err", err)
		}
	}
	return nil
}

// saveInstance keeps the copy of the lease; leaseMu is held.
func (m *Manager) saveInstance(l hostlease.Lease) error {
	return statefile.Write(m.path("instance.json"), instanceFile{Version: recordVersion, Lease: l})
}

// Teardown removes everything of this instance from the host, machines'
// networks included, and closes the manager. The machines' processes must
// have ended before: Conflict says that some have not, and a manager opened
// again finishes the work. Other instances are not touched. Repeating it, and
// going on with one that a crash interrupted, is safe.
func (m *Manager) Teardown(ctx context.Context) error {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return errClosed()
	}
	m.closed = true
	m.mu.Unlock()
	m.cancel()
	m.tasks.Wait()
	defer m.netd.Close()
	return errors.Join(m.tearDown(ctx), m.logs.Close(), m.maker.Close(), m.lock.Close())
}

func (m *Manager) tearDown(ctx context.Context) error {
	if err := m.takeAllApart(ctx); err != nil {
		return err
	}
	if err := m.stopNetd(); err != nil {
		return err
	}
	lease := m.currentLease()
	if lease.Subnet.IsValid() {
		if err := firewall.GiveWayBack(bridgeName(lease.Prefix)); err != nil {
			return err
		}
		if err := link.Remove(bridgeName(lease.Prefix)); err != nil {
			return err
		}
		if err := firewall.Uninstall(tableName(m.cfg.Instance)); err != nil {
			return err
		}
	}
	waiting, err := m.drain(ctx)
	if err != nil {
		return err
	}
	if waiting > 0 {
		return errors.New(errors.Conflict, "processes of %d machines still live: %s", waiting, m.holders()).
			WithHint("end them, then tear the instance down again")
	}
	err = m.reg.Update(m.cfg.Instance, func(v *hostlease.View) error {
		if err := v.RestoreSettings(m.othersForward); err != nil {
			return err
		}
		return v.Drop(m.cfg.Instance)
	})
	if err != nil {
		return err
	}
	for _, name := range []string{
		"netd.json", ".netd.json.new", "netd.log", "netd.lock", "netd.sock", "pairs", "instance.json", ".instance.json.new", "lock", "",
	} {
		// The last of it may be a mount point or hold what someone else put there.
		if err := os.Remove(m.path(name)); err != nil && !errors.Is(err, os.ErrNotExist) && name != "" {
			return errors.Wrap(err, errors.Unavailable, "cannot empty the runtime directory")
		}
	}
	return nil
}

// takeAllApart works on several pairs at a time: most of the work is waiting
// for the kernel's RCU grace periods.
func (m *Manager) takeAllApart(ctx context.Context) error {
	var work errgroup.Group
	work.SetLimit(32)
	for _, p := range m.pairs {
		work.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			return m.takeApart(p)
		})
	}
	return work.Wait()
}

// holders tells some of the processes that keep pairs from being freed.
func (m *Manager) holders() string {
	var ranges []nspair.Range
	for _, p := range m.inState(stateDraining) {
		ranges = append(ranges, p.rec.idRange())
	}
	users, err := nspair.Users(ranges, 10)
	if err != nil {
		return err.Error()
	}
	return strings.Join(users, ", ")
}

// drain frees what it can; processes that were just killed get a moment to go. At its
// end is a last look.
func (m *Manager) drain(ctx context.Context) (waiting int, err error) {
	const moment, most = 2 * time.Second, 100 * time.Millisecond
	ctx, cancel := context.WithTimeout(ctx, moment)
	defer cancel()
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, most) {
		over := ctx.Err() != nil
		if waiting, err = m.reap(); waiting == 0 || err != nil || over {
			return waiting, err
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// othersForward reports that forwarding stays on at teardown: another
// bridge, Docker's or libvirt's, has come to rely on it.
func (m *Manager) othersForward(string) bool {
	survey, err := link.Look()
	return err != nil || len(survey.Bridges) > 0
}

func bootID() (string, error) {
	raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", errors.Wrap(err, errors.Unsupported, "the kernel does not tell its boot ID")
	}
	return string(bytes.TrimSpace(raw)), nil
}
