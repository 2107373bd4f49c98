// Package unpack puts a tar stream from a VM, which may be hostile, below a
// local directory, and nothing outside of it.
//
// Three things keep it inside. Every file is made through an os.Root. No entry
// is made below a symbolic link, so a name's depth is its real depth. And a
// symbolic link is made only if it leads to somewhere below the directory,
// which that depth decides: a name may climb at its start only, because "x/.."
// climbs from wherever a link x leads. So nothing that is left behind leads
// outside either.
package unpack

import (
	"archive/tar"
	"context"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// Links says what becomes of symbolic links that lead outside.
type Links string

// What can become of them.
const (
	LinksRefuse Links = "refuse" // left out and told
	LinksKeep   Links = "keep"   // made as they are; nothing is ever written through them
)

// Options go with Extract.
type Options struct {
	Links Links
	// Refused is told of entries that were left out, with the reason; may be nil.
	Refused func(name, why string)
	// Strip removes so many leading elements from every name.
	Strip int
}

// Result counts what was done.
type Result struct {
	Files   int
	Bytes   int64
	Refused int
}

type extractor struct {
	Options
	ctx    context.Context
	root   *os.Root
	result Result
	dirs   []dirTimes // modes and times are set at the end: a read-only directory can't be filled
}

type dirTimes struct {
	name string
	mode fs.FileMode
	time time.Time
}

// Extract unpacks r below root. Names that are absolute or climb are an error
// (InvalidArgument), since no honest VM sends them; devices and links that
// lead outside are left out and counted.
func Extract(ctx context.Context, root *os.Root, r io.Reader, o Options) (Result, error) {
	x := &extractor{Options: o, ctx: ctx, root: root}
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return x.result, x.finish()
		}
		if err != nil {
			return x.result, streamError(ctx, err)
		}
		name, err := x.localName(h.Name)
		if err != nil {
			return x.result, err
		}
		if name == "" {
			continue
		}
		if err := x.entry(name, h, tr); err != nil {
			return x.result, err
		}
	}
}

func streamError(ctx context.Context, err error) error {
	var e *errors.Error
	switch {
	case ctx.Err() != nil:
		return errors.Public(context.Cause(ctx))
	case errors.As(err, &e):
		return err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return errors.Wrap(err, errors.Unavailable, "the tar stream broke off")
	}
	return errors.Wrap(err, errors.GuestFault, "the VM sent no proper tar stream: %s", err)
}

// localName checks a name and strips it; "" is the directory itself.
func (x *extractor) localName(name string) (string, error) {
	clean := path.Clean(name)
	switch {
	case len(name) >= domain.MaxPathBytes:
		return "", hostile("a name of %d bytes", len(name))
	case strings.HasPrefix(name, "/"), name == "", strings.ContainsRune(name, 0),
		slices.Contains(strings.Split(name, "/"), ".."):
		return "", hostile("the name %q, which leads outside", name)
	case clean == ".":
		return "", nil
	}
	parts := strings.Split(clean, "/")
	return path.Join(parts[min(x.Strip, len(parts)):]...), nil
}

func hostile(format string, args ...any) error {
	e := errors.New(errors.GuestFault, "the VM's tar stream holds "+format, args...)
	return e.WithHint("nothing was written outside the target; do not trust this VM")
}

func (x *extractor) entry(name string, h *tar.Header, r io.Reader) error {
	if err := x.parents(name); err != nil {
		return err
	}
	mode := fs.FileMode(h.Mode) & fs.ModePerm // setuid, setgid and sticky stay behind
	switch h.Typeflag {
	case tar.TypeDir:
		return x.dir(name, mode, h.ModTime)
	case tar.TypeReg:
		return x.file(name, mode, h, r)
	case tar.TypeSymlink:
		return x.symlink(name, h.Linkname)
	case tar.TypeLink:
		return x.hardLink(name, h.Linkname)
	case tar.TypeXGlobalHeader:
		return nil
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		x.refuse(name, "a device or pipe")
		return nil
	}
	x.refuse(name, "an entry of an unknown kind")
	return nil
}

func (x *extractor) refuse(name, why string) {
	x.result.Refused++
	if x.Refused != nil {
		x.Refused(name, why)
	}
}

// parents makes the directories above name, and makes sure that they are
// directories and not links.
func (x *extractor) parents(name string) error {
	for i, c := range name {
		if c != '/' {
			continue
		}
		dir := name[:i]
		info, err := x.root.Lstat(dir)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			if err := x.root.Mkdir(dir, 0o777); err != nil {
				return local(err, dir)
			}
		case err != nil:
			return local(err, dir)
		case info.Mode()&fs.ModeSymlink != 0:
			return errors.New(errors.Conflict, "%q would be written through the symbolic link %q", name, dir).
				WithHint("remove the link, or copy to another place")
		case !info.IsDir():
			return errors.New(errors.Conflict, "%q is in the way: it is no directory", dir)
		}
	}
	return nil
}

func (x *extractor) dir(name string, mode fs.FileMode, mtime time.Time) error {
	err := x.root.Mkdir(name, 0o700|mode)
	if errors.Is(err, fs.ErrExist) {
		info, e := x.root.Lstat(name)
		if e != nil {
			return local(e, name)
		}
		if !info.IsDir() {
			return errors.New(errors.Conflict, "%q is in the way: it is no directory", name)
		}
		return nil // one that was there before stays as it is
	}
	x.dirs = append(x.dirs, dirTimes{name, mode, mtime})
	return local(err, name)
}

// finish sets what directories get last, innermost first.
func (x *extractor) finish() error {
	for _, d := range slices.Backward(x.dirs) {
		if d.mode&0o700 != 0o700 {
			// The umask has already taken what it takes from the other bits.
			info, err := x.root.Lstat(d.name)
			if err != nil {
				return local(err, d.name)
			}
			if err := x.root.Chmod(d.name, info.Mode().Perm()&(d.mode|0o077)); err != nil {
				return local(err, d.name)
			}
		}
		if err := x.root.Chtimes(d.name, d.time, d.time); err != nil {
			return local(err, d.name)
		}
	}
	return nil
}

// clear makes room for something that is not a directory. What is there is
// unlinked, never written to: it may be a link, or have other names.
func (x *extractor) clear(name string) error {
	info, err := x.root.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return local(err, name)
	case info.IsDir():
		return errors.New(errors.Conflict, "%q is in the way: it is a directory", name)
	}
	return local(x.root.Remove(name), name)
}

func (x *extractor) file(name string, mode fs.FileMode, h *tar.Header, r io.Reader) error {
	if err := x.clear(name); err != nil {
		return err
	}
	f, err := x.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600|mode)
	if err != nil {
		return local(err, name)
	}
	n, err := io.Copy(f, ctxReader{x.ctx, r})
	x.result.Bytes += n
	if err != nil {
		_ = f.Close()
		_ = x.root.Remove(name) // half a file is worse than none
		var pe *fs.PathError
		if errors.As(err, &pe) {
			return local(err, name)
		}
		return streamError(x.ctx, err)
	}
	if mode&0o600 != 0o600 {
		if info, e := f.Stat(); e == nil {
			err = f.Chmod(info.Mode().Perm() & (mode | 0o077))
		}
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = x.root.Chtimes(name, h.ModTime, h.ModTime)
	}
	x.result.Files++
	return local(err, name)
}

func (x *extractor) symlink(name, target string) error {
	if !inside(name, target) {
		if x.Links != LinksKeep {
			x.refuse(name, "a link that leads outside")
			return nil
		}
	}
	if err := x.clear(name); err != nil {
		return err
	}
	x.result.Files++
	return local(x.root.Symlink(target, name), name)
}

// inside reports whether a link at name leads below the directory: it climbs
// at most to the directory, and only before it descends.
func inside(name, target string) bool {
	if target == "" || strings.HasPrefix(target, "/") {
		return false
	}
	up, descending := 0, false
	for part := range strings.SplitSeq(target, "/") {
		switch {
		case part == "" || part == ".":
		case part == ".." && descending:
			return false
		case part == "..":
			up++
		default:
			descending = true
		}
	}
	return up <= strings.Count(name, "/")
}

// hardLink links to a regular file below the directory: a hard link to a
// symbolic link would move it to another depth.
func (x *extractor) hardLink(name, target string) error {
	old, err := x.localName(target)
	if err != nil {
		return err
	}
	if err := x.parents(old); err != nil {
		return err
	}
	if info, err := x.root.Lstat(old); err != nil || !info.Mode().IsRegular() {
		x.refuse(name, "a hard link to what is no file here")
		return nil //nolint:nilerr // it is left out and counted
	}
	if old == name {
		return nil
	}
	if err := x.clear(name); err != nil {
		return err
	}
	x.result.Files++
	return local(x.root.Link(old, name), name)
}

// local makes an error of a failed local call; nil stays nil.
func local(err error, name string) error {
	if err == nil {
		return nil
	}
	cause := err
	var pe *fs.PathError
	var le *os.LinkError
	switch {
	case errors.As(err, &pe):
		cause = pe.Err
	case errors.As(err, &le):
		cause = le.Err
	}
	code := errors.Internal
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		code = errors.NoSpace
	case errors.Is(err, fs.ErrPermission):
		code = errors.PermissionDenied
	}
	return errors.Wrap(err, code, "%q cannot be written: %s", name, cause)
}

// ctxReader ends when ctx does.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c ctxReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
