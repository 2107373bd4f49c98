package image_test

import (
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/image"
)

func TestLabBase(t *testing.T) {
	s := open(t, image.Config{Dir: "/tmp/lab/image/store2"})
	at := time.Now()
	step := func(n string) { t.Logf("%s %v", n, time.Since(at)); at = time.Now() }
	r, err := s.BuildBase(t.Context(), "base", nil)
	if err != nil {
		t.Fatal(err)
	}
	step("base")
	if _, err := s.BuildBase(t.Context(), "base", nil); err != nil {
		t.Fatal(err)
	}
	step("again")
	if err := s.Verify(t.Context(), "base"); err != nil {
		t.Fatal(err)
	}
	step("verify")
	c, err := s.Build(t.Context(), "copy", domain.TemplateSource{Dir: r.RootFS}, nil)
	if err != nil || c.Digest != r.Digest {
		t.Fatal(c, err)
	}
	step("copy dir")
	_ = s.Delete(t.Context(), "copy")
	step("delete")
	t.Log(r.Bytes, r.Entries)
}
