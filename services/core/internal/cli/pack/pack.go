// Package pack makes a tar stream of a local directory tree.
package pack

import (
	"archive/tar"
	"context"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// Options go with Tree.
type Options struct {
	// Prefix is put before every name; empty: names are relative to the tree.
	Prefix string
	// Skip says what is left out without a word; for a directory, with all that
	// is in it. Names are relative to the tree. May be nil.
	Skip func(name string, isDir bool) bool
	// Skipped is told of what has no place in a tar, such as sockets; may be nil.
	Skipped func(name, why string)
}

// Size sums up what Tree will send: the bytes of the regular files. It is for
// a progress bar, so what cannot be read counts nothing.
func Size(dir string) (bytes int64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return fs.SkipDir
		}
		if info, err := d.Info(); err == nil && info.Mode().IsRegular() {
			bytes += info.Size()
		}
		return nil
	})
	return bytes
}

// Tree writes a tar (PAX) of a directory tree. Symbolic links are stored, not
// followed; names are opened through an os.Root, so that a tree that changes
// meanwhile cannot make it read elsewhere. Owners are left to the receiver.
func Tree(ctx context.Context, w io.Writer, dir string, o Options) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	tw := tar.NewWriter(w)
	err = fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		if o.Skip != nil && name != "." && o.Skip(name, d.IsDir()) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		return add(tw, root, name, d, o)
	})
	if err != nil {
		return err
	}
	return tw.Close()
}

func add(tw *tar.Writer, root *os.Root, name string, d fs.DirEntry, o Options) error {
	info, err := d.Info()
	if errors.Is(err, fs.ErrNotExist) {
		return nil // removed since it was listed
	}
	if err != nil {
		return err
	}
	link := ""
	switch {
	case info.Mode().IsRegular(), info.IsDir():
	case info.Mode()&fs.ModeSymlink != 0:
		if link, err = root.Readlink(name); err != nil {
			return err
		}
	default:
		if o.Skipped != nil {
			o.Skipped(name, "it is a socket, pipe or device")
		}
		return nil
	}
	if !info.Mode().IsRegular() {
		return header(tw, info, link, path.Join(o.Prefix, name))
	}
	f, err := root.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if info, err = f.Stat(); err != nil { // of what was opened: the size in the header must be its own
		return err
	}
	if err := header(tw, info, "", path.Join(o.Prefix, name)); err != nil {
		return err
	}
	n, err := io.Copy(tw, io.LimitReader(f, info.Size()))
	if err == nil && n < info.Size() {
		return errors.New(errors.Conflict, "%s became shorter while it was copied", name).WithHint("copy it again")
	}
	return err
}

func header(tw *tar.Writer, info fs.FileInfo, link, name string) error {
	h, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return err
	}
	if h.Name = name; info.IsDir() {
		h.Name += "/"
	}
	h.Format = tar.FormatPAX
	h.Uid, h.Gid, h.Uname, h.Gname = 0, 0, "", ""
	return tw.WriteHeader(h)
}
