package seal_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/seal"
)

func key() []byte {
	k := make([]byte, 32)
	_, _ = rand.Read(k)
	return k
}

func sealer(t testing.TB, keys ...[]byte) seal.Sealer {
	t.Helper()
	ring, err := seal.NewKeys(keys...)
	if err != nil {
		t.Fatal(err)
	}
	return seal.New(ring)
}

func TestRoundTripAndBinding(t *testing.T) {
	t.Parallel()
	ctx, s := context.Background(), sealer(t, key())
	for _, plain := range [][]byte{nil, []byte("x"), bytes.Repeat([]byte("secret"), 10000)} {
		sealed, err := s.Seal(ctx, "vms/1/env", plain)
		if err != nil {
			t.Fatal(err)
		}
		if len(plain) > 1 && bytes.Contains(sealed, plain[:6]) {
			t.Fatal("the plaintext shows")
		}
		got, err := s.Open(ctx, "vms/1/env", sealed)
		if err != nil || !bytes.Equal(got, plain) {
			t.Fatalf("%v, %v", got, err)
		}
		if _, err := s.Open(ctx, "vms/2/env", sealed); err == nil {
			t.Fatal("opens in another place")
		}
		for i := range min(len(sealed), 200) {
			bad := bytes.Clone(sealed)
			bad[i] ^= 1
			if got, err := s.Open(ctx, "vms/1/env", bad); err == nil {
				t.Fatalf("byte %d changed and it opens: %q", i, got)
			}
		}
	}
}

func TestRotation(t *testing.T) {
	t.Parallel()
	ctx, old, fresh := context.Background(), key(), key()
	sealed, err := sealer(t, old).Seal(ctx, "p", []byte("v"))
	if err != nil {
		t.Fatal(err)
	}
	both := sealer(t, fresh, old)
	if got, err := both.Open(ctx, "p", sealed); err != nil || string(got) != "v" {
		t.Fatalf("old records do not open: %q, %v", got, err)
	}
	renewed, err := both.Seal(ctx, "p", []byte("v"))
	if err != nil {
		t.Fatal(err)
	}
	a, _ := seal.KeyID(sealed)
	if b, ok := seal.KeyID(renewed); !ok || a == b {
		t.Fatal("the newest key does not seal")
	}
	if _, err := sealer(t, fresh).Open(ctx, "p", sealed); err == nil {
		t.Fatal("opens without its key")
	}
}

func TestKeyFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "key")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := seal.LoadFile(path); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v %v", info.Mode(), err)
	}
	ring, err := seal.LoadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := seal.New(ring).Seal(context.Background(), "p", []byte("v"))
	if err != nil {
		t.Fatal(err)
	}
	again, err := seal.LoadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := seal.New(again).Open(context.Background(), "p", sealed); err != nil || string(got) != "v" {
		t.Fatalf("%q, %v", got, err)
	}
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 1 {
		t.Errorf("files are left beside the key: %v", entries)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := seal.LoadFile(path); !errors.HasCode(err, errors.InvalidArgument) {
		t.Errorf("a key that others can read: %v", err)
	}
	if _, err := seal.Parse(strings.Repeat("zz", 32)); !errors.HasCode(err, errors.InvalidArgument) {
		t.Errorf("not hexadecimal: %v", err)
	}
}

func FuzzOpen(f *testing.F) {
	s := sealer(f, bytes.Repeat([]byte{7}, 32))
	sealed, _ := s.Seal(context.Background(), "p", []byte("v"))
	f.Add(sealed)
	f.Add([]byte{})
	f.Add([]byte{1, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := s.Open(context.Background(), "p", b); err == nil && string(got) != "v" {
			t.Fatalf("forged: %q", got)
		}
	})
}
