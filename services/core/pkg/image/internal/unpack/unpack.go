// Package unpack applies root filesystem archives and OCI image layers to a
// tree. Archives come from strangers: names and links are confined to the
// tree, device nodes are left out, and counts and sizes are bounded.
//
// Layers follow the OCI image specification's "Image Layer Filesystem
// Changeset" (whiteouts ".wh.<name>" and opaque directories ".wh..wh..opq").
package unpack

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/image/internal/tree"
)

const (
	whiteoutPrefix = ".wh."
	whiteoutOpaque = ".wh..wh..opq"
	whiteoutMeta   = ".wh..wh." // other names that AUFS kept for itself

	// maxID is the highest user and group ID that a VM's ID range has.
	maxID  = 65535
	nobody = 65534

	capabilityXattr = "security.capability"
	paxXattr        = "SCHILY.xattr."
)

// Limits bounds what an archive may unpack to, all layers together.
type Limits struct {
	Bytes   int64 // content of files, as their sizes say
	Entries int64
}

// Unpacker applies archives to one tree, one after another. Not safe for
// concurrent use.
type Unpacker struct {
	tree   *tree.Tree
	limits Limits
	// keepOwner is off for unprivileged processes, which cannot give files away.
	keepOwner bool
	note      func(string)

	bytes, entries, raw int64
	notes               map[string]int
	buf                 []byte

	// Of the layer at hand:
	mine  map[string]struct{} // real paths that it made: its opaque markers spare them
	times []dirTime           // directories' times, set when their content is there
}

type dirTime struct {
	name string
	ns   int64
}

// New makes an unpacker. Without keepOwner, owners and capabilities are not
// kept. note gets a line for each kind of thing that was changed or left out.
func New(t *tree.Tree, limits Limits, keepOwner bool, note func(string)) *Unpacker {
	return &Unpacker{tree: t, limits: limits, keepOwner: keepOwner, note: note, notes: map[string]int{}, buf: make([]byte, 256<<10)}
}

// Bytes and Entries tell how much was unpacked so far.
func (u *Unpacker) Bytes() int64 { return u.bytes }

// Entries tells how many entries were read so far.
func (u *Unpacker) Entries() int64 { return u.entries }

// Tar unpacks a root filesystem archive: whiteout names mean nothing in it.
// Returns InvalidArgument for a damaged or hostile archive, TooLarge, NoSpace.
func (u *Unpacker) Tar(ctx context.Context, r io.Reader) error { return u.apply(ctx, r, false) }

// Layer applies an image layer on top of what is there.
// Returns InvalidArgument for a damaged or hostile layer, TooLarge, NoSpace.
func (u *Unpacker) Layer(ctx context.Context, r io.Reader) error { return u.apply(ctx, r, true) }

func (u *Unpacker) apply(ctx context.Context, r io.Reader, layer bool) error {
	u.mine, u.times = map[string]struct{}{}, nil
	in := &boundedReader{ctx: ctx, r: r, u: u}
	tr := tar.NewReader(in)
	for {
		hdr, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return blame(err, "the archive is damaged")
		}
		if u.entries++; u.entries > u.limits.Entries {
			return errors.New(errors.TooLarge, "the archive has more than %d entries", u.limits.Entries)
		}
		if err := u.entry(hdr, tr, layer); err != nil {
			return blame(err, "the entry %q cannot be unpacked", clip(hdr.Name))
		}
	}
	// To the very end, so that checksums behind the archive's end mark are checked.
	if _, err := io.CopyBuffer(io.Discard, in, u.buf); err != nil {
		return blame(err, "the archive is damaged")
	}
	for _, d := range u.times {
		dir, err := u.tree.Dir(d.name)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
			continue // replaced later in the same archive
		}
		if err == nil {
			err = dir.SetTime(d.ns)
		}
		if err != nil {
			return blame(err, "the time of %q cannot be set", clip(d.name))
		}
	}
	return nil
}

func (u *Unpacker) entry(hdr *tar.Header, content io.Reader, layer bool) error {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := tree.Clean(hdr.Name)
	if err != nil {
		return err
	}
	if layer && strings.HasPrefix(path.Base(name), whiteoutPrefix) {
		return u.whiteout(name)
	}
	if name == "" { // the top itself: only its attributes
		if hdr.Typeflag != tar.TypeDir {
			return errors.New(errors.InvalidArgument, "the archive's root is not a directory")
		}
		d, err := u.tree.Dir("")
		if err != nil {
			return err
		}
		u.times = append(u.times, dirTime{"", hdr.ModTime.UnixNano()})
		return d.SetAttr(".", u.attr(hdr))
	}
	switch hdr.Typeflag {
	case tar.TypeReg, tar.TypeRegA, tar.TypeGNUSparse, tar.TypeDir, tar.TypeSymlink, tar.TypeLink, tar.TypeFifo: //nolint:staticcheck // old archives have TypeRegA
	case tar.TypeChar, tar.TypeBlock:
		u.remark("device nodes are left out, such as /%s", name)
		return nil
	default:
		u.remark("entries of unknown types are left out, such as /%s", name)
		return nil
	}
	if hdr.Typeflag == tar.TypeLink {
		return u.hardLink(hdr, name)
	}
	d, base, err := u.tree.Parent(name)
	if err != nil {
		return err
	}
	replaced, err := u.makeRoom(d, base, hdr.Typeflag == tar.TypeDir)
	if err != nil {
		return err
	}
	switch hdr.Typeflag {
	case tar.TypeDir:
		if replaced != keptDir {
			err = d.Mkdir(base)
		}
		u.times = append(u.times, dirTime{name, hdr.ModTime.UnixNano()})
	case tar.TypeSymlink:
		if hdr.Linkname == "" || len(hdr.Linkname) > unix.PathMax-1 {
			return errors.New(errors.InvalidArgument, "the link's target is empty or too long (%d bytes)", len(hdr.Linkname))
		}
		err = d.Symlink(hdr.Linkname, base)
	case tar.TypeFifo:
		err = d.Mkfifo(base)
	default:
		err = u.file(d, base, hdr.Size, content)
	}
	if err == nil {
		err = d.SetAttr(base, u.attr(hdr))
	}
	u.own(path.Join(d.Path, base))
	if replaced == replacedPath {
		u.tree.Changed()
	}
	return err
}

type room int

const (
	wasFree room = iota
	keptDir
	replacedPath // a directory or link went away: paths may mean something new
)

// makeRoom removes what is in an entry's way; a directory makes way for
// everything but a directory.
func (u *Unpacker) makeRoom(d tree.Dir, base string, isDir bool) (room, error) {
	st, err := d.Lstat(base)
	if errors.Is(err, fs.ErrNotExist) {
		return wasFree, nil
	}
	if err != nil {
		return wasFree, err
	}
	kind := st.Mode & unix.S_IFMT
	if kind == unix.S_IFDIR && isDir {
		return keptDir, nil
	}
	if err := u.tree.Remove(d, base); err != nil {
		return wasFree, err
	}
	if kind == unix.S_IFDIR || kind == unix.S_IFLNK {
		return replacedPath, nil
	}
	return wasFree, nil
}

func (u *Unpacker) file(d tree.Dir, base string, size int64, content io.Reader) error {
	if size > u.limits.Bytes-u.bytes { // before a sparse file's terabytes are written
		return errors.New(errors.TooLarge, "the content exceeds the limit of %d bytes", u.limits.Bytes)
	}
	u.bytes += size
	f, err := d.Create(base)
	if err != nil {
		return err
	}
	// Hide ReadFrom and WriteTo, so that our buffer is used.
	n, err := io.CopyBuffer(holes{f}, struct{ io.Reader }{content}, u.buf)
	if err == nil {
		err = f.Truncate(n) // it may end with a hole
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil && n != size {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// holes leaves zeros out that a file has many of.
type holes struct{ f *os.File }

var zeros [64 << 10]byte

func (h holes) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		n := min(len(rest), len(zeros))
		if n < len(zeros) || !bytes.Equal(rest[:n], zeros[:]) {
			if written, err := h.f.Write(rest[:n]); err != nil {
				return len(p) - len(rest) + written, err
			}
		} else if _, err := h.f.Seek(int64(n), io.SeekCurrent); err != nil {
			return len(p) - len(rest), err
		}
		rest = rest[n:]
	}
	return len(p), nil
}

// hardLink gives a file that was unpacked before another name. Its target is
// named from the top, like entries are.
func (u *Unpacker) hardLink(hdr *tar.Header, name string) error {
	target, err := tree.Clean(hdr.Linkname)
	if err != nil {
		return err
	}
	if target == "" {
		return errors.New(errors.InvalidArgument, "the hard link names the root")
	}
	td, err := u.tree.Dir(strings.TrimSuffix(target[:len(target)-len(path.Base(target))], "/"))
	if err != nil {
		return missingTarget(err, target)
	}
	st, err := td.Lstat(path.Base(target))
	if err != nil {
		return missingTarget(err, target)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFLNK, unix.S_IFIFO:
	default:
		return errors.New(errors.InvalidArgument, "the hard link's target %q is not a file", clip(target))
	}
	fd, err := td.OpenFD(path.Base(target))
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	d, base, err := u.tree.Parent(name)
	if err != nil {
		return err
	}
	u.own(path.Join(d.Path, base))
	if now, err := d.Lstat(base); err == nil && now.Dev == st.Dev && now.Ino == st.Ino {
		return nil
	}
	replaced, err := u.makeRoom(d, base, false)
	if err != nil {
		return err
	}
	if err := d.LinkFD(fd, base); err != nil {
		return err
	}
	if replaced == replacedPath {
		u.tree.Changed()
	}
	return nil
}

func missingTarget(err error, target string) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return errors.New(errors.InvalidArgument, "the hard link's target %q is not in the archive", clip(target))
	}
	return err
}

// whiteout removes what layers below made; what this layer made stays.
func (u *Unpacker) whiteout(name string) error {
	base := path.Base(name)
	dirName := strings.TrimSuffix(strings.TrimSuffix(name, base), "/")
	d, err := u.tree.Dir(dirName)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil // nothing to hide
	}
	if err != nil {
		return err
	}
	switch {
	case base == whiteoutOpaque:
		return u.hideBelow(dirName)
	case strings.HasPrefix(base, whiteoutMeta):
		return nil
	}
	hidden := strings.TrimPrefix(base, whiteoutPrefix)
	if hidden == "" || hidden == "." || hidden == ".." {
		return errors.New(errors.InvalidArgument, "the whiteout %q hides nothing that can exist", name)
	}
	at := path.Join(d.Path, hidden)
	if _, ok := u.mine[at]; !ok {
		err = u.tree.Remove(d, hidden)
		u.tree.Changed()
		return err
	}
	if st, err := d.Lstat(hidden); err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return u.hideBelow(at)
	}
	return nil
}

// own remembers that the layer at hand made the entry, and with it those above.
func (u *Unpacker) own(real string) {
	for real != "." {
		if _, ok := u.mine[real]; ok {
			return
		}
		u.mine[real] = struct{}{}
		real = path.Dir(real)
	}
}

// hideBelow removes from a directory what layers below made, at every depth.
// Order within a layer means nothing, so its own entries stay.
func (u *Unpacker) hideBelow(dir string) error {
	d, err := u.tree.Dir(dir)
	if err != nil {
		return err
	}
	var own []string
	err = u.tree.Prune(d, func(n string) bool {
		at := path.Join(d.Path, n)
		_, ok := u.mine[at]
		if ok {
			own = append(own, at)
		}
		return ok
	})
	u.tree.Changed()
	for _, at := range own {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if st, err = u.tree.Lstat(at); err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
			err = u.hideBelow(at)
		}
	}
	return err
}

func (u *Unpacker) attr(hdr *tar.Header) tree.Attr {
	a := tree.Attr{
		Mode: uint32(hdr.Mode) & 0o7777, UID: -1, GID: -1,
		ModTime: hdr.ModTime.UnixNano(), HasTime: hdr.Typeflag != tar.TypeDir,
	}
	if !u.keepOwner {
		return a
	}
	a.UID, a.GID = hdr.Uid, hdr.Gid
	if a.UID < 0 || a.UID > maxID || a.GID < 0 || a.GID > maxID {
		u.remark("owners beyond ID %d become nobody, such as that of /%s", maxID, clip(hdr.Name))
		if a.UID < 0 || a.UID > maxID {
			a.UID = nobody
		}
		if a.GID < 0 || a.GID > maxID {
			a.GID = nobody
		}
		a.Mode &^= unix.S_ISUID | unix.S_ISGID // it would lend another's rights
	}
	if hdr.Typeflag == tar.TypeDir || hdr.Typeflag == tar.TypeSymlink || hdr.Typeflag == tar.TypeFifo {
		return a
	}
	// Only file capabilities matter to a root filesystem; overlay's own
	// attributes would be instructions to the host's kernel.
	if v, ok := hdr.PAXRecords[paxXattr+capabilityXattr]; ok {
		if PlainCapability(v) {
			a.Xattrs = map[string]string{capabilityXattr: v}
		} else {
			u.remark("file capabilities of an unknown form are left out, such as those of /%s", clip(hdr.Name))
		}
	}
	return a
}

// PlainCapability reports whether a security.capability value is of revision 2
// (VFS_CAP_REVISION_2, 20 bytes; capabilities(7)): revision 3 is bound to one
// user namespace of the host that wrote it.
func PlainCapability(v string) bool { return len(v) == 20 && v[3] == 2 }

// remark notes each kind of thing once.
func (u *Unpacker) remark(format string, args ...any) {
	if u.notes[format]++; u.notes[format] == 1 {
		u.note(fmt.Sprintf(format, args...))
	}
}

func clip(s string) string {
	if len(s) > 128 {
		return s[:128] + "…"
	}
	return s
}
