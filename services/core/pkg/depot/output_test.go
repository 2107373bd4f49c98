package depot_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/seal"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/blob"
	"github.com/aetherium/aetherium/services/core/pkg/depot"
)

// What one host has stored another one reads, and nobody without its key.
func TestOutput(t *testing.T) {
	t.Parallel()
	inEach(t, testOutput)
}

func testOutput(t *testing.T, open func() blob.Store) {
	ctx, tmp := t.Context(), t.TempDir()
	one, other := depot.NewOutput(open(), tmp), depot.NewOutput(open(), tmp)
	content := bytes.Repeat([]byte("what a command wrote "), 100_000)
	key := seal.NewStreamKey()
	first, err := one.Send(ctx, key, "place", writes(content))
	must(t, err)
	again, err := one.Send(ctx, seal.NewStreamKey(), "place", writes(content))
	must(t, err)
	if first.Store != one.Name() || first.Bytes > int64(len(content))/10 || first.Digest == again.Digest {
		t.Errorf("%+v, %+v", first, again)
	}
	var got []byte
	read := func(r io.Reader) (err error) { got, err = io.ReadAll(r); return err }
	must(t, other.Fetch(ctx, first, key, "place", read))
	if !bytes.Equal(got, content) {
		t.Errorf("%d bytes of %d", len(got), len(content))
	}
	r, err := open().Get(ctx, blob.Digest(first.Digest))
	must(t, err)
	raw, err := io.ReadAll(r)
	must(t, err)
	if bytes.Contains(raw, content[:12]) || bytes.Contains(raw, []byte{0x28, 0xb5, 0x2f, 0xfd}) {
		t.Error("it is in the storage in clear")
	}
	refuse := func(p domain.Packed, key []byte, place string, code errors.Code) {
		t.Helper()
		if err := other.Fetch(ctx, p, key, place, read); !errors.HasCode(err, code) {
			t.Errorf("%v, not %s", err, code)
		}
	}
	refuse(again, key, "place", errors.PreconditionFailed)
	refuse(first, key, "another", errors.PreconditionFailed)
	elsewhere, longer, shorter := first, first, first
	elsewhere.Store, longer.Bytes, shorter.Bytes = "file:///else", first.Bytes+1, first.Bytes-1
	refuse(elsewhere, key, "place", errors.NotFound)
	refuse(longer, key, "place", errors.PreconditionFailed)
	refuse(shorter, key, "place", errors.PreconditionFailed)

	wrong := errors.New(errors.TooLarge, "too much")
	if _, err := one.Send(ctx, key, "place", func(io.Writer) error { return wrong }); !errors.Is(err, wrong) {
		t.Errorf("%v", err)
	}
	if err := other.Fetch(ctx, first, key, "place", func(io.Reader) error { return wrong }); !errors.Is(err, wrong) {
		t.Errorf("%v", err)
	}
	odd := errors.New(errors.InvalidArgument, "no journals")
	if err := other.Fetch(ctx, first, key, "place", func(io.Reader) error { return odd }); !errors.HasCode(err, errors.PreconditionFailed) {
		t.Errorf("%v", err)
	}
	stopped, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := one.Send(stopped, key, "place", writes(content)); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	if err := other.Fetch(stopped, first, key, "place", read); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}

	n, err := other.Collect(ctx, time.Now().Add(time.Minute), func(context.Context) (map[string]bool, error) {
		return map[string]bool{first.Digest: true}, nil
	})
	if err != nil || n != 1 {
		t.Errorf("%d were collected: %v", n, err)
	}
	refuse(again, key, "place", errors.NotFound)
	must(t, other.Fetch(ctx, first, key, "place", read))
	must(t, other.Drop(ctx, elsewhere))
	for range 2 {
		must(t, other.Drop(ctx, first))
	}
	refuse(first, key, "place", errors.NotFound)
	if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// What was changed in the storage is not read.
func TestOutputThatWasChanged(t *testing.T) {
	t.Parallel()
	shared, ctx := t.TempDir(), t.Context()
	blobs, err := blob.OpenDir(shared)
	must(t, err)
	o := depot.NewOutput(blobs, t.TempDir())
	key := seal.NewStreamKey()
	p, err := o.Send(ctx, key, "place", writes(bytes.Repeat([]byte("output"), 50_000)))
	must(t, err)
	digits := strings.TrimPrefix(p.Digest, "sha256:")
	name := filepath.Join(shared, digits[:2], digits)
	content, err := os.ReadFile(name)
	must(t, err)
	for what, b := range map[string][]byte{
		"a byte": append(append(bytes.Clone(content[:20]), content[20]^1), content[21:]...), "cut off": content[:len(content)-1], "longer": append(bytes.Clone(content), 0), "empty": nil,
	} {
		must(t, os.WriteFile(name, b, 0o600))
		err := o.Fetch(ctx, p, key, "place", func(io.Reader) error {
			t.Errorf("%s: it was unpacked", what)
			return nil
		})
		if !errors.HasCode(err, errors.PreconditionFailed) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// A host knows how much of its disk is missing.
func TestMissing(t *testing.T) {
	t.Parallel()
	if n, err := depot.Missing(t.TempDir()); err != nil || n < 0 {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := depot.Missing(filepath.Join(t.TempDir(), "absent")); err == nil {
		t.Error("of a directory that is not there")
	}
}
