package nspair

import (
	"bytes"
	"fmt"
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
	seen := map[uint32]struct{}{}
	if err := statuses(func(_ string, status []byte) { statusIDs(status, seen) }); err != nil {
		return nil, err
	}
	ids := make(IDsInUse, 0, len(seen))
	for id := range seen {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids, nil
}

// Users tells at most limit of the processes that have IDs of some ranges, as
// "PID (name, state)".
func Users(ranges []Range, limit int) ([]string, error) {
	var users []string
	err := statuses(func(pid string, status []byte) {
		ids := map[uint32]struct{}{}
		statusIDs(status, ids)
		for id := range ids {
			if len(users) < limit && slices.ContainsFunc(ranges, func(r Range) bool { return r.Has(id) }) {
				users = append(users, fmt.Sprintf("%s (%s, %s)", pid, statusField(status, "Name:"), statusField(status, "State:")))
				return
			}
		}
	})
	return users, err
}

// statuses reads the status file of every process (proc_pid_status(5)).
func statuses(each func(pid string, status []byte)) error {
	dir, err := os.Open("/proc")
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if name[0] < '1' || name[0] > '9' {
			continue
		}
		// A process that ends meanwhile uses nothing.
		if raw, err := os.ReadFile(filepath.Join("/proc", name, "status")); err == nil {
			each(name, raw)
		}
	}
	return nil
}

func statusField(status []byte, name string) string {
	for line := range bytes.Lines(status) {
		if rest, ok := bytes.CutPrefix(line, []byte(name)); ok {
			return string(bytes.TrimSpace(rest))
		}
	}
	return ""
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
