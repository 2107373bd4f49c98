package hostlease

import (
	"bufio"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/network/internal/nspair"
)

// BlockSize is how many user IDs an instance leases at once: 32 ranges of
// 65536, so that the host's lock is seldom taken.
const BlockSize = 32 << 16

// AddBlock adds a block of user IDs between low and high (exclusive) to
// v.Mine; the caller saves. It passes over blocks of other instances and what
// the reserved ranges touch. Returns CapacityExhausted when none is left.
func (v *View) AddBlock(low, high uint32, reserved []nspair.Range) (uint32, error) {
	taken := map[uint32]bool{}
	for _, l := range append(v.Others, v.Mine) {
		for _, b := range l.Blocks {
			taken[b] = true
		}
	}
	first := (uint64(low) + BlockSize - 1) / BlockSize * BlockSize
next:
	for base := first; base+BlockSize <= uint64(high); base += BlockSize {
		block := nspair.Range{Base: uint32(base), Count: BlockSize}
		for b := range taken {
			if block.Overlaps(nspair.Range{Base: b, Count: BlockSize}) {
				continue next
			}
		}
		for _, r := range reserved {
			if block.Overlaps(r) {
				continue next
			}
		}
		v.Mine.Blocks = append(v.Mine.Blocks, block.Base)
		return block.Base, nil
	}
	return 0, errors.New(errors.CapacityExhausted, "no range of user IDs is free on this host").
		WithHint("end other instances, or widen the range of user IDs in the configuration")
}

// ReservedIDs collects the IDs that belong to someone else: those that
// /etc/subuid and /etc/subgid give away and those of the users and groups in
// /etc/passwd and /etc/group. root is the directory that stands for /.
func ReservedIDs(root string) ([]nspair.Range, error) {
	var out []nspair.Range
	for _, f := range []struct {
		path       string
		start, len int // fields; len < 0: one ID
	}{
		{"/etc/subuid", 1, 2}, {"/etc/subgid", 1, 2}, {"/etc/passwd", 2, -1}, {"/etc/group", 2, -1},
	} {
		file, err := os.Open(root + f.path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, errors.Wrap(err, errors.Unavailable, "cannot read %s", f.path)
		}
		sc := bufio.NewScanner(file)
		for sc.Scan() {
			fields := strings.Split(strings.TrimSpace(sc.Text()), ":")
			if len(fields) <= max(f.start, f.len) {
				continue
			}
			base, err := strconv.ParseUint(fields[f.start], 10, 32)
			if err != nil {
				continue
			}
			count := uint64(1)
			if f.len >= 0 {
				if count, err = strconv.ParseUint(fields[f.len], 10, 32); err != nil {
					continue
				}
			}
			out = append(out, nspair.Range{Base: uint32(base), Count: uint32(count)})
		}
		err = sc.Err()
		_ = file.Close()
		if err != nil {
			return nil, errors.Wrap(err, errors.Unavailable, "cannot read %s", f.path)
		}
	}
	return out, nil
}
