package disk

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"golang.org/x/sys/unix"
)

// btrfsBackend keeps each volume in a subvolume with its own quota group.
//
// With simple quotas a block is charged to the subvolume that wrote it until
// nothing refers to it any more. A clone therefore begins with nothing charged,
// and its source goes on paying for blocks that only the clone still needs. So
// that making a clone never takes room from its source, the source's limit is
// raised by what it had been charged for, for as long as a clone lives.
type btrfsBackend struct {
	root   string
	groups string // sysfs directory of the quota groups
	simple bool   // simple quotas
	own    bool   // the file system is ours alone

	mu sync.Mutex // lineage: clone and remove
	// dropped are quota groups of removed volumes that the kernel still needed;
	// newer kernels drop them themselves.
	dropped []uint64
}

// volumeAttr is the extended attribute of a volume's root that holds its btrfsMeta.
const volumeAttr = "trusted.aetherium.volume"

// btrfsMeta is what a volume knows about itself beside its quota group.
type btrfsMeta struct {
	Limit     int64    `json:"limit"`
	Shared    int64    `json:"shared,omitempty"`    // charged when it was last cloned
	Inherited int64    `json:"inherited,omitempty"` // used by what it was cloned from
	Ancestors []uint64 `json:"ancestors,omitempty"` // subvolume IDs of living volumes it stems from
}

// newBtrfs takes the btrfs file system at root. own: it is the pool's, so
// quotas are switched on when they are off.
func newBtrfs(root string, own bool) (*btrfsBackend, error) {
	fs, err := os.Open(root)
	if err != nil {
		return nil, err
	}
	defer fs.Close()
	uuid, err := btrfsUUID(fs)
	if err != nil {
		return nil, err
	}
	b := &btrfsBackend{root: root, groups: "/sys/fs/btrfs/" + uuid + "/qgroups", own: own}
	if _, err := os.Stat(b.groups); err != nil {
		if !own {
			return nil, errors.New(errors.Unsupported, "quotas are off")
		}
		if err := quotaControl(fs, quotaEnableSimple); err != nil {
			if err := quotaControl(fs, quotaEnable); err != nil {
				return nil, err
			}
			if err := quotaWait(fs); err != nil {
				return nil, err
			}
		}
	}
	mode, err := os.ReadFile(b.groups + "/mode") // absent before Linux 6.7
	if err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	b.simple = strings.TrimSpace(string(mode)) == "squota"
	return b, nil
}

func (b *btrfsBackend) name() string   { return BackendBtrfs }
func (b *btrfsBackend) enforced() bool { return true }

func (b *btrfsBackend) create(dir string, limit int64) error {
	parent, err := os.Open(filepath.Dir(dir))
	if err != nil {
		return err
	}
	defer parent.Close()
	if err := subvolCreate(parent, filepath.Base(dir)); err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return err
	}
	return b.limit(dir, btrfsMeta{Limit: limit})
}

func (b *btrfsBackend) clone(_ context.Context, src, dst string, limit int64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	from, err := os.Open(src)
	if err != nil {
		return err
	}
	defer from.Close()
	parent, err := os.Open(filepath.Dir(dst))
	if err != nil {
		return err
	}
	defer parent.Close()
	if err := subvolSnapshot(parent, from, filepath.Base(dst)); err != nil {
		return err
	}
	meta := btrfsMeta{Limit: limit}
	if b.simple {
		if meta, err = b.descend(src, limit); err != nil {
			return err
		}
	}
	return b.limit(dst, meta)
}

// descend books a clone of src: src gets its allowance, and the clone's meta is returned.
func (b *btrfsBackend) descend(src string, limit int64) (btrfsMeta, error) {
	m, err := readMeta(src)
	if err != nil {
		return m, err
	}
	id, charged, err := b.charged(src)
	if err != nil {
		return m, err
	}
	child := btrfsMeta{Limit: limit, Inherited: m.Inherited + charged, Ancestors: []uint64{id}}
	if len(m.Ancestors) > 0 {
		live, err := b.subvolumes("staging", "volumes")
		if err != nil {
			return m, err
		}
		for _, a := range m.Ancestors {
			if _, ok := live[a]; ok {
				child.Ancestors = append(child.Ancestors, a)
			}
		}
	}
	m.Shared = charged
	return child, b.limit(src, m)
}

// subvolumes finds the subvolumes in directories of the pool, by ID.
func (b *btrfsBackend) subvolumes(names ...string) (map[uint64]string, error) {
	found := map[uint64]string{}
	for _, name := range names {
		parent := filepath.Join(b.root, name)
		entries, err := os.ReadDir(parent)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			dir := filepath.Join(parent, e.Name())
			if id, err := openSubvolID(dir); err == nil {
				found[id] = dir
			}
		}
	}
	return found, nil
}

func openSubvolID(dir string) (uint64, error) {
	f, err := os.Open(dir)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return subvolID(f)
}

// limit writes a volume's meta and the limit of its quota group.
func (b *btrfsBackend) limit(dir string, m btrfsMeta) error {
	raw, err := json.Marshal(m)
	if err != nil {
		return err
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	allowed := m.Limit
	if allowed > 0 {
		allowed += m.Shared
	}
	// The group first: a full volume may have no room for the attribute at its old limit.
	if err := qgroupLimit(f, allowed); err != nil {
		return err
	}
	return unix.Fsetxattr(int(f.Fd()), volumeAttr, raw, 0)
}

func readMeta(dir string) (btrfsMeta, error) {
	var m btrfsMeta
	buf := make([]byte, 16<<10)
	n, err := unix.Lgetxattr(dir, volumeAttr, buf)
	if err != nil {
		return m, err
	}
	return m, json.Unmarshal(buf[:n], &m)
}

func (b *btrfsBackend) setLimit(dir string, limit int64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	m, err := readMeta(dir)
	if err != nil {
		return err
	}
	m.Limit = limit
	return b.limit(dir, m)
}

// charged reads what a volume's quota group is charged for, writes not yet on disk included.
func (b *btrfsBackend) charged(dir string) (id uint64, bytes int64, err error) {
	if id, err = openSubvolID(dir); err != nil {
		return 0, 0, err
	}
	for _, file := range []string{"referenced", "rsv_data"} {
		raw, err := os.ReadFile(filepath.Join(b.groups, "0_"+strconv.FormatUint(id, 10), file))
		if err != nil {
			return 0, 0, err
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64)
		if err != nil {
			return 0, 0, err
		}
		bytes += n
	}
	return id, bytes, nil
}

func (b *btrfsBackend) usage(dir string) (Usage, error) {
	m, err := readMeta(dir)
	if err != nil {
		return Usage{}, err
	}
	_, charged, err := b.charged(dir)
	if err != nil {
		return Usage{}, err
	}
	return Usage{Used: m.Inherited + charged, Limit: m.Limit}, nil
}

func (b *btrfsBackend) remove(dir string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	m, err := readMeta(dir)
	if err != nil && err != unix.ENODATA { //nolint:errorlint // a raw errno
		return err
	}
	id, err := openSubvolID(dir)
	if err != nil {
		return err
	}
	parent, err := os.Open(filepath.Dir(dir))
	if err != nil {
		return err
	}
	defer parent.Close()
	if above, err := subvolID(parent); err != nil || above == id {
		return errors.Join(err, os.RemoveAll(dir)) // a crash came before the subvolume
	}
	if err := subvolDestroy(parent, filepath.Base(dir)); err != nil {
		return err
	}
	b.dropped = append(b.dropped, id)
	b.dropGroups(parent)
	return b.orphan(m.Ancestors)
}

// reclaim has the kernel free deleted subvolumes, which it begins with every half
// minute, and gives their room back to the disk below. It is done when none is
// left; one that a process has files open of stays until then.
func (b *btrfsBackend) reclaim(root *os.File) (bool, error) {
	if err := ioctl(root, iocSync, nil); err != nil {
		return false, err
	}
	left, err := deletedSubvolumes(root)
	if err != nil {
		return false, err
	}
	return !left, reclaim(root)
}

// orphan takes back the allowance of those that have no clone any more.
func (b *btrfsBackend) orphan(ancestors []uint64) error {
	if len(ancestors) == 0 {
		return nil
	}
	live, err := b.subvolumes("staging", "volumes")
	if err != nil {
		return err
	}
	needed := map[uint64]bool{}
	for _, dir := range live {
		if m, err := readMeta(dir); err == nil {
			for _, a := range m.Ancestors {
				needed[a] = true
			}
		}
	}
	for _, a := range ancestors {
		dir, ok := live[a]
		if !ok || needed[a] {
			continue
		}
		m, err := readMeta(dir)
		if errors.Is(err, os.ErrNotExist) {
			continue // it was removed meanwhile
		}
		if err != nil {
			return err
		}
		m.Shared = 0
		if err := b.limit(dir, m); err != nil {
			return err
		}
	}
	return nil
}

// dropGroups removes quota groups of volumes that are gone. The kernel refuses
// those it still needs, as it does until it has freed a volume, every half minute:
// the first it refuses is put behind the others and ends the round. Hundreds may
// wait while volumes come and go, and each removal begins one.
func (b *btrfsBackend) dropGroups(fs *os.File) {
	for len(b.dropped) > 0 {
		id := b.dropped[0]
		b.dropped = b.dropped[1:]
		if qgroupDestroy(fs, id) == nil {
			continue
		}
		if _, err := os.Stat(filepath.Join(b.groups, "0_"+strconv.FormatUint(id, 10))); err == nil {
			b.dropped = append(b.dropped, id)
			return
		}
	}
}

// sweep finds quota groups that no volume has any more; on a file system that
// others use, too, their groups cannot be told from ours and stay.
func (b *btrfsBackend) sweep() error {
	if !b.own {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	live, err := b.subvolumes("staging", "volumes", "trash")
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(b.groups)
	if err != nil {
		return err
	}
	for _, e := range entries {
		n, ok := strings.CutPrefix(e.Name(), "0_")
		id, err := strconv.ParseUint(n, 10, 64)
		if !ok || err != nil || id < firstFreeObject {
			continue
		}
		if _, alive := live[id]; !alive && !slices.Contains(b.dropped, id) {
			b.dropped = append(b.dropped, id)
		}
	}
	fs, err := os.Open(b.root)
	if err != nil {
		return err
	}
	defer fs.Close()
	b.dropGroups(fs)
	return nil
}
