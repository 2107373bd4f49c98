package firecracker

import (
	"os"
	"path/filepath"

	"github.com/aetherium/aetherium/services/core/pkg/guest/bootline"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/fault"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/record"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/microvm"
)

// A connection is known by its numbers on both sides, and before 1.15 a monitor
// counts its side's from the same one on, in a guest that is restored too. The guest may
// still hold connections whose host had ended them when it was saved. As it
// closes one, it resets what has the same numbers by then: a new connection, at
// any time later (seen with 1.12 and Linux 6.1). So the guest's side is another port after each
// restore: one comes again when all the others were used.

// heard is which of its agent's ports a guest is heard on.
type heard struct {
	Port uint32 `json:"port"` // from the first one on
}

func heardPath(g microvm.Guest) string { return filepath.Join(g.Dir, "heard.json") }

// usePort notes it. A guest that was booted is heard on the first.
func usePort(g microvm.Guest, port uint32) error {
	return record.Write(heardPath(g), heard{port % bootline.AgentPorts})
}

func portOf(g microvm.Guest) (uint32, error) {
	var h heard
	err := record.Read(heardPath(g), &h)
	if os.IsNotExist(err) {
		return 0, nil
	}
	return h.Port, fault.Of(err, "a monitor's books cannot be read")
}
