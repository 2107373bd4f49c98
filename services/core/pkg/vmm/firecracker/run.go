package firecracker

import (
	"os"
	"path/filepath"

	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/fault"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/record"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/microvm"
)

// run is what a guest was started with. It goes along with its memory.
type run struct {
	// Port is which of its agent's ports the guest is heard on, from the first one
	// on. A connection is known by its numbers on both sides, and before 1.15 a
	// monitor counts its side's from the same one on, in a guest that is restored
	// too. Such a guest may still hold connections whose host had ended them when it was
	// saved. As it closes one, at any time later, it resets what has the same
	// numbers by then, which is a new connection (seen with 1.12 and Linux 6.1).
	// So after each restore it is the next port.
	Port uint32 `json:"port"`
	// Disk and Network are the limits that its devices have.
	Disk    Limit `json:"disk"`
	Network Limit `json:"network"`
}

func runPath(g microvm.Guest) string { return filepath.Join(g.Dir, "run.json") }

func (r run) write(g microvm.Guest) error { return record.Write(runPath(g), r) }

// runOf reads it. One that was booted without limits has no record.
func runOf(g microvm.Guest) (run, error) {
	var r run
	if err := record.Read(runPath(g), &r); err != nil && !os.IsNotExist(err) {
		return r, fault.Of(err, "a monitor's books cannot be read")
	}
	return r, nil
}
