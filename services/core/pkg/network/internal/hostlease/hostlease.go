// Package hostlease is the register of what instances hold on one host and
// what must not be held twice: blocks of user IDs, subnets, interface names
// and changed kernel settings. One JSON file per instance, one lock over all.
package hostlease

import (
	"encoding/json"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/network/internal/statefile"
)

// Version of the lease file's form.
const Version = 1

// Lease is what one instance holds.
type Lease struct {
	Version    int    `json:"version"`
	Instance   string `json:"instance"`
	RuntimeDir string `json:"runtime_dir"` // where the instance keeps its own state: finds dead instances
	BootID     string `json:"boot_id"`     // a lease of an earlier boot holds nothing
	HostNet    uint64 `json:"host_net"`    // inode of the network namespace that the instance works in
	Prefix     string `json:"prefix"`      // the first letters of its interface names
	// Subnet is the zero Prefix until the instance needs one.
	Subnet netip.Prefix `json:"subnet,omitzero"`
	// Blocks are the first IDs of its blocks of user IDs.
	Blocks []uint32 `json:"blocks,omitempty"`
	// Settings maps a sysctl that the instance changed (dotted name) to the
	// value that stood there before any instance changed it.
	Settings map[string]string `json:"settings,omitempty"`
}

// Registry is the register in a directory that all instances of a host share.
type Registry struct{ dir string }

// Open makes the directory where it is missing.
func Open(dir string) (*Registry, error) {
	if err := os.MkdirAll(filepath.Join(dir, "leases"), 0o700); err != nil {
		return nil, errors.Wrap(err, errors.Unavailable, "cannot make the host's lease directory")
	}
	return &Registry{dir: dir}, nil
}

// View is the register under its lock.
type View struct {
	r      *Registry
	Mine   Lease   // saved by Save; the zero Lease when the instance has none
	Others []Lease // never written
}

// Update runs fn with every other instance locked out. fn saves with
// [View.Save] before it does what the lease announces (intent first).
func (r *Registry) Update(instance string, fn func(*View) error) error {
	lock, err := os.OpenFile(filepath.Join(r.dir, "lock"), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return errors.Wrap(err, errors.Unavailable, "cannot open the host's lease lock")
	}
	defer func() { _ = lock.Close() }()
	for {
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return errors.Wrap(err, errors.Unavailable, "cannot lock the host's leases")
	}
	v := &View{r: r}
	all, err := r.read()
	if err != nil {
		return err
	}
	for _, l := range all {
		if l.Instance == instance {
			v.Mine = l
		} else {
			v.Others = append(v.Others, l)
		}
	}
	return fn(v)
}

// Peek reads the leases in dir without making or locking anything.
func Peek(dir string) ([]Lease, error) { return (&Registry{dir: dir}).read() }

func (r *Registry) read() ([]Lease, error) {
	entries, err := os.ReadDir(filepath.Join(r.dir, "leases"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, errors.Wrap(err, errors.Unavailable, "cannot read the host's leases")
	}
	var out []Lease
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok {
			continue
		}
		raw, err := os.ReadFile(filepath.Join(r.dir, "leases", e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, errors.Wrap(err, errors.Unavailable, "cannot read a host lease")
		}
		var l Lease
		// What cannot be read may hold anything: refusing is safer than handing it out twice.
		if err := json.Unmarshal(raw, &l); err != nil || l.Version != Version || l.Instance != name {
			return nil, errors.Wrap(err, errors.Conflict, "the host lease of instance %q cannot be read by this version", name).
				WithHint("end that instance with the version that made it, or remove %s", filepath.Join(r.dir, "leases", e.Name()))
		}
		out = append(out, l)
	}
	return out, nil
}

// Save makes v.Mine durable.
func (v *View) Save() error {
	v.Mine.Version = Version
	return statefile.Write(v.r.path(v.Mine.Instance), v.Mine)
}

// Clash reports whether v.Mine claims something that another lease has.
func (v *View) Clash() bool {
	for _, l := range v.Others {
		if l.Prefix != "" && l.Prefix == v.Mine.Prefix {
			return true
		}
		if l.Subnet.IsValid() && v.Mine.Subnet.IsValid() && l.Subnet.Overlaps(v.Mine.Subnet) {
			return true
		}
		for _, b := range l.Blocks {
			if slices.Contains(v.Mine.Blocks, b) {
				return true
			}
		}
	}
	return false
}

// Drop removes the lease of an instance; absent is success.
func (v *View) Drop(instance string) error {
	if err := os.Remove(v.r.path(instance)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errors.Wrap(err, errors.Unavailable, "cannot remove a host lease")
	}
	kept := v.Others[:0]
	for _, l := range v.Others {
		if l.Instance != instance {
			kept = append(kept, l)
		}
	}
	v.Others = kept
	return nil
}

func (r *Registry) path(instance string) string {
	return filepath.Join(r.dir, "leases", instance+".json")
}
