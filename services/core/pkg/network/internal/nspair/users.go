package nspair

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strconv"
)

// Range is a range of user and group IDs of the host.
type Range struct{ Base, Count uint32 }

// Has reports whether id is in the range.
func (r Range) Has(id uint32) bool { return id >= r.Base && id-r.Base < r.Count }

// Overlaps reports whether the ranges share an ID.
func (r Range) Overlaps(o Range) bool {
	return uint64(r.Base) < uint64(o.Base)+uint64(o.Count) && uint64(o.Base) < uint64(r.Base)+uint64(r.Count)
}

// IDsInUse is the sorted set of user and group IDs that processes of the host have.
type IDsInUse []uint32

// Processes looks once at every process of the host. It looks at IDs and not
// at namespaces: a process in a user namespace nested in a pair's has IDs of
// the pair's range, and the kernel uses namespace inode numbers again.
func Processes() (IDsInUse, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer func() { _ = dir.Close() }()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	seen := map[uint32]struct{}{}
	for _, name := range names {
		if name[0] < '1' || name[0] > '9' {
			continue
		}
		// A process that ends meanwhile uses nothing.
		raw, err := os.ReadFile(filepath.Join("/proc", name, "status"))
		if err != nil {
			continue
		}
		statusIDs(raw, seen)
	}
	ids := make(IDsInUse, 0, len(seen))
	for id := range seen {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids, nil
}

// statusIDs adds the real, effective, saved and file system user and group
// IDs in a process's status file (proc_pid_status(5)). A process that has
// ended and waits for its parent to notice has none.
func statusIDs(status []byte, into map[uint32]struct{}) {
	for line := range bytes.Lines(status) {
		if bytes.HasPrefix(line, []byte("State:\tZ")) || bytes.HasPrefix(line, []byte("State:\tX")) {
			return
		}
		if !bytes.HasPrefix(line, []byte("Uid:")) && !bytes.HasPrefix(line, []byte("Gid:")) {
			continue
		}
		for _, f := range bytes.Fields(line)[1:] {
			if id, err := strconv.ParseUint(string(f), 10, 32); err == nil {
				into[uint32(id)] = struct{}{}
			}
		}
	}
}

// In reports whether a process has an ID of the range.
func (ids IDsInUse) In(r Range) bool {
	i, _ := slices.BinarySearch(ids, r.Base)
	return i < len(ids) && r.Has(ids[i])
}
