package oci

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// shifter moves every ID in a tree from one range to another: owners, and the
// IDs within access lists (acl(5)) and capabilities (capabilities(7), version
// 3). IDs outside of the old range stay. It follows no link: the tree may be a
// guest's.
type shifter struct {
	ctx      context.Context
	from, to uint32
	count    uint32
	seen     map[uint64]bool // files with several names
}

func (s *shifter) shift(id uint32) uint32 {
	if id >= s.from && id-s.from < s.count {
		return id - s.from + s.to
	}
	return id
}

func (s *shifter) tree(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	dir := os.NewFile(uintptr(fd), path)
	defer dir.Close()
	if err := s.children(dir); err != nil {
		return err
	}
	return s.entry(dir, ".")
}

func (s *shifter) children(dir *os.File) error {
	if err := s.ctx.Err(); err != nil {
		return err
	}
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			fd, err := unix.Openat(int(dir.Fd()), e.Name(), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			sub := os.NewFile(uintptr(fd), e.Name())
			err = s.children(sub)
			sub.Close()
			if err != nil {
				return err
			}
		}
		if err := s.entry(dir, e.Name()); err != nil {
			return fmt.Errorf("%s: %w", e.Name(), err)
		}
	}
	return nil
}

// entry moves one file. Changing an owner drops the set-ID bits and
// capabilities, so those are put back.
func (s *shifter) entry(dir *os.File, name string) error {
	at := int(dir.Fd())
	var st unix.Stat_t
	if err := unix.Fstatat(at, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	kind := st.Mode & unix.S_IFMT
	if kind != unix.S_IFDIR && st.Nlink > 1 {
		if s.seen[st.Ino] {
			return nil
		}
		s.seen[st.Ino] = true
	}
	path := fmt.Sprintf("/proc/self/fd/%d/%s", at, name)
	var attrs map[string][]byte
	if kind == unix.S_IFREG || kind == unix.S_IFDIR {
		var err error
		if attrs, err = s.attributes(path); err != nil {
			return err
		}
	}
	uid, gid := s.shift(st.Uid), s.shift(st.Gid)
	if uid != st.Uid || gid != st.Gid {
		if err := unix.Fchownat(at, name, int(uid), int(gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		if st.Mode&(unix.S_ISUID|unix.S_ISGID) != 0 && kind == unix.S_IFREG {
			if err := unix.Fchmodat(at, name, st.Mode&0o7777, 0); err != nil {
				return err
			}
		}
	}
	for attr, value := range attrs {
		if err := unix.Lsetxattr(path, attr, value, 0); err != nil {
			return err
		}
	}
	return nil
}

// attributes reads the extended attributes that hold IDs or go away with the
// owner, with their IDs moved.
func (s *shifter) attributes(path string) (map[string][]byte, error) {
	attrs := map[string][]byte{}
	for name, move := range map[string]func([]byte){
		"security.capability":      s.capability,
		"system.posix_acl_access":  s.accessList,
		"system.posix_acl_default": s.accessList,
	} {
		buf := make([]byte, 64<<10) // XATTR_SIZE_MAX
		switch n, err := unix.Lgetxattr(path, name, buf); err {
		case nil:
			move(buf[:n])
			attrs[name] = buf[:n]
		case unix.ENODATA, unix.EOPNOTSUPP:
		default:
			return nil, err
		}
	}
	return attrs, nil
}

// capability moves the root ID at the end of struct vfs_ns_cap_data; version 2 has none.
func (s *shifter) capability(value []byte) {
	const version3Size, rootAt = 24, 20
	if len(value) == version3Size {
		binary.LittleEndian.PutUint32(value[rootAt:], s.shift(binary.LittleEndian.Uint32(value[rootAt:])))
	}
}

// accessList moves the IDs of named users and groups: a header of four bytes,
// then entries of tag, permissions and ID (linux/posix_acl_xattr.h).
func (s *shifter) accessList(value []byte) {
	const header, entry, namedUser, namedGroup = 4, 8, 0x02, 0x08
	for at := header; at+entry <= len(value); at += entry {
		if tag := binary.LittleEndian.Uint16(value[at:]); tag == namedUser || tag == namedGroup {
			id := value[at+4:]
			binary.LittleEndian.PutUint32(id, s.shift(binary.LittleEndian.Uint32(id)))
		}
	}
}
