package kernel

import (
	"cmp"
	"os"
	"path/filepath"
	"slices"
	"strings"

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
// or FetchDebian filled: boot/vmlinuz-* or boot/vmlinux-*, of several the newest
// by its name, else vmlinuz or vmlinux, and the modules of its release in
// lib/modules or usr/lib/modules. Returns NotFound.
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
	s := Source{Image: slices.MaxFunc(images, byVersion)}
	var parents []string
	for _, parent := range []string{"lib/modules", "usr/lib/modules"} {
		if parent = filepath.Join(dir, parent); isDir(parent) {
			parents = append(parents, parent)
		}
	}
	if len(parents) == 0 {
		return s, nil
	}
	if _, release, ok := strings.Cut(filepath.Base(s.Image), "-"); ok {
		if s.Modules = modulesOf(release, parents); s.Modules != "" {
			return s, nil
		}
	}
	// Its name does not tell. An image that cannot be read, or is none, Build refuses.
	if image, err := os.ReadFile(s.Image); err == nil {
		if release, err := version(image); err == nil {
			s.Modules = modulesOf(release, parents)
		}
	}
	return s, nil
}

// modulesOf is the directory of a release's modules; empty: there is none.
func modulesOf(release string, parents []string) string {
	for _, parent := range parents {
		if path := filepath.Join(parent, release); isDir(path) {
			return path
		}
	}
	return ""
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// byVersion compares versions part by part, those of digits as numbers: 6.1.0-10 is
// newer than 6.1.0-9.
func byVersion(a, b string) int {
	for a != "" && b != "" {
		var x, y string
		x, a = part(a)
		y, b = part(b)
		c := strings.Compare(x, y)
		if isDigit(x[0]) && isDigit(y[0]) {
			x, y = strings.TrimLeft(x, "0"), strings.TrimLeft(y, "0")
			c = cmp.Or(cmp.Compare(len(x), len(y)), strings.Compare(x, y))
		}
		if c != 0 {
			return c
		}
	}
	return cmp.Compare(len(a), len(b))
}

// part parts the digits, or what is none, that text begins with from the rest.
func part(text string) (first, rest string) {
	end := strings.IndexFunc(text, func(r rune) bool { return (r >= '0' && r <= '9') != isDigit(text[0]) })
	if end < 0 {
		end = len(text)
	}
	return text[:end], text[end:]
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }
