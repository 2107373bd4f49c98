package microvm

import (
	"context"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/fault"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/sparse"
)

// carryMark begins what a packed disk is: its size in bytes follows, big endian,
// and its content, as package sparse writes it.
const carryMark = "aetherium-disk-1\n"

// PackSnapshot writes a snapshot's disk. See [vmm.Carrier].
func (d *Driver) PackSnapshot(ctx context.Context, snapshotID string, w io.Writer) error {
	if !idForm.MatchString(snapshotID) {
		return errors.New(errors.InvalidArgument, "this is not a snapshot ID")
	}
	f, err := os.OpenFile(filepath.Join(d.cfg.Volumes.Path(d.cfg.snapshot(snapshotID).disk), diskFile), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if os.IsNotExist(err) {
		return errors.Wrap(err, errors.NotFound, "there is no such snapshot")
	}
	if err != nil {
		return fault.Of(err, "cannot pack the snapshot")
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		return errors.New(errors.Internal, "the snapshot's disk is not what it was")
	}
	if err == nil {
		_, err = w.Write(binary.BigEndian.AppendUint64([]byte(carryMark), uint64(info.Size())))
	}
	if err == nil {
		err = sparse.Write(ctx, w, f, info.Size())
	}
	return fault.Of(err, "cannot pack the snapshot")
}

// UnpackSnapshot makes a snapshot of a disk that another host's driver has
// packed. Nothing of this host reads the file system in it. See [vmm.Carrier].
func (d *Driver) UnpackSnapshot(ctx context.Context, snapshotID string, limit int64, r io.Reader) error {
	if !idForm.MatchString(snapshotID) {
		return errors.New(errors.InvalidArgument, "this is not a snapshot ID")
	}
	head := make([]byte, len(carryMark)+8)
	if _, err := io.ReadFull(r, head); err != nil {
		return fault.Of(sparse.NoEOF(err), "cannot unpack the snapshot")
	}
	size := binary.BigEndian.Uint64(head[len(carryMark):])
	switch {
	case string(head[:len(carryMark)]) != carryMark:
		return errors.New(errors.InvalidArgument, "this is no packed disk of a machine with a kernel of its own")
	case size > uint64(diskSize(limit)):
		return errors.New(errors.TooLarge, "the disk is larger than its machine could have it")
	}
	return d.cfg.Volumes.Fill(ctx, d.cfg.snapshot(snapshotID).disk, int64(size)+diskSlack, func(dir string) error {
		f, err := os.OpenFile(filepath.Join(dir, diskFile), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return fault.Of(err, "cannot unpack the snapshot")
		}
		defer f.Close()
		_, err = sparse.Read(ctx, r, f, int64(size), int64(size))
		if err == nil {
			err = sparse.End(r)
		}
		return fault.Of(err, "cannot unpack the snapshot")
	})
}
