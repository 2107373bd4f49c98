package upper

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/sparse"
)

const (
	mark = "aetherium-upper-1\n"

	// maxEntry bounds an entry without its content: its extended attributes.
	maxEntry = 1 << 20
	// maxDepth bounds how deep directories are nested: each level is a descriptor.
	maxDepth = 256
	// maxPath bounds a name below the top, so that files with several names are found.
	maxPath = 3072
	maxName = 255
	// maxEntries bounds how many there are, in which no disk's size is a bound.
	maxEntries = 2 << 20
	// maxShared bounds the names, in bytes, of what has several, which are kept in memory.
	maxShared = 64 << 20
	// maxID is the highest ID of a guest.
	maxID = 65535
)

// entry is a file, directory, link, pipe or whiteout.
type entry struct {
	Depth  int    `json:"depth"` // 0: the top
	Name   []byte `json:"name,omitempty"`
	Mode   uint32 `json:"mode"` // with its kind
	UID    uint32 `json:"uid,omitempty"`
	GID    uint32 `json:"gid,omitempty"`
	Sec    int64  `json:"sec"` // when it was modified
	Nsec   int64  `json:"nsec,omitempty"`
	Size   int64  `json:"size,omitempty"`
	Target []byte `json:"target,omitempty"` // of a symbolic link
	Attrs  []attr `json:"attrs,omitempty"`
	// Inode numbers what has several names, from 1 on; of those after the first
	// there is no more than their name, and the number as Same.
	Inode int `json:"inode,omitempty"`
	Same  int `json:"same,omitempty"`
}

// attr is an extended attribute.
type attr struct {
	Name  string `json:"name"`
	Value []byte `json:"value"`
}

func (e *entry) kind() uint32 { return e.Mode & unix.S_IFMT }

// check says why an entry cannot be one.
func (e *entry) check() error {
	bad := func(what string) error {
		return errors.New(errors.InvalidArgument, "an entry has %s", what)
	}
	switch name := string(e.Name); {
	case e.Depth < 0 || e.Depth > maxDepth:
		return errors.New(errors.TooLarge, "directories are nested deeper than %d", maxDepth)
	case (e.Depth == 0) != (name == ""):
		return bad("no place")
	case len(name) > maxName || name == "." || name == ".." || strings.ContainsAny(name, "/\x00"):
		return bad("a name that is none")
	case e.UID > maxID || e.GID > maxID:
		return bad("an owner that no guest has")
	case e.Size < 0 || e.Nsec < 0 || e.Nsec >= 1e9:
		return bad("a size or a time that cannot be")
	case e.Mode&^(unix.S_IFMT|0o7777) != 0:
		return bad("a mode that cannot be")
	}
	if e.Same != 0 {
		if e.Depth == 0 || e.Mode != 0 || e.Size != 0 || e.Inode != 0 || len(e.Target)+len(e.Attrs) > 0 {
			return bad("more than a name of what was there before")
		}
		return nil
	}
	switch kind := e.kind(); {
	case e.Depth == 0 && kind != unix.S_IFDIR:
		return bad("a top that is no directory")
	case kind != unix.S_IFREG && e.Size != 0, kind != unix.S_IFLNK && len(e.Target) > 0, kind == unix.S_IFDIR && e.Inode != 0:
		return bad("what its kind has not")
	case kind != unix.S_IFREG && kind != unix.S_IFDIR && len(e.Attrs) > 0:
		return bad("attributes that its kind has not")
	case kind == unix.S_IFLNK && (len(e.Target) == 0 || len(e.Target) >= unix.PathMax || bytes.IndexByte(e.Target, 0) >= 0):
		return bad("a target that is none")
	}
	switch e.kind() {
	case unix.S_IFREG, unix.S_IFDIR, unix.S_IFLNK, unix.S_IFIFO, unix.S_IFCHR: // a whiteout is device 0/0
	default:
		return bad("a kind that is not carried")
	}
	for _, a := range e.Attrs {
		if !carried(a.Name, a.Value) {
			return bad("an attribute that is not carried")
		}
	}
	return nil
}

// carried tells which extended attributes go to other hosts: those that a guest
// can set, and of overlayfs's own, which are instructions to the host's kernel,
// those that say what a directory covers of the template. What overlayfs notes of
// the files below, by their handles on this host, it does without.
func carried(name string, value []byte) bool {
	switch name {
	case "trusted.overlay.opaque":
		return string(value) == "y"
	case "trusted.overlay.redirect":
		return redirects(string(value))
	case "security.capability":
		return capability(value)
	case "system.posix_acl_access", "system.posix_acl_default":
		return true // the kernel looks
	}
	return strings.HasPrefix(name, "user.") && len(name) <= maxName && !strings.Contains(name, "\x00")
}

// redirects reports whether a directory has the content of another one of the
// template: one beside it, or one by its path from the top.
func redirects(to string) bool {
	if len(to) == 0 || len(to) >= unix.PathMax || strings.Contains(to, "\x00") {
		return false
	}
	if to[0] == '/' {
		return to != "/" && path.Clean(to) == to
	}
	return to != "." && to != ".." && !strings.Contains(to, "/")
}

// capability reports whether a value is one of revision 2 or 3
// (capabilities(7)), the latter with an ID of a guest as its root.
func capability(value []byte) bool {
	const size2, size3, root = 20, 24, 20
	switch len(value) {
	case size2:
		return value[3] == 2
	case size3:
		return value[3] == 3 && binary.LittleEndian.Uint32(value[root:]) <= maxID
	}
	return false
}

func (e *entry) write(w io.Writer) error {
	if err := e.check(); err != nil {
		return err
	}
	raw, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if len(raw) > maxEntry {
		return errors.New(errors.TooLarge, "a file has more than %d bytes of attributes", maxEntry)
	}
	if _, err := w.Write(binary.BigEndian.AppendUint32(nil, uint32(len(raw)))); err != nil {
		return err
	}
	_, err = w.Write(raw)
	return err
}

// readEntry reads the next; nil: there is none.
func readEntry(r io.Reader) (*entry, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, sparse.NoEOF(err)
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 {
		return nil, nil
	}
	if n > maxEntry {
		return nil, errors.New(errors.TooLarge, "an entry has more than %d bytes", maxEntry)
	}
	raw := make([]byte, n)
	if _, err := io.ReadFull(r, raw); err != nil {
		return nil, sparse.NoEOF(err)
	}
	e := new(entry)
	if err := json.Unmarshal(raw, e); err != nil {
		return nil, errors.Wrap(err, errors.InvalidArgument, "an entry cannot be read")
	}
	return e, e.check()
}
