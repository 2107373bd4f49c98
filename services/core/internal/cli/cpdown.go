package cli

import (
	"context"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/cli/unpack"
)

// maxToldRefusals bounds how many left-out entries are named.
const maxToldRefusals = 10

// down copies out of a VM.
func (c *copier) down(ctx context.Context, src place, dst string) error {
	kind, size, exists, err := c.stat(ctx, src)
	if err != nil {
		return err
	}
	if !exists {
		return noSource(src)
	}
	info, err := os.Stat(dst)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return localError(err)
	}
	toDir := err == nil && info.IsDir()
	switch {
	case kind == "dir":
		return c.downTree(ctx, src, dst, toDir)
	case toDir:
		name, err := remoteBase(src.path)
		if err != nil {
			return err
		}
		dst = filepath.Join(dst, name)
	case strings.HasSuffix(dst, "/"):
		return noDirectory(dst)
	}
	p := c.progress(path.Base(src.path), size)
	defer p.done()
	return replaceFile(dst, func(f *os.File) error {
		_, err := c.c.ReadFile(ctx, c.file(src), p.writer(f))
		return err
	})
}

func noDirectory(dir string) error {
	return errors.New(errors.NotFound, "there is no directory %s", dir).WithHint("mkdir -p %s", dir)
}

// remoteBase is the name that a VM's path has here.
func remoteBase(p string) (string, error) {
	name := path.Base(path.Clean(p))
	if name == "." || name == ".." || name == "/" || strings.ContainsAny(name, "\x00") || !filepath.IsLocal(name) {
		return "", errors.New(errors.InvalidArgument, "%s names no file", p)
	}
	return name, nil
}

// replaceFile replaces a file as a whole, so that a broken copy leaves the old
// one. What is no regular file (a terminal, /dev/null, a pipe) is written to.
func replaceFile(name string, fill func(*os.File) error) error {
	if real, err := filepath.EvalSymlinks(name); err == nil {
		name = real // through the user's own link, as cp does
	}
	mode := fs.FileMode(0o666)
	if info, err := os.Stat(name); err == nil {
		if !info.Mode().IsRegular() {
			f, err := os.OpenFile(name, os.O_WRONLY, 0)
			if err != nil {
				return localError(err)
			}
			return errors.Join(fill(f), f.Close())
		}
		mode = info.Mode().Perm()
	}
	f, err := createBeside(name, mode)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return noDirectory(filepath.Dir(name))
	case err != nil:
		// The temporary file's name would tell the user nothing.
		var pe *fs.PathError
		if errors.As(err, &pe) {
			pe.Path = name
		}
		return localError(err)
	}
	temp := f.Name()
	if err = fill(f); err == nil {
		err = f.Close()
	} else {
		_ = f.Close()
	}
	if err == nil {
		err = os.Rename(temp, name)
	}
	if err != nil {
		_ = os.Remove(temp)
		return localError(err)
	}
	return nil
}

// createBeside makes a temporary file with the mode that the file itself is
// to have, which os.CreateTemp does not offer: the umask applies.
func createBeside(name string, mode fs.FileMode) (*os.File, error) {
	dir, base := filepath.Split(name)
	for i := 0; ; i++ {
		temp := "." + base[:min(len(base), 200)] + "." + strconv.FormatUint(rand.Uint64(), 36)
		f, err := os.OpenFile(filepath.Join(dir, temp), os.O_CREATE|os.O_EXCL|os.O_RDWR, mode)
		if !errors.Is(err, fs.ErrExist) || i == 100 {
			return f, err
		}
	}
}

// downTree copies a directory tree out of a VM.
func (c *copier) downTree(ctx context.Context, src place, dst string, toDir bool) error {
	if err := c.noTree(src.path); err != nil {
		return err
	}
	if toDir && !isContent(src.path) {
		name, err := remoteBase(src.path)
		if err != nil {
			return err
		}
		dst = filepath.Join(dst, name)
	}
	r, err := c.c.ReadTar(ctx, c.file(src))
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	if err := os.MkdirAll(dst, 0o777); err != nil {
		return localError(err)
	}
	root, err := os.OpenRoot(dst)
	if err != nil {
		return localError(err)
	}
	defer func() { _ = root.Close() }()
	p := c.progress(path.Base(src.path), -1)
	defer p.done()
	told := 0
	result, err := unpack.Extract(ctx, root, p.reader(r), unpack.Options{
		Links: unpack.Links(c.links),
		Refused: func(name, why string) {
			if told++; told <= maxToldRefusals {
				p.done()
				c.say("%s is left out: %s", name, why)
			}
		},
	})
	if err != nil {
		return err
	}
	if result.Refused > 0 {
		return errors.New(errors.PermissionDenied, "%s from the VM left out, %s copied", count(result.Refused, "entry", "entries"), count(result.Files, "file", "files")).
			WithHint("--links keep makes links that lead outside; devices and pipes are never made")
	}
	return nil
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + many
}
