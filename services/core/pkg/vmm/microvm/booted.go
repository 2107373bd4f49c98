package microvm

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/guest"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/fault"
)

// Booted bounds the memories of booted machines that a driver keeps for those of
// the same template and shape. The zero value: none is made, and machines boot.
type Booted struct {
	Max   int   // how many
	Bytes int64 // what they and their disks take, all together
}

const (
	// bootedForm is the form of what is kept; another one is not used.
	bootedForm = 1
	// wantedTwice: a shape that is used once costs nothing.
	wantedTwice = 2
	// maxWanted bounds the shapes that are remembered.
	maxWanted = 1024
	// rest is how long nothing is kept of a shape after that failed.
	rest = time.Hour
	// restorePatience bounds how long a kept memory may take to answer before its
	// machine is booted: far more than it takes on a busy host.
	restorePatience = 30 * time.Second
	// makerPrefix begins the IDs of machines that are booted to be kept.
	makerPrefix = "booting-"
	// makerCPU is what they may take, in thousandths of a core: others go first.
	makerCPU = 500
)

// ofNobody reports whether a machine is booted to be kept.
func ofNobody(id string) bool { return strings.HasPrefix(id, makerPrefix) }

// booted keeps memories of machines that have booted and were told nothing yet.
// One is made by a machine that is nobody's, at leisure, when a shape was booted
// for the second time; machines of the shape that are made later go on from it.
type booted struct {
	d    *Driver
	ctx  context.Context // ends with stop
	end  context.CancelFunc
	busy sync.WaitGroup

	mu     sync.Mutex
	closed bool
	maker  string // ID of the machine that is being booted to be kept
	wanted map[string]int
	rested map[string]time.Time // when it failed
	counts vmm.BootedCounts
}

func newBooted(d *Driver) *booted {
	b := &booted{d: d, wanted: map[string]int{}, rested: map[string]time.Time{}}
	b.ctx, b.end = context.WithCancel(context.Background())
	return b
}

func (b *booted) on() bool { return b.d.cfg.Booted.Max > 0 && b.d.cfg.Booted.Bytes > 0 }

// stop ends the making, and removes what was made for it. Twice is fine.
func (b *booted) stop() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.end()
	b.busy.Wait()
}

// makes reports whether a machine is being booted to be kept by this process.
func (b *booted) makes(id string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return id != "" && b.maker == id
}

// recover removes what an earlier process was killed in the middle of making, and
// all that was kept if nothing is to be. What is whole is used again.
func (b *booted) recover(ctx context.Context) error {
	ids, err := b.d.left(ctx)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if ofNobody(id) {
			if err := b.d.Delete(ctx, id); err != nil {
				b.d.log.Error("a machine that was booted to be kept was not removed", "machine", id, "error", err)
			}
		}
	}
	keys, err := b.keys(ctx)
	if err != nil {
		return err
	}
	for _, key := range keys {
		if _, used, err := b.look(key); err != nil || !b.on() || time.Since(used) > keepImages {
			if err := b.drop(ctx, key); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *booted) keys(ctx context.Context) ([]string, error) {
	return b.d.listStored(ctx, bootedVolume, bootedMemory)
}

// look reads what is kept under a key, and when it was last used.
func (b *booted) look(key string) (*kept, time.Time, error) {
	at := b.d.cfg.booted(key)
	k, err := b.d.keptMemory(at)
	if err != nil {
		return nil, time.Time{}, err
	}
	info, err := os.Stat(filepath.Join(b.d.cfg.Volumes.Path(at.memory), keptFile))
	if err != nil {
		return nil, time.Time{}, fault.Of(err, "a kept memory cannot be read")
	}
	return k, info.ModTime(), nil
}

func (b *booted) drop(ctx context.Context, key string) error {
	return b.d.dropStored(ctx, b.d.cfg.booted(key))
}

// yield does something, and does it again where the disk had no room for it and what
// is kept to be faster can make some.
func (b *booted) yield(ctx context.Context, do func() error) error {
	err := do()
	if !errors.HasCode(err, errors.NoSpace) || ctx.Err() != nil || !b.empty(ctx) {
		return err
	}
	if freed := b.d.cfg.Volumes.Reclaim(ctx); freed != nil {
		return errors.Join(err, freed)
	}
	return do()
}

// empty removes all that is kept, to make room. It reports whether there was any.
func (b *booted) empty(ctx context.Context) bool {
	keys, err := b.keys(ctx)
	for _, key := range keys {
		err = errors.Join(err, b.drop(ctx, key))
	}
	if err != nil {
		b.d.log.Warn("memories of booted machines were not removed", "error", err)
	}
	return len(keys) > 0
}

// key names all that the memory of a machine depends on that has booted and was
// not told who it is; what it is told then is not in it.
func (b *booted) key(ctx context.Context, s vmm.Spec, drives []Drive, k Kernel) (string, error) {
	version, err := b.d.engine.Version(ctx)
	if err != nil {
		return "", err
	}
	type image struct {
		Drive
		Inode uint64
		Size  int64
	}
	of := struct {
		Form      int
		Version   string
		Kernel    Kernel
		BuildID   string
		Images    []image
		CPUs, MiB int64
		Disk      int64
		Network   domain.NetworkMode
	}{
		Form: bootedForm, Version: version, Kernel: k, BuildID: s.BuildID, CPUs: (s.Resources.MilliCPU + 999) / 1000,
		MiB: s.Resources.MemoryBytes / mib, Disk: diskSize(s.Resources.DiskBytes), Network: s.Network,
	}
	for _, drive := range drives {
		i := image{Drive: drive}
		if drive.Path != "" {
			// An image that was made again is another one.
			info, err := os.Stat(drive.Path)
			if err != nil {
				return "", fault.Of(err, "the template's image is not there")
			}
			i.Size = info.Size()
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				i.Inode = st.Ino
			}
		}
		of.Images = append(of.Images, i)
	}
	raw, err := json.Marshal(of)
	if err != nil {
		return "", errors.Wrap(err, errors.Internal, "a machine's shape cannot be named")
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:10]), nil
}

// choose decides whether a machine that is being made goes on from a kept memory,
// whose drives it has then. It holds for its first start.
func (b *booted) choose(ctx context.Context, m *machine) error {
	key := b.find(ctx, m)
	if key == m.Booted {
		return nil
	}
	// A call before may have made its disk of something else.
	if err := b.d.cfg.Volumes.Delete(ctx, b.d.cfg.paths(m.MachineID).volume); err != nil {
		return err
	}
	m.Booted = key
	return b.d.saveFacts(m)
}

// find gives the key of a kept memory that a machine can go on from; empty: none.
func (b *booted) find(ctx context.Context, m *machine) string {
	if !b.on() || m.Spec.DiskFrom != "" || ofNobody(m.MachineID) {
		return ""
	}
	k, err := b.d.cfg.Kernel(ctx)
	if err != nil {
		return "" // its start says so
	}
	key, err := b.key(ctx, m.Spec, m.Drives, k)
	if err != nil {
		return ""
	}
	at := b.d.cfg.booted(key)
	kept, err := b.d.keptMemory(at)
	if err == nil {
		err = kept.fits(m.Spec)
	}
	if err != nil {
		return ""
	}
	now := time.Now()
	if err := os.Chtimes(filepath.Join(b.d.cfg.Volumes.Path(at.memory), keptFile), now, now); err != nil { // its last use
		return ""
	}
	m.Kernel, m.Drives = kept.Kernel, kept.Drives
	return key
}

// goOn starts a machine from a kept memory. Where that fails the memory is removed,
// and the machine boots.
func (b *booted) goOn(ctx context.Context, m *machine, t *trace) error {
	err := b.d.run(ctx, m, restorePatience, t)
	if err == nil || ctx.Err() != nil {
		return err
	}
	b.d.log.WarnContext(ctx, "a machine boots, for the memory that is kept for its shape was of no use", "machine", m.MachineID, "error", err)
	b.count(func(c *vmm.BootedCounts) { c.Failed++ })
	b.fail(m.Booted)
	volume := b.d.cfg.paths(m.MachineID).volume
	// What is left of the attempt, where it could not be undone.
	if err := errors.Join(b.d.clear(ctx, m.MachineID), b.drop(ctx, m.Booted), b.d.cfg.Volumes.Delete(ctx, volume)); err != nil {
		return err
	}
	if err := b.d.fromBlank(ctx, m.Spec, volume); err != nil {
		return err
	}
	m.Booted, m.Begun = "", false
	if err := b.d.saveFacts(m); err != nil {
		return err
	}
	t.phase("restore-failed")
	return b.d.run(ctx, m, bootPatience, t)
}

func (b *booted) count(how func(*vmm.BootedCounts)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	how(&b.counts)
}

// fail has a shape rest.
func (b *booted) fail(key string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.rested) >= maxWanted {
		clear(b.rested)
	}
	b.rested[key] = time.Now()
}

// started hears of a machine that was started for the first time. Where it is the
// second one of its shape that booted, the next is to be kept.
func (b *booted) started(m *machine) {
	if !b.on() || m.Spec.DiskFrom != "" || ofNobody(m.MachineID) {
		return
	}
	if m.Booted != "" {
		b.count(func(c *vmm.BootedCounts) { c.Used++ })
		return
	}
	b.count(func(c *vmm.BootedCounts) { c.Missed++ })
	key, err := b.key(b.ctx, m.Spec, m.Drives, m.Kernel)
	if err != nil || hasHooks(m.Spec.RootFS) {
		return
	}
	if _, err := b.d.keptMemory(b.d.cfg.booted(key)); err == nil {
		return // it was made meanwhile
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.wanted) >= maxWanted {
		clear(b.wanted)
	}
	b.wanted[key]++
	if b.closed || b.maker != "" || b.wanted[key] < wantedTwice || time.Since(b.rested[key]) < rest {
		return
	}
	spec := m.Spec
	spec.MachineID, spec.Hostname = makerPrefix+key, "vm"
	b.maker = spec.MachineID
	b.busy.Go(func() { b.keep(spec, key) })
}

// hasHooks reports whether a template has programs of its own that run before a
// snapshot or after (see docs/SNAPSHOTS.md): a VM that was only created runs none,
// so its kind is not kept. What cannot be read may have some.
func hasHooks(rootFS string) bool {
	root, err := os.OpenRoot(rootFS)
	if err != nil {
		return true
	}
	defer root.Close()
	for _, dir := range []string{"etc/aetherium/quiesce.d", "etc/aetherium/resume.d"} {
		if entries, err := fs.ReadDir(root.FS(), dir); len(entries) > 0 || err != nil && !os.IsNotExist(err) {
			return true
		}
	}
	return false
}

// keep makes one memory, and removes those that are too many then.
func (b *booted) keep(spec vmm.Spec, key string) {
	err := b.make(b.ctx, spec, key)
	if err == nil {
		err = b.bound(b.ctx, key)
	}
	b.mu.Lock()
	b.maker = ""
	if err == nil {
		b.counts.Made++
	}
	delete(b.wanted, key)
	b.mu.Unlock()
	switch {
	case err == nil:
		b.d.log.Info("the memory of a booted machine is kept", "build", spec.BuildID, "memory", key)
	case b.ctx.Err() != nil: // the driver is closed
	default:
		b.fail(key)
		b.count(func(c *vmm.BootedCounts) { c.Failed++ })
		if errors.HasCode(err, errors.NoSpace) {
			b.empty(b.ctx)
		}
		b.d.log.Warn("the memory of a booted machine is not kept", "build", spec.BuildID, "error", err)
	}
}

// make boots a machine that is nobody's and keeps its memory.
func (b *booted) make(ctx context.Context, spec vmm.Spec, key string) (err error) {
	d := b.d
	if err := d.roomFor(ctx, spec); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Delete(context.WithoutCancel(ctx), spec.MachineID)) }()
	if _, err := d.Create(ctx, spec); err != nil {
		return err
	}
	ctx, done, err := d.turns.Begin(ctx, spec.MachineID, false)
	if err != nil {
		return err
	}
	defer done()
	m, err := d.load(spec.MachineID)
	if err != nil {
		return err
	}
	bounded, cancel := context.WithTimeout(ctx, bootPatience)
	defer cancel()
	if _, err := d.launch(bounded, m, phaseStarting, "", beginTrace()); err != nil {
		return err
	}
	if now, err := b.key(bounded, m.Spec, m.Drives, m.Kernel); err != nil || now != key {
		return errors.Join(errors.New(errors.Conflict, "the kernel or the template's image was changed meanwhile"), err)
	}
	if err := d.heard(bounded, m, func(ctx context.Context, client *guest.Client, _ guest.Agent) error {
		return client.Quiesce(ctx) // once, and not in each machine that goes on from here
	}); err != nil {
		return err
	}
	_, err = d.keepMemory(ctx, m, d.cfg.booted(key))
	return err
}

// bound removes kept memories that cannot be used any more, and those used least
// recently while there are too many or they are too large. key is the newest. One
// that is too large by itself is removed alone. Returns TooLarge then.
func (b *booted) bound(ctx context.Context, key string) error {
	newest, err := b.d.keptMemory(b.d.cfg.booted(key))
	if err != nil {
		return err
	}
	switch n, err := b.d.storedBytes(ctx, b.d.cfg.booted(key)); {
	case err != nil:
		return err
	case n > b.d.cfg.Booted.Bytes:
		return errors.Join(errors.New(errors.TooLarge, "the memory takes %d MiB, more than may be kept", n/mib), b.drop(ctx, key))
	}
	keys, err := b.keys(ctx)
	if err != nil {
		return err
	}
	type one struct {
		key   string
		bytes int64
		used  time.Time
	}
	var all []one
	var total int64
	for _, k := range keys {
		kept, used, err := b.look(k)
		if err != nil || kept.EngineVersion != newest.EngineVersion || kept.Kernel != newest.Kernel || time.Since(used) > keepImages {
			if err := b.drop(ctx, k); err != nil {
				return err
			}
			continue
		}
		n, err := b.d.storedBytes(ctx, b.d.cfg.booted(k))
		if err != nil {
			return err
		}
		total += n
		all = append(all, one{k, n, used})
	}
	slices.SortFunc(all, func(x, y one) int { return x.used.Compare(y.used) })
	for len(all) > b.d.cfg.Booted.Max || total > b.d.cfg.Booted.Bytes {
		if err := b.drop(ctx, all[0].key); err != nil {
			return err
		}
		total -= all[0].bytes
		all = all[1:]
	}
	return nil
}

// Booted implements vmm.BootKeeper.
func (d *Driver) Booted(ctx context.Context) (vmm.BootedCounts, error) {
	d.booted.mu.Lock()
	counts := d.booted.counts
	d.booted.mu.Unlock()
	keys, err := d.booted.keys(ctx)
	if err != nil {
		return counts, err
	}
	for _, key := range keys {
		n, err := d.storedBytes(ctx, d.cfg.booted(key))
		if err != nil {
			return counts, err
		}
		counts.Kept++
		counts.Bytes += n
	}
	return counts, nil
}

// roomFor checks that the host has memory for another machine, before what is done to
// be faster takes some. Returns CapacityExhausted.
func (d *Driver) roomFor(ctx context.Context, s vmm.Spec) error {
	overhead, err := d.engine.Overhead(ctx)
	if err != nil {
		return err
	}
	free, err := availableMemory()
	if err == nil && free < s.Resources.MemoryBytes+overhead {
		err = errors.New(errors.CapacityExhausted, "the host has too little memory left")
	}
	return err
}

// availableMemory is what the host can give without swapping (MemAvailable of
// proc_meminfo(5)), in bytes.
func availableMemory() (int64, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if text, ok := strings.CutPrefix(lines.Text(), "MemAvailable:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(text), " kB"), 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New(errors.Internal, "the kernel does not tell its available memory")
}
