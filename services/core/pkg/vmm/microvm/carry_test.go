package microvm_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// A disk that comes from elsewhere is no larger than its machine's could be.
func TestCarriedDisksAreBounded(t *testing.T) {
	t.Parallel()
	l, s := newLab(t), spec("one")
	l.boot(s)
	_, err := l.Snapshot(t.Context(), "one", "kept", domain.SnapshotDisk)
	must(t, err)
	var packed bytes.Buffer
	must(t, l.PackSnapshot(t.Context(), "kept", &packed))
	const head = len("aetherium-disk-1\n")
	size := binary.BigEndian.Uint64(packed.Bytes()[head:])
	unpack := func(limit int64) error {
		return l.UnpackSnapshot(t.Context(), "fetched", limit, bytes.NewReader(packed.Bytes()))
	}
	code(t, unpack(s.Resources.DiskBytes/2), errors.TooLarge)
	for _, wrong := range []uint64{1 << 63, 1 << 50} {
		binary.BigEndian.PutUint64(packed.Bytes()[head:], wrong)
		code(t, unpack(0), errors.TooLarge)
	}
	binary.BigEndian.PutUint64(packed.Bytes()[head:], size-4096)
	code(t, unpack(s.Resources.DiskBytes), errors.InvalidArgument)
	binary.BigEndian.PutUint64(packed.Bytes()[head:], size)
	must(t, unpack(s.Resources.DiskBytes))

	s.MachineID, s.DiskFrom = "two", "fetched"
	l.boot(s)
	for _, id := range []string{"", "../kept", "a/b"} {
		code(t, l.PackSnapshot(t.Context(), id, io.Discard), errors.InvalidArgument)
		code(t, l.UnpackSnapshot(t.Context(), id, 0, &packed), errors.InvalidArgument)
	}
	must(t, l.DeleteSnapshot(t.Context(), "kept"))
	must(t, l.DeleteSnapshot(t.Context(), "fetched"))
}
