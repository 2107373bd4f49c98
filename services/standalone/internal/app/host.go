package app

import (
	"context"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/disk"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
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

// instanceID tells this installation from others on the host; it is made once
// and kept in the store. Twelve characters: it goes into interface and cgroup names.
func instanceID(ctx context.Context, store storage.Store) (string, error) {
	var id string
	err := store.Update(ctx, func(tx storage.Tx) (err error) {
		id, err = tx.Settings().Init(ctx, storage.SettingInstanceID, string(domain.NewID()[:12]))
		return err
	})
	return id, err
}

// platform is what VMs of the host's own kind run.
func platform() string { return runtime.GOOS + "/" + runtime.GOARCH }

func hostname() string {
	name, err := os.Hostname()
	if err != nil || name == "" {
		return "localhost"
	}
	return name
}
