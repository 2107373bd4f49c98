package journal

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// Key names a journal. The VM is part of it so that nothing that a guest says
// about execution IDs can reach another VM's output.
type Key struct {
	VM        domain.ID
	Epoch     int64
	Execution domain.ID
}

func (k Key) String() string {
	return fmt.Sprintf("%s-%d-%s", k.VM, k.Epoch, k.Execution)
}

func (k Key) valid() bool {
	return domain.IsID(string(k.VM)) && domain.IsID(string(k.Execution)) && k.Epoch >= 0
}

const suffix = ".j"

// segmentName is the file name of k's segment that begins at base.
func segmentName(k Key, base int64) string {
	return k.String() + "-" + strconv.FormatInt(base, 10) + suffix
}

// parseSegmentName undoes segmentName; ok is false for files of other origin.
func parseSegmentName(name string) (k Key, base int64, ok bool) {
	rest, found := strings.CutSuffix(name, suffix)
	parts := strings.Split(rest, "-")
	if !found || len(parts) != 4 {
		return Key{}, 0, false
	}
	epoch, err1 := strconv.ParseInt(parts[1], 10, 64)
	base, err2 := strconv.ParseInt(parts[3], 10, 64)
	k = Key{VM: domain.ID(parts[0]), Epoch: epoch, Execution: domain.ID(parts[2])}
	// Only the canonical spelling counts, or two names could mean one segment.
	if err1 != nil || err2 != nil || base < 0 || !k.valid() || segmentName(k, base) != name {
		return Key{}, 0, false
	}
	return k, base, true
}
