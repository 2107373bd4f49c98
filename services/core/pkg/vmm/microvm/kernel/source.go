package kernel

import (
	"os"
	"path/filepath"
	"slices"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// Source is where a kernel comes from.
type Source struct {
	Image   string // a bzImage, or a vmlinux (ELF)
	Modules string // the directory of its modules; empty: all that guests need is built in
}

// noKernel tells how to get one.
const noKernel = "`kernel install` of aetherium-standalone fetches Debian's kernel for virtual machines into the data directory that it is given; microvm.kernel names another place"

// Find finds the kernel in a directory that a kernel package was unpacked to,
// or FetchDebian filled: boot/vmlinuz-* and lib/modules/*, the newest of each
// by name. Returns NotFound.
func Find(dir string) (Source, error) {
	var images []string
	for _, pattern := range []string{"boot/vmlinuz-*", "boot/vmlinux-*", "vmlinuz", "vmlinux"} {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return Source{}, errors.Wrap(err, errors.InvalidArgument, "%q cannot be searched for a kernel", dir)
		}
		if images = append(images, found...); len(images) > 0 {
			break
		}
	}
	if len(images) == 0 {
		return Source{}, errors.New(errors.NotFound, "there is no kernel in %s", dir).WithHint(noKernel)
	}
	s := Source{Image: slices.Max(images)}
	for _, parent := range []string{"lib/modules", "usr/lib/modules"} {
		version := filepath.Base(s.Image)
		if len(version) > len("vmlinuz-") {
			version = version[len("vmlinuz-"):]
		}
		path := filepath.Join(dir, parent, version)
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			s.Modules = path
			break
		}
	}
	return s, nil
}
