package upper

import (
	"bytes"
	"context"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/sparse"
)

// Pack writes a directory that nobody writes to, the same bytes each time.
// Sockets are left out: nobody listens any more. Returns TooLarge.
func Pack(ctx context.Context, w io.Writer, dir string) error {
	top, err := openDir(unix.AT_FDCWD, dir)
	if err != nil {
		return err
	}
	defer top.Close()
	p := packer{ctx: ctx, w: w, inodes: map[uint64]int{}, link: make([]byte, unix.PathMax), list: make([]byte, xattrMax), value: make([]byte, xattrMax)}
	if _, err := io.WriteString(w, mark); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(top.Fd()), &st); err != nil {
		return failed("stat", dir, err)
	}
	if err := p.directory(top, "", &st, 0, 0); err != nil {
		return err
	}
	_, err = w.Write(make([]byte, 4))
	return err
}

// xattrMax is the most that a list of extended attributes or the value of one
// has (XATTR_LIST_MAX, XATTR_SIZE_MAX).
const xattrMax = 64 << 10

type packer struct {
	ctx     context.Context
	w       io.Writer
	inodes  map[uint64]int // what has several names, by its inode
	shared  int            // bytes of their names
	entries int

	link, list, value []byte
}

func openDir(at int, name string) (*os.File, error) {
	fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, failed("open", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

func failed(op, name string, err error) error { return &os.PathError{Op: op, Path: name, Err: err} }

// describe is what an entry's status tells.
func describe(name string, depth int, st *unix.Stat_t) *entry {
	e := &entry{Depth: depth, Name: []byte(name), Mode: st.Mode, UID: st.Uid, GID: st.Gid, Sec: st.Mtim.Sec, Nsec: st.Mtim.Nsec}
	if e.kind() == unix.S_IFREG {
		e.Size = st.Size
	}
	return e
}

// directory writes an open directory and what is in it. length is that of its
// name below the top.
func (p *packer) directory(dir *os.File, name string, st *unix.Stat_t, depth, length int) error {
	e := describe(name, depth, st)
	var err error
	if e.Attrs, err = p.attributes(dir); err != nil {
		return err
	}
	if err := p.put(e); err != nil {
		return err
	}
	names, err := dir.Readdirnames(maxEntries) // where there are more, there are too many
	if err != nil && err != io.EOF {           //nolint:errorlint // as it is told
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		at := length + 1 + len(name)
		if at > maxPath {
			return errors.New(errors.TooLarge, "a name below the top has more than %d bytes", maxPath)
		}
		if err := p.child(dir, name, depth+1, at); err != nil {
			return err
		}
	}
	return nil
}

func (p *packer) put(e *entry) error {
	if err := p.ctx.Err(); err != nil {
		return err
	}
	if p.entries++; p.entries > maxEntries {
		return tooMany()
	}
	return e.write(p.w)
}

func tooMany() error { return errors.New(errors.TooLarge, "there are more than %d files", maxEntries) }

func (p *packer) child(dir *os.File, name string, depth, length int) error {
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return failed("stat", name, err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		sub, err := openDir(int(dir.Fd()), name)
		if err != nil {
			return err
		}
		defer sub.Close()
		return p.directory(sub, name, &st, depth, length)
	}
	e := describe(name, depth, &st)
	if e.kind() == unix.S_IFSOCK {
		return nil
	}
	if st.Nlink > 1 {
		if first, known := p.inodes[st.Ino]; known {
			return p.put(&entry{Depth: depth, Name: e.Name, Same: first})
		}
		if p.shared += len(name); p.shared > maxShared {
			return tooMany()
		}
		e.Inode = len(p.inodes) + 1
		p.inodes[st.Ino] = e.Inode
	}
	switch e.kind() {
	case unix.S_IFREG:
		return p.file(dir, e)
	case unix.S_IFLNK:
		n, err := unix.Readlinkat(int(dir.Fd()), name, p.link)
		if err != nil {
			return failed("readlink", name, err)
		}
		e.Target = p.link[:n]
	case unix.S_IFCHR, unix.S_IFBLK:
		if st.Rdev != 0 || e.kind() == unix.S_IFBLK {
			return errors.New(errors.PreconditionFailed, "a device is among the machine's files")
		}
	}
	return p.put(e)
}

func (p *packer) file(dir *os.File, e *entry) error {
	fd, err := unix.Openat(int(dir.Fd()), string(e.Name), unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return failed("open", string(e.Name), err)
	}
	f := os.NewFile(uintptr(fd), string(e.Name))
	defer f.Close()
	if e.Attrs, err = p.attributes(f); err != nil {
		return err
	}
	if err := p.put(e); err != nil {
		return err
	}
	return sparse.Write(p.ctx, p.w, f, e.Size)
}

// attributes reads the extended attributes that are carried.
func (p *packer) attributes(f *os.File) (attrs []attr, _ error) {
	n, err := unix.Flistxattr(int(f.Fd()), p.list)
	if err != nil {
		return nil, failed("listxattr", f.Name(), err)
	}
	names := strings.Split(string(bytes.TrimRight(p.list[:n], "\x00")), "\x00")
	slices.Sort(names)
	for total := 0; len(names) > 0; names = names[1:] {
		if names[0] == "" {
			continue
		}
		n, err := unix.Fgetxattr(int(f.Fd()), names[0], p.value)
		if err != nil {
			return nil, failed("getxattr", f.Name(), err)
		}
		if !carried(names[0], p.value[:n]) {
			continue
		}
		if total += n; total > maxEntry {
			return nil, errors.New(errors.TooLarge, "a file has more than %d bytes of attributes", maxEntry)
		}
		attrs = append(attrs, attr{names[0], bytes.Clone(p.value[:n])})
	}
	return attrs, nil
}
