package host

import (
	"context"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/disk"
)

// capacity is what this host gives to VMs: its cores, its memory, and what its
// disk has for their volumes.
func capacity(ctx context.Context, pool *disk.Pool) (domain.Resources, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return domain.Resources{}, errors.Wrap(err, errors.Internal, "the host's memory is not known")
	}
	room, err := pool.Capacity(ctx)
	if err != nil {
		return domain.Resources{}, err
	}
	return domain.Resources{
		MilliCPU:    int64(runtime.NumCPU()) * 1000,
		MemoryBytes: int64(info.Totalram) * int64(info.Unit),
		DiskBytes:   room,
		PIDs:        1 << 22,
	}, nil
}

// Name is the host's.
func Name() string {
	name, err := os.Hostname()
	if err != nil || name == "" {
		return "localhost"
	}
	return name
}
