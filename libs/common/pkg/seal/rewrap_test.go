package seal_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/seal"
)

func keys(t *testing.T, k ...[]byte) *seal.Keys {
	t.Helper()
	ring, err := seal.NewKeys(k...)
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

func TestRewrap(t *testing.T) {
	t.Parallel()
	ctx, old, fresh := context.Background(), key(), key()
	var records [][]byte
	s := seal.NewReusing(keys(t, old), seal.Reuse{}) // they share a data key
	for range 3 {
		sealed, err := s.Seal(ctx, "p", []byte("v"))
		if err != nil {
			t.Fatal(err)
		}
		records = append(records, sealed)
	}
	both := &counted{Keyring: keys(t, fresh, old)}
	r, err := seal.NewRewrapper(ctx, both)
	if err != nil {
		t.Fatal(err)
	}
	for _, record := range records {
		again, err := r.Rewrap(ctx, record)
		if err != nil {
			t.Fatal(err)
		}
		if id, _ := seal.KeyID(again); id != r.Newest() || id != keys(t, fresh).IDs()[0] {
			t.Errorf("it is under %s", id)
		}
		if got, err := sealer(t, fresh).Open(ctx, "p", again); err != nil || string(got) != "v" {
			t.Errorf("with the new key alone: %q, %v", got, err)
		}
		if _, err := sealer(t, fresh).Open(ctx, "q", again); err == nil {
			t.Error("it opens in another place")
		}
		if same, err := r.Rewrap(ctx, again); err != nil || !bytes.Equal(same, again) {
			t.Errorf("twice is not once: %v", err)
		}
	}
	if wraps, opened := both.counts(); wraps != 2 || opened != 1 { // one wrap tells the newest key
		t.Errorf("%d wraps, %d unwraps for one data key", wraps, opened)
	}
	alone, err := seal.NewRewrapper(ctx, keys(t, fresh))
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range [][]byte{records[0], nil, {1, 9}, append(bytes.Clone(records[0][:30]), 7)} {
		if got, err := alone.Rewrap(ctx, bad); !errors.HasCode(err, errors.Internal) {
			t.Errorf("%x, %v", got, err)
		}
	}
	both.set(true)
	if _, err := seal.NewRewrapper(ctx, both); !errors.HasCode(err, errors.Unavailable) {
		t.Errorf("away: %v", err)
	}
}

// A key file gains and loses keys, and is never anything between.
func TestKeyFileChanges(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "seal.key")
	first, err := seal.LoadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	old := first.IDs()[0]
	both, err := seal.AddToFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if ids := both.IDs(); len(ids) != 2 || ids[1] != old || !both.Owns(old) || both.Owns("0123456789abcdef") {
		t.Fatalf("keys %v", ids)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	linked, err := seal.AddToFile(link)
	if err != nil || len(linked.IDs()) != 3 {
		t.Fatalf("by a link: %v, %v", linked, err)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is gone: %v", err)
	}
	if err := seal.RemoveFromFile(link, linked.IDs()[0]); err != nil {
		t.Fatal(err)
	}
	if err := seal.RemoveFromFile(path, "0123456789abcdef"); !errors.HasCode(err, errors.NotFound) {
		t.Errorf("a key that is not there: %v", err)
	}
	if err := seal.RemoveFromFile(path, old); err != nil {
		t.Fatal(err)
	}
	left, err := seal.LoadFile(path)
	if err != nil || len(left.IDs()) != 1 || left.IDs()[0] != both.IDs()[0] {
		t.Errorf("left: %v, %v", left.IDs(), err)
	}
	if err := seal.RemoveFromFile(path, left.IDs()[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the last key's file: %v", err)
	}
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 0 {
		t.Errorf("files are left: %v", entries)
	}
	if err := os.WriteFile(path, []byte(strings.Repeat("ab", 32)+"\nnonsense\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := seal.AddToFile(path); !errors.HasCode(err, errors.InvalidArgument) {
		t.Errorf("a damaged file is changed: %v", err)
	}
	if text, _ := os.ReadFile(path); !strings.HasSuffix(string(text), "nonsense\n") {
		t.Errorf("it is now %q", text)
	}
}

func TestJoin(t *testing.T) {
	t.Parallel()
	ctx, a, b := context.Background(), keys(t, key()), keys(t, key())
	ring := seal.Join(a, b)
	old, err := seal.New(b).Seal(ctx, "p", []byte("old"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := seal.New(ring).Open(ctx, "p", old); err != nil || string(got) != "old" {
		t.Errorf("%q, %v", got, err)
	}
	sealed, err := seal.New(ring).Seal(ctx, "p", []byte("new"))
	if id, _ := seal.KeyID(sealed); err != nil || id != a.IDs()[0] || !ring.Owns(id) || ring.Owns("else") {
		t.Errorf("sealed with %q, %v", id, err)
	}
	if _, err := seal.New(seal.Join(b)).Open(ctx, "p", sealed); !errors.HasCode(err, errors.Internal) {
		t.Errorf("a key of neither: %v", err)
	}
}
