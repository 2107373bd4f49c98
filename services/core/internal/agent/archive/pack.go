package archive

import (
	"archive/tar"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/bulk"
	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/agent/fsys"
	"github.com/aetherium/aetherium/services/core/internal/agent/osuser"
)

// Packer writes one archive.
type Packer struct {
	user  *osuser.User
	path  string
	root  *os.File // what path leads to
	count int
	tw    *tar.Writer
	seen  map[[2]uint64]string // names of files with several links, by device and inode
}

// NewPacker opens what path leads to, so that what is wrong with it is known
// before the first byte. Returns NotFound, PermissionDenied, InvalidArgument
// for what is neither a regular file nor a directory.
func NewPacker(u *osuser.User, path string) (*Packer, error) {
	p := &Packer{user: u, path: path, seen: map[[2]uint64]string{}}
	err := osuser.Do(u, func() (err error) {
		p.root, err = os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
		return err
	})
	if err != nil {
		return nil, fsys.Error(err, path)
	}
	info, err := p.root.Stat()
	if err == nil && !info.Mode().IsRegular() && !info.IsDir() {
		err = errors.New(errors.InvalidArgument, "%q is neither a file nor a directory", path)
	}
	if err != nil {
		_ = p.root.Close()
		return nil, fsys.Error(err, path)
	}
	return p, nil
}

// Close lets go of the tree.
func (p *Packer) Close() error { return p.root.Close() }

// Pack writes the archive. A file is one entry of its base name. A directory is the entry
// "./" followed by what is in it, in lexical order, named relative to it. Files
// that grow meanwhile are cut, those that shrink are filled up with zeros, as
// tar does; those that vanish are left out. Returns PermissionDenied for what
// the user may not read, TooLarge beyond the package's bounds; the archive then
// lacks its end.
func (p *Packer) Pack(w io.Writer) error {
	p.tw = tar.NewWriter(w)
	info, err := p.root.Stat()
	if err != nil {
		return fsys.Error(err, p.path)
	}
	if info.IsDir() {
		if err := p.header(p.root, "./", ""); err != nil {
			return err
		}
		err = p.dir(p.root, "", 1)
	} else {
		err = p.file(p.root, filepath.Base(p.path))
	}
	if err != nil {
		return err
	}
	return p.tw.Close()
}

// dir packs what is in an open directory.
func (p *Packer) dir(d *os.File, prefix string, depth int) error {
	if depth > MaxDepth {
		return errors.New(errors.TooLarge, "%q is more than %d directories deep", prefix, MaxDepth)
	}
	names, err := d.Readdirnames(MaxEntries + 1 - p.count)
	if err != nil && !errors.Is(err, io.EOF) {
		return fsys.Error(err, path.Join(p.path, prefix))
	}
	slices.Sort(names)
	for _, name := range names {
		if err := p.entry(d, name, path.Join(prefix, name), depth); err != nil {
			return err
		}
	}
	return nil
}

// entry packs one name of a directory. It is opened relative to the open
// directory and without following links: a tree that changes meanwhile leads nowhere else.
func (p *Packer) entry(d *os.File, name, rel string, depth int) error {
	if p.count++; p.count > MaxEntries {
		return errors.New(errors.TooLarge, "the tree has more than %d entries", MaxEntries)
	}
	if len(rel) >= MaxName {
		return errors.New(errors.TooLarge, "a path below %q is longer than %d bytes", p.path, MaxName)
	}
	var (
		st   unix.Stat_t
		f    *os.File
		link string
	)
	dirfd := int(d.Fd())
	err := osuser.Do(p.user, func() error {
		if err := unix.Fstatat(dirfd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFLNK:
			buf := make([]byte, MaxName)
			n, err := unix.Readlinkat(dirfd, name, buf)
			link = string(buf[:max(n, 0)])
			return err
		case unix.S_IFREG, unix.S_IFDIR:
			fd, err := unix.Openat(dirfd, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
			if err == nil {
				f = os.NewFile(uintptr(fd), rel)
			}
			return err
		}
		return nil
	})
	if f != nil {
		defer func() { _ = f.Close() }()
	}
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil
	case err != nil:
		return fsys.Error(err, path.Join(p.path, rel))
	case link != "":
		return p.tw.WriteHeader(&tar.Header{
			Typeflag: tar.TypeSymlink, Name: rel, Linkname: link, Mode: 0o777,
			ModTime: time.Unix(st.Mtim.Unix()), Format: tar.FormatPAX,
		})
	case f == nil:
		return nil
	}
	info, err := f.Stat()
	switch {
	case err != nil:
		return fsys.Error(err, path.Join(p.path, rel))
	case info.IsDir():
		if err := p.header(f, rel+"/", ""); err != nil {
			return err
		}
		return p.dir(f, rel, depth+1)
	case info.Mode().IsRegular():
		return p.file(f, rel)
	}
	return nil // swapped for a device or pipe since it was looked at
}

// file packs an open regular file.
func (p *Packer) file(f *os.File, rel string) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fsys.Error(err, rel)
	}
	if st.Nlink > 1 {
		key := [2]uint64{st.Dev, st.Ino}
		if first, ok := p.seen[key]; ok {
			return p.header(f, rel, first)
		}
		p.seen[key] = rel
	}
	if err := p.header(f, rel, ""); err != nil {
		return err
	}
	n, err := bulk.Copy(p.tw, io.LimitReader(f, st.Size))
	if err != nil {
		return fsys.Error(err, path.Join(p.path, rel))
	}
	_, err = io.CopyN(p.tw, zeros{}, st.Size-n)
	return err
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// header writes an open file's or directory's header, as a hard link to an
// earlier entry if link names one.
func (p *Packer) header(f *os.File, name, link string) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fsys.Error(err, name)
	}
	h := &tar.Header{
		Typeflag: tar.TypeReg, Name: name, Mode: int64(st.Mode & 0o7777), Size: st.Size,
		ModTime: time.Unix(st.Mtim.Unix()), Format: tar.FormatPAX,
	}
	switch {
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		h.Typeflag, h.Size = tar.TypeDir, 0
	case link != "":
		h.Typeflag, h.Size, h.Linkname = tar.TypeLink, 0, link
	}
	if link == "" {
		h.PAXRecords = xattrs(int(f.Fd()))
	}
	if err := p.tw.WriteHeader(h); err != nil {
		if errors.Is(err, tar.ErrHeader) || errors.Is(err, tar.ErrFieldTooLong) {
			return errors.New(errors.InvalidArgument, "%q cannot be packed: %s", name, err)
		}
		return fmt.Errorf("write archive: %w", err)
	}
	return nil
}

// xattrs reads the attributes user.* as PAX records. A file system without any
// has none; a value with NUL does not fit a PAX record (archive/tar) and stays behind.
func xattrs(fd int) map[string]string {
	list := make([]byte, maxXattrBytes)
	n, err := unix.Flistxattr(fd, list)
	if err != nil || n == 0 {
		return nil
	}
	var records map[string]string
	for name := range strings.SplitSeq(string(list[:n]), "\x00") {
		if !strings.HasPrefix(name, xattrPrefix) || len(records) == maxXattrs {
			continue
		}
		value := make([]byte, maxXattrBytes)
		n, err := unix.Fgetxattr(fd, name, value)
		if err != nil || strings.Contains(name, "=") || slices.Contains(value[:n], 0) {
			continue
		}
		if records == nil {
			records = map[string]string{}
		}
		records[xattrRecord+name] = string(value[:n])
	}
	return records
}
