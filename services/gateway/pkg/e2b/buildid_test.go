package e2b

import (
	"regexp"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

var uuidForm = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-8[0-9a-f]{3}-[0-9a-f]{12}$`)

func TestBuildIDs(t *testing.T) {
	t.Parallel()
	ids := []domain.ID{domain.ID(strings.Repeat("a", 20)), domain.ID(strings.Repeat("9", 20)), domain.ID("a" + strings.Repeat("9", 19))}
	for range 1000 {
		ids = append(ids, domain.NewID())
	}
	for _, id := range ids {
		text := buildID(id)
		if !uuidForm.MatchString(text) {
			t.Fatalf("%s is written as %s", id, text)
		}
		if back := fromBuildID(text); back != id.String() {
			t.Fatalf("%s is written as %s, which is read as %s", id, text, back)
		}
	}
	for _, other := range []string{
		"", "base", "base:v1", string(domain.NewID()), strings.Repeat("-", 36), "ffffffff-ffff-8fff-800f-ffffffff0000",
		"00000000-0000-4000-8000-000000000000", "00000000-0000-8000-8000-000000000001", "0000000g-0000-8000-8000-000000000000", "-0000000-0000-8000-8000-000000000000",
	} {
		if got := fromBuildID(other); got != other {
			t.Errorf("%q is read as %q", other, got)
		}
	}
}
