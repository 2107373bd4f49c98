// Package untar unpacks archives that strangers made into a directory of the
// host: names and links stay below it, device nodes are left out, and sizes
// and counts are bounded.
package untar

import (
	"context"
	"io"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/image/internal/tree"
	"github.com/aetherium/aetherium/services/core/pkg/image/internal/unpack"
)

// Limits bounds what an archive may unpack to.
type Limits = unpack.Limits

// Size is what an archive unpacked to.
type Size struct{ Bytes, Entries int64 }

// Into unpacks a tar into an empty directory that nobody else writes to.
// Everything in it is this process's own. note gets a line for each kind of
// thing that was left out. Returns InvalidArgument for a damaged or hostile
// archive, TooLarge, NoSpace, and r's own error.
func Into(ctx context.Context, dir string, r io.Reader, limits Limits, note func(string)) (Size, error) {
	t, err := tree.Open(dir)
	if err != nil {
		return Size{}, errors.Wrap(err, errors.Internal, "the directory to unpack into cannot be opened")
	}
	defer func() { _ = t.Close() }()
	u := unpack.New(t, limits, false, note)
	err = u.Tar(ctx, r)
	return Size{Bytes: u.Bytes(), Entries: u.Entries()}, err
}
