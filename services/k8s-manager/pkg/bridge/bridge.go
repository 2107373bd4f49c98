// Package bridge translates between the core's workers and what Kubernetes
// schedules and scales by. It does no I/O.
package bridge

import "github.com/aetherium/aetherium/libs/types/pkg/domain"

// Headroom is how much of a fleet's capacity is still free, in shares of 1.
type Headroom struct {
	CPU    float64
	Memory float64
	Disk   float64
}

// Least is the scarcest share: the one to scale by.
func (h Headroom) Least() float64 { return min(h.CPU, h.Memory, h.Disk) }

// FleetHeadroom sums the workers that take new VMs. A fleet without any such
// worker has no headroom. Reservations beyond capacity count as none left.
func FleetHeadroom(workers []*domain.Worker) Headroom {
	var capacity, reserved domain.Resources
	for _, w := range workers {
		if w.State != domain.WorkerReady {
			continue
		}
		capacity.MilliCPU += w.Capacity.MilliCPU
		capacity.MemoryBytes += w.Capacity.MemoryBytes
		capacity.DiskBytes += w.Capacity.DiskBytes
		reserved.MilliCPU += w.Reserved.MilliCPU
		reserved.MemoryBytes += w.Reserved.MemoryBytes
		reserved.DiskBytes += w.Reserved.DiskBytes
	}
	return Headroom{
		CPU:    free(capacity.MilliCPU, reserved.MilliCPU),
		Memory: free(capacity.MemoryBytes, reserved.MemoryBytes),
		Disk:   free(capacity.DiskBytes, reserved.DiskBytes),
	}
}

func free(capacity, reserved int64) float64 {
	if capacity <= 0 || reserved >= capacity {
		return 0
	}
	return float64(capacity-reserved) / float64(capacity)
}
