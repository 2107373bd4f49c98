package bridge_test

import (
	"testing"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/k8s-manager/pkg/bridge"
)

func worker(state domain.WorkerState, capacity, reserved int64) *domain.Worker {
	r := func(n int64) domain.Resources {
		return domain.Resources{MilliCPU: n, MemoryBytes: 2 * n, DiskBytes: 4 * n}
	}
	return &domain.Worker{State: state, Capacity: r(capacity), Reserved: r(reserved)}
}

func TestFleetHeadroom(t *testing.T) {
	t.Parallel()
	scarceMemory := worker(domain.WorkerReady, 1000, 0)
	scarceMemory.Reserved.MemoryBytes = 1900
	for _, tc := range []struct {
		name    string
		workers []*domain.Worker
		want    float64
	}{
		{"no workers", nil, 0},
		{"idle", []*domain.Worker{worker(domain.WorkerReady, 1000, 0)}, 1},
		{"cordoned ones do not count", []*domain.Worker{worker(domain.WorkerReady, 1000, 500), worker(domain.WorkerCordoned, 1000, 0)}, 0.5},
		{"overcommitted", []*domain.Worker{worker(domain.WorkerReady, 1000, 3000)}, 0},
		{"summed", []*domain.Worker{worker(domain.WorkerReady, 1000, 1000), worker(domain.WorkerReady, 3000, 0)}, 0.75},
		{"the scarcest decides", []*domain.Worker{scarceMemory}, 0.05},
	} {
		if got := bridge.FleetHeadroom(tc.workers).Least(); got < tc.want-1e-9 || got > tc.want+1e-9 {
			t.Errorf("%s: got %v, want %v", tc.name, got, tc.want)
		}
	}
}
