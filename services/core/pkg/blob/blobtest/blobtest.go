// Package blobtest is what every store of blobs must do.
package blobtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/blob"
)

// Subject is a store to be tested.
type Subject struct {
	Open func(t *testing.T) blob.Store // an empty one
	// Damage has the store in question give other content of a blob, of the same length.
	Damage func(t *testing.T, d blob.Digest, content []byte)
}

// Run tests a store.
func Run(t *testing.T, s Subject) {
	for name, test := range map[string]func(*testing.T, Subject){
		"Kept": kept, "Large": large, "Wrong": wrong, "Damaged": damaged, "Canceled": canceled, "AtOnce": atOnce, "NoDigest": noDigest,
	} {
		t.Run(name, func(t *testing.T) { test(t, s) })
	}
}

// Of gives content's digest.
func Of(content []byte) blob.Digest {
	h := sha256.New()
	h.Write(content)
	return blob.DigestOf(h)
}

func put(ctx context.Context, s blob.Store, content []byte) error {
	return s.Put(ctx, Of(content), int64(len(content)), bytes.NewReader(content))
}

func get(ctx context.Context, s blob.Store, d blob.Digest) ([]byte, error) {
	r, err := s.Get(ctx, d)
	if err != nil {
		return nil, err
	}
	content, err := io.ReadAll(r)
	return content, errors.Join(err, r.Close())
}

func list(t *testing.T, s blob.Store) map[blob.Digest]blob.Info {
	t.Helper()
	all := map[blob.Digest]blob.Info{}
	if err := s.List(t.Context(), func(i blob.Info) error { all[i.Digest] = i; return nil }); err != nil {
		t.Fatal(err)
	}
	return all
}

func kept(t *testing.T, subject Subject) {
	s, ctx, content := subject.Open(t), t.Context(), []byte("content")
	d := Of(content)
	if _, err := get(ctx, s, d); !errors.HasCode(err, errors.NotFound) {
		t.Errorf("before: %v", err)
	}
	for range 2 {
		if err := put(ctx, s, content); err != nil {
			t.Fatal(err)
		}
		if got, err := get(ctx, s, d); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%q, %v", got, err)
		}
	}
	if err := put(ctx, s, []byte("other")); err != nil {
		t.Fatal(err)
	}
	all := list(t, s)
	if i := all[d]; len(all) != 2 || i.Bytes != int64(len(content)) || time.Since(i.Written).Abs() > time.Hour {
		t.Errorf("%+v", all)
	}
	stop := errors.New(errors.Canceled, "enough")
	seen := 0
	if err := s.List(ctx, func(blob.Info) error { seen++; return stop }); !errors.Is(err, stop) || seen != 1 {
		t.Errorf("%d listed, %v", seen, err)
	}
	for range 2 {
		if err := s.Delete(ctx, d); err != nil {
			t.Fatal(err)
		}
		if _, err := get(ctx, s, d); !errors.HasCode(err, errors.NotFound) {
			t.Errorf("deleted: %v", err)
		}
	}
	if all := list(t, s); len(all) != 1 {
		t.Errorf("%+v", all)
	}
	if s.Name() == "" {
		t.Error("it has no name")
	}
}

// What is sent in several parts comes back whole.
func large(t *testing.T, subject Subject) {
	s := subject.Open(t)
	content := make([]byte, 40<<20)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(content)
	// By a reader that gives little at a time and can do nothing else.
	err := s.Put(t.Context(), Of(content), int64(len(content)), iotest.HalfReader(bytes.NewReader(content)))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := get(t.Context(), s, Of(content)); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// Nothing is kept of what is not what it is said to be.
func wrong(t *testing.T, subject Subject) {
	s, ctx := subject.Open(t), t.Context()
	long := bytes.Repeat([]byte("x"), 20<<20)
	for name, c := range map[string]struct {
		content []byte
		bytes   int64
		reader  io.Reader
	}{
		"other content": {[]byte("content"), 7, strings.NewReader("c0ntent")},
		"too short":     {[]byte("content"), 7, strings.NewReader("conten")},
		"nothing":       {nil, 0, strings.NewReader("")},
		"fewer bytes":   {[]byte("content"), 9, strings.NewReader("content")},
		"a late fault":  {long, int64(len(long)), io.MultiReader(bytes.NewReader(long[1:]), strings.NewReader("y"))},
	} {
		if err := s.Put(ctx, Of(c.content), c.bytes, c.reader); !errors.HasCode(err, errors.InvalidArgument) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := get(ctx, s, Of(c.content)); !errors.HasCode(err, errors.NotFound) {
			t.Errorf("%s is kept: %v", name, err)
		}
	}
	broken := errors.New(errors.Internal, "broken")
	if err := s.Put(ctx, Of(long), int64(len(long)), io.MultiReader(bytes.NewReader(long[1:]), iotest.ErrReader(broken))); !errors.Is(err, broken) {
		t.Errorf("a reader's own error: %v", err)
	}
	if all := list(t, s); len(all) != 0 {
		t.Errorf("%+v", all)
	}
}

func damaged(t *testing.T, subject Subject) {
	s, content := subject.Open(t), []byte("content")
	if err := put(t.Context(), s, content); err != nil {
		t.Fatal(err)
	}
	subject.Damage(t, Of(content), []byte("c0ntent"))
	if got, err := get(t.Context(), s, Of(content)); !errors.HasCode(err, errors.PreconditionFailed) {
		t.Errorf("%q, %v", got, err)
	}
	if err := put(t.Context(), s, content); err != nil {
		t.Fatal(err)
	}
	if got, err := get(t.Context(), s, Of(content)); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%q, %v", got, err)
	}
}

func canceled(t *testing.T, subject Subject) {
	s, content := subject.Open(t), []byte("content")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := put(ctx, s, content); !errors.Is(err, context.Canceled) {
		t.Errorf("put: %v", err)
	}
	if err := put(t.Context(), s, content); err != nil {
		t.Fatal(err)
	}
	if _, err := get(ctx, s, Of(content)); !errors.Is(err, context.Canceled) {
		t.Errorf("get: %v", err)
	}
	if err := s.List(ctx, func(blob.Info) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("list: %v", err)
	}
}

// Several that write, read and list the same and other blobs.
func atOnce(t *testing.T, subject Subject) {
	s, ctx := subject.Open(t), t.Context()
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			content := fmt.Appendf(nil, "content %d", i/2)
			if err := put(ctx, s, content); err != nil {
				t.Error(err)
			}
			if got, err := get(ctx, s, Of(content)); err != nil || !bytes.Equal(got, content) {
				t.Errorf("%q, %v", got, err)
			}
			if err := s.List(ctx, func(blob.Info) error { return nil }); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if all := list(t, s); len(all) != 4 {
		t.Errorf("%+v", all)
	}
}

func noDigest(t *testing.T, subject Subject) {
	s, ctx := subject.Open(t), t.Context()
	for _, d := range []blob.Digest{"", "sha256:", "sha256:../../x", "md5:0", blob.Digest(strings.ToUpper(string(Of(nil))))} {
		_, err := s.Get(ctx, d)
		for _, err := range []error{err, s.Put(ctx, d, 1, strings.NewReader("x")), s.Delete(ctx, d)} {
			if !errors.HasCode(err, errors.InvalidArgument) {
				t.Errorf("%q: %v", d, err)
			}
		}
	}
}
