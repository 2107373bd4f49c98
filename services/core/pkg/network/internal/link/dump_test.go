package link

import (
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

func TestWhole(t *testing.T) {
	t.Parallel()
	broken := errors.Plain("broken")
	for name, tc := range map[string]struct {
		interrupted int
		err         error
		want        int // dumps
		wantErr     error
	}{
		"at once":                 {0, nil, 1, nil},
		"after others' changes":   {3, nil, 4, nil},
		"never":                   {maxDumps, nil, maxDumps, netlink.ErrDumpInterrupted},
		"an error":                {0, broken, 1, broken},
		"an error after a change": {1, broken, 2, broken},
	} {
		dumps := 0
		got, err := whole(func() (int, error) {
			if dumps++; dumps <= tc.interrupted {
				return -1, netlink.ErrDumpInterrupted
			}
			return 7, tc.err
		})
		if dumps != tc.want || !errors.Is(err, tc.wantErr) || err == nil && got != 7 {
			t.Errorf("%s: %d after %d dumps, %v", name, got, dumps, err)
		}
	}
}
