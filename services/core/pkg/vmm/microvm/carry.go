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
	return fault.Of(d.packDisk(ctx, d.cfg.snapshot(snapshotID).disk, w), cannotPack)
}

func (d *Driver) packDisk(ctx context.Context, volume string, w io.Writer) error {
	f, size, err := openSaved(filepath.Join(d.cfg.Volumes.Path(volume), diskFile))
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := w.Write(binary.BigEndian.AppendUint64([]byte(carryMark), uint64(size))); err != nil {
		return err
	}
	return sparse.Write(ctx, w, f, size)
}

// openSaved opens a file that nobody writes to any more. Returns NotFound.
func openSaved(path string) (*os.File, int64, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if os.IsNotExist(err) {
		return nil, 0, errors.Wrap(err, errors.NotFound, "there is no such snapshot")
	}
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New(errors.Internal, "the snapshot is not what it was")
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, info.Size(), nil
}

const (
	cannotPack   = "cannot pack the snapshot"
	cannotUnpack = "cannot unpack the snapshot"
)

// UnpackSnapshot makes a snapshot of a disk that another host's driver has
// packed. Nothing of this host reads the file system in it. See [vmm.Carrier].
func (d *Driver) UnpackSnapshot(ctx context.Context, snapshotID string, limit int64, r io.Reader) error {
	if !idForm.MatchString(snapshotID) {
		return errors.New(errors.InvalidArgument, "this is not a snapshot ID")
	}
	mark, err := readMark(r)
	if err == nil && mark == memoryMark {
		if err = skipMemory(ctx, r); err == nil {
			mark, err = readMark(r)
		}
	}
	if err != nil {
		return fault.Of(err, cannotUnpack)
	}
	return d.unpackDisk(ctx, mark, d.cfg.snapshot(snapshotID).disk, limit, r)
}

// readMark reads what a stream says that it is.
func readMark(r io.Reader) (string, error) {
	mark := make([]byte, len(carryMark))
	_, err := io.ReadFull(r, mark)
	return string(mark), sparse.NoEOF(err)
}

// unpackDisk makes a volume of what comes after a mark, to the end.
func (d *Driver) unpackDisk(ctx context.Context, mark, volume string, limit int64, r io.Reader) error {
	head := make([]byte, 8)
	if _, err := io.ReadFull(r, head); err != nil {
		return fault.Of(sparse.NoEOF(err), cannotUnpack)
	}
	size := binary.BigEndian.Uint64(head)
	switch {
	case mark != carryMark:
		return errors.New(errors.InvalidArgument, "this is no packed disk of a machine with a kernel of its own")
	case size > uint64(diskSize(limit)):
		return errors.New(errors.TooLarge, "the disk is larger than its machine could have it")
	}
	return d.cfg.Volumes.Fill(ctx, volume, int64(size)+diskSlack, func(dir string) error {
		err := unpackFile(ctx, filepath.Join(dir, diskFile), int64(size), r)
		if err == nil {
			err = sparse.End(r)
		}
		return fault.Of(err, cannotUnpack)
	})
}

// unpackFile makes a file of a size, which must not be there.
func unpackFile(ctx context.Context, path string, size int64, r io.Reader) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = sparse.Read(ctx, r, f, size, size)
	return err
}
