package image_test

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/image"
)

func TestDerive(t *testing.T) {
	t.Parallel()
	needRoot(t)
	ctx := t.Context()
	s := open(t, image.Config{})
	base, err := s.BuildTar(ctx, "base", bytes.NewReader(rootTar(t)), nil)
	if err != nil {
		t.Fatal(err)
	}
	src := domain.TemplateSource{Steps: "FROM base\nENV A=1\n"}
	d := image.Derived{Base: "base", Env: map[string]string{"PATH": "/x", "A": "1"}, WorkDir: "/srv", User: "app"}
	r, err := s.Derive(ctx, "one", src, d, nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.Env["A"] != "1" || r.Env["PATH"] != "/x" || r.WorkDir != "/srv" || r.User != "app" || r.Source.Steps != src.Steps {
		t.Errorf("%+v", r)
	}
	if b, err := os.ReadFile(filepath.Join(r.RootFS, "data/file")); err != nil || string(b) != "#!data/file" {
		t.Errorf("%q, %v", b, err)
	}
	// A changed tree, with owners to be translated.
	tree := filepath.Join(t.TempDir(), "tree")
	for _, err := range []error{
		os.MkdirAll(filepath.Join(tree, "etc"), 0o755), os.WriteFile(filepath.Join(tree, "new"), []byte("n"), 0o644),
		os.Chown(filepath.Join(tree, "new"), 101007, 101007),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	d.Tree = &image.Tree{Dir: tree, Upper: tree, ID: func(id uint32) uint32 {
		if id >= 100000 {
			return id - 100000
		}
		return id
	}}
	two, err := s.Derive(ctx, "two", src, d, nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(filepath.Dir(two.RootFS), "manifest"))
	if err != nil || !strings.Contains(string(text), "f 0644 1007 1007 1 ") {
		t.Errorf("%v\n%s", err, text)
	}
	if err := s.Delete(ctx, "base"); err != nil {
		t.Fatal(err)
	}
	// What they share lives as long as one of them.
	if err := s.Verify(ctx, "one"); err != nil {
		t.Error(err)
	}
	if _, err := s.Derive(ctx, "three", src, d, nil); !errors.HasCode(err, errors.NotFound) {
		t.Errorf("of a base that is gone: %v", err)
	}
	if base.Digest == two.Digest {
		t.Error("other content has the same digest")
	}
}

func TestPullOncePerDigest(t *testing.T) {
	t.Parallel()
	needRoot(t)
	ctx := t.Context()
	host := serve(t, nil)
	push(t, host+"/a:v1", imageOf(t, runtime.GOARCH, v1.Config{Env: []string{"X=1"}}, layer(t, entry{name: "one", content: "1"})))
	s := open(t, image.Config{})
	first, err := s.Pull(ctx, host+"/a:v1", image.Access{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	again, err := s.Pull(ctx, host+"/a:v1", image.Access{}, nil)
	if err != nil || again.ID != first.ID || !again.CreatedAt.Equal(first.CreatedAt) || first.Env["X"] != "1" {
		t.Errorf("%+v, %v", again, err)
	}
	push(t, host+"/a:v1", imageOf(t, runtime.GOARCH, v1.Config{}, layer(t, entry{name: "two", content: "2"})))
	moved, err := s.Pull(ctx, host+"/a:v1", image.Access{}, nil)
	if err != nil || moved.ID == first.ID {
		t.Errorf("a reference that moved: %+v, %v", moved, err)
	}
	list, err := s.Pulled(ctx)
	if err != nil || len(list) != 2 || list[0].ID != first.ID {
		t.Errorf("%v, %v", list, err)
	}
	for _, ref := range []string{host + "/none:v1", "not a reference"} {
		if _, err := s.Pull(ctx, ref, image.Access{}, nil); !errors.HasCode(err, errors.NotFound) && !errors.HasCode(err, errors.InvalidArgument) {
			t.Errorf("%s: %v", ref, err)
		}
	}
}

func TestScratch(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := open(t, image.Config{})
	r, err := s.Scratch(t.Context(), nil)
	if err != nil || r.Bytes > 10_000 {
		t.Fatalf("%+v, %v", r, err)
	}
	if again, err := s.Scratch(t.Context(), nil); err != nil || again.Digest != r.Digest {
		t.Errorf("%v", err)
	}
}
