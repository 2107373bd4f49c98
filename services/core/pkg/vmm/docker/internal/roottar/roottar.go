// Package roottar writes a root filesystem's directory as a tar stream with
// everything that belongs to it: owners by number, hard links, device nodes and
// extended attributes, file capabilities among them.
package roottar

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Write writes the tree below root, which nobody changes meanwhile. Sockets are
// left out: they are nothing without their process.
func Write(w io.Writer, root string) error {
	p := packer{tw: tar.NewWriter(w), root: root, seen: map[[2]uint64]string{}}
	if err := filepath.WalkDir(root, p.entry); err != nil {
		return err
	}
	return p.tw.Close()
}

type packer struct {
	tw   *tar.Writer
	root string
	seen map[[2]uint64]string // names of files with several links, by device and inode
}

func (p *packer) entry(path string, d fs.DirEntry, err error) error {
	if err != nil {
		return err
	}
	name, err := filepath.Rel(p.root, path)
	if err != nil {
		return err
	}
	info, err := d.Info()
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSocket != 0 {
		return nil
	}
	target := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		if target, err = os.Readlink(path); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	h.Name = name
	if d.IsDir() {
		h.Name += "/"
	}
	h.Format = tar.FormatPAX
	// By number alone: the names are of another world's accounts.
	h.Uname, h.Gname = "", ""
	h.AccessTime, h.ChangeTime = time.Time{}, time.Time{}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && info.Mode().IsRegular() && st.Nlink > 1 {
		key := [2]uint64{st.Dev, st.Ino}
		if first, again := p.seen[key]; again {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
			return p.tw.WriteHeader(h)
		}
		p.seen[key] = name
	}
	if h.PAXRecords, err = attributes(path); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := p.tw.WriteHeader(h); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if !info.Mode().IsRegular() {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if _, err := io.Copy(p.tw, f); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// attributes reads extended attributes in the form that tar programs agree on.
func attributes(path string) (map[string]string, error) {
	size, err := unix.Llistxattr(path, nil)
	if errors.Is(err, unix.ENOTSUP) || err == nil && size == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, os.NewSyscallError("llistxattr", err)
	}
	names := make([]byte, size)
	if size, err = unix.Llistxattr(path, names); err != nil {
		return nil, os.NewSyscallError("llistxattr", err)
	}
	records := map[string]string{}
	for name := range strings.SplitSeq(strings.Trim(string(names[:size]), "\x00"), "\x00") {
		// Labels are the host's policy, and what overlayfs notes is its own.
		if name == "security.selinux" || strings.HasPrefix(name, "trusted.") {
			continue
		}
		value := make([]byte, 64<<10) // XATTR_SIZE_MAX
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return nil, os.NewSyscallError("lgetxattr", err)
		}
		records["SCHILY.xattr."+name] = string(value[:n])
	}
	return records, nil
}
