package nspair

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Range is a range of user and group IDs of the host.
type Range struct{ Base, Count uint32 }

// Has reports whether id is in the range.
func (r Range) Has(id uint32) bool { return id >= r.Base && id-r.Base < r.Count }

// Usage tells who still uses namespaces and IDs that are to be freed.
type Usage struct {
	users  map[uint64]struct{} // user namespaces with a process
	nets   map[uint64]struct{} // network namespaces with a process
	uidIDs []uint32
}

// Processes looks once at every process of the host. A process that ends
// meanwhile is passed over.
func Processes() (Usage, error) {
	u := Usage{users: map[uint64]struct{}{}, nets: map[uint64]struct{}{}}
	dir, err := os.Open("/proc")
	if err != nil {
		return u, err
	}
	defer func() { _ = dir.Close() }()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return u, err
	}
	ids := map[uint32]struct{}{}
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		var st unix.Stat_t
		if unix.Stat(fmt.Sprintf("/proc/%d/ns/user", pid), &st) == nil {
			u.users[st.Ino] = struct{}{}
		}
		if unix.Stat(fmt.Sprintf("/proc/%d/ns/net", pid), &st) == nil {
			u.nets[st.Ino] = struct{}{}
		}
		// Not only the namespace: a process in a nested user namespace has IDs of the range too.
		for _, id := range statusIDs(pid) {
			ids[id] = struct{}{}
		}
	}
	for id := range ids {
		u.uidIDs = append(u.uidIDs, id)
	}
	return u, nil
}

// statusIDs gives the real, effective, saved and file system user and group
// IDs of a process (proc(5), status).
func statusIDs(pid int) []uint32 {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return nil
	}
	var ids []uint32
	for sc := bufio.NewScanner(bytes.NewReader(raw)); sc.Scan(); {
		line := sc.Text()
		if !strings.HasPrefix(line, "Uid:") && !strings.HasPrefix(line, "Gid:") {
			continue
		}
		for _, f := range strings.Fields(line)[1:] {
			if id, err := strconv.ParseUint(f, 10, 32); err == nil {
				ids = append(ids, uint32(id))
			}
		}
	}
	return ids
}

// Busy reports whether a process is in one of the pair's namespaces or has an
// ID of the range.
func (u Usage) Busy(id Identity, r Range) bool {
	if _, ok := u.users[id.User]; ok {
		return true
	}
	if _, ok := u.nets[id.Net]; ok {
		return true
	}
	for _, x := range u.uidIDs {
		if r.Has(x) {
			return true
		}
	}
	return false
}
