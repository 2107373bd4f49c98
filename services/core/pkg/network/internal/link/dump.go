package link

import (
	"github.com/vishvananda/netlink"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// maxDumps bounds how often a list is asked for: each time somebody has changed
// something while it was read.
const maxDumps = 100

// whole repeats a dump until it was not interrupted: the kernel marks one during
// which what it lists has changed, and the answer to that is to ask again
// (NLM_F_DUMP_INTR, linux/netlink.h; netlink/intro.rst, "Dump consistency").
func whole[T any](dump func() (T, error)) (list T, err error) {
	for range maxDumps {
		if list, err = dump(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return list, err
}
