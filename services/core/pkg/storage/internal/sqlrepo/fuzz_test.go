package sqlrepo

import (
	"testing"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// A cursor that a client sends is one that a list gave, or it is refused.
func FuzzCursor(f *testing.F) {
	f.Add(cursor{order: vmm.NewestFirst, at: 1, id: "abcdefghijklmnopqrst"}.String())
	f.Add("")
	f.Add("MS4uLg")
	f.Add("!")
	f.Fuzz(func(t *testing.T, s string) {
		for _, order := range []vmm.Order{vmm.NewestFirst, vmm.OldestFirst} {
			c, err := parseCursor(s, order)
			if err != nil {
				continue
			}
			if !domain.IsID(string(c.id)) || c.order != order {
				t.Errorf("%q is %+v", s, c)
			}
			if again, err := parseCursor(c.String(), order); err != nil || again != c {
				t.Errorf("%+v is %+v, %v", c, again, err)
			}
		}
	})
}
