package volume

import (
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/bulk"
	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

const (
	// defaultOwner is the first user of a Linux system, as templates have it.
	defaultOwner    = 1000
	defaultFileMode = 0o644
	defaultDirMode  = 0o755

	maxID      = 65535 // of users and groups in VMs
	maxMode    = 0o7777
	maxDepth   = 64     // of lists, of paths to make and of trees to remove
	maxEntries = 10_000 // of one list
)

// Files is one volume's content. It may be used concurrently.
type Files struct{ root *os.File }

var _ vmm.VolumeFiles = (*Files)(nil)

// Close lets go of the volume.
func (f *Files) Close() error { return f.root.Close() }

// within is how paths are resolved that guests have a hand in (openat2(2)).
const within = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV

func openAt(dir *os.File, name string, flags int, mode uint32) (*os.File, error) {
	fd, err := unix.Openat2(int(dir.Fd()), name, &unix.OpenHow{
		Flags: uint64(flags) | unix.O_CLOEXEC, Mode: uint64(mode), Resolve: within,
	})
	if err != nil {
		return nil, &os.PathError{Op: "openat2", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// clean is a path in its shortest form, from the volume's root on. What would
// lead above the root ends at it.
func clean(p string) (string, error) {
	switch {
	case len(p) > domain.MaxPathBytes:
		return "", errors.New(errors.InvalidArgument, "the path has %d bytes, at most %d are allowed", len(p), domain.MaxPathBytes).WithField("path")
	case strings.IndexByte(p, 0) >= 0:
		return "", errors.New(errors.InvalidArgument, "the path holds a NUL byte").WithField("path")
	}
	return path.Clean("/" + p), nil
}

// relative is a clean path as openat2 takes it.
func relative(p string) string {
	if p == "/" {
		return "."
	}
	return p[1:]
}

// parent opens the directory that a clean path is in, and gives its last name.
func (f *Files) parent(p string) (*os.File, string, error) {
	dir, name := path.Split(p)
	d, err := openAt(f.root, relative(path.Clean(dir)), unix.O_PATH|unix.O_DIRECTORY, 0)
	return d, name, err
}

// entry looks at what a clean path names, itself: a link is not followed.
func (f *Files) entry(p string) (vmm.VolumeEntry, error) {
	e, err := openAt(f.root, relative(p), unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return vmm.VolumeEntry{}, err
	}
	defer func() { _ = e.Close() }()
	return describe(e, p)
}

func describe(e *os.File, p string) (vmm.VolumeEntry, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(e.Fd()), &st); err != nil {
		return vmm.VolumeEntry{}, err
	}
	at := func(t unix.Timespec) time.Time { return time.Unix(t.Unix()).UTC() }
	out := vmm.VolumeEntry{
		Name: path.Base(p), Path: p, Type: typeOf(st.Mode), Size: st.Size, Mode: st.Mode & maxMode, UID: st.Uid, GID: st.Gid,
		AccessedAt: at(st.Atim), ModifiedAt: at(st.Mtim), ChangedAt: at(st.Ctim),
	}
	if out.Type == vmm.VolumeSymlink {
		buf := make([]byte, domain.MaxPathBytes)
		n, err := unix.Readlinkat(int(e.Fd()), "", buf)
		if err != nil {
			return vmm.VolumeEntry{}, err
		}
		out.Target = strings.ToValidUTF8(string(buf[:n]), "\ufffd")
	}
	return out, nil
}

func typeOf(mode uint32) vmm.VolumeEntryType {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return vmm.VolumeFile
	case unix.S_IFDIR:
		return vmm.VolumeDirectory
	case unix.S_IFLNK:
		return vmm.VolumeSymlink
	}
	return vmm.VolumeOther
}

// Stat implements vmm.VolumeFiles.
func (f *Files) Stat(_ context.Context, p string) (vmm.VolumeEntry, error) {
	p, err := clean(p)
	if err != nil {
		return vmm.VolumeEntry{}, err
	}
	e, err := f.entry(p)
	return e, fail(err, "cannot look at it")
}

// List implements vmm.VolumeFiles.
func (f *Files) List(ctx context.Context, p string, depth int) ([]vmm.VolumeEntry, error) {
	p, err := clean(p)
	if err != nil {
		return nil, err
	}
	if depth < 1 || depth > maxDepth {
		return nil, errors.New(errors.InvalidArgument, "a depth of %d is out of range", depth).WithField("depth").WithHint("1 to %d", maxDepth)
	}
	var out []vmm.VolumeEntry
	err = walk(ctx, f.root, relative(p), p, depth, &out)
	return out, fail(err, "cannot list the directory")
}

// walk lists a directory in lexical order, each one in it before what is in
// that. What goes while it is listed is left out.
func walk(ctx context.Context, above *os.File, name, p string, depth int, out *[]vmm.VolumeEntry) error {
	dir, err := openAt(above, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	names, err := namesIn(ctx, dir, maxEntries-len(*out))
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		if len(*out) == maxEntries {
			return tooMany()
		}
		e, err := openAt(dir, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
		if err != nil {
			if errors.Is(err, unix.ENOENT) {
				continue
			}
			return err
		}
		at := path.Join(p, name)
		entry, err := describe(e, at)
		_ = e.Close()
		if err != nil {
			return err
		}
		*out = append(*out, entry)
		if entry.Type != vmm.VolumeDirectory || depth == 1 {
			continue
		}
		err = walk(ctx, dir, name, at, depth-1, out)
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) && !errors.Is(err, unix.ELOOP) {
			return err
		}
	}
	return nil
}

func tooMany() error {
	return errors.New(errors.TooLarge, "there are more than %d files and directories", maxEntries).WithHint("list fewer levels, or in a VM")
}

// namesIn reads a directory's names, at most so many.
func namesIn(ctx context.Context, dir *os.File, most int) ([]string, error) {
	const batch = 1024
	var names []string
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		some, err := dir.Readdirnames(batch)
		names = append(names, some...)
		switch {
		case len(names) > most:
			return nil, tooMany()
		case errors.Is(err, io.EOF):
			return names, nil
		case err != nil:
			return nil, err
		}
	}
}

// Read implements vmm.VolumeFiles.
func (f *Files) Read(_ context.Context, p string) (vmm.VolumeEntry, io.ReadSeekCloser, error) {
	p, err := clean(p)
	if err != nil {
		return vmm.VolumeEntry{}, nil, err
	}
	// Not blocking, or a pipe that a guest made would hold it for ever.
	file, err := openAt(f.root, relative(p), unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if errors.Is(err, unix.ENXIO) { // a socket
		return vmm.VolumeEntry{}, nil, noFile(p)
	}
	if err != nil {
		return vmm.VolumeEntry{}, nil, fail(err, "cannot read the file")
	}
	e, err := describe(file, p)
	if err == nil && e.Type != vmm.VolumeFile {
		err = noFile(p)
	}
	if err != nil {
		_ = file.Close()
		return vmm.VolumeEntry{}, nil, fail(err, "cannot read the file")
	}
	return e, file, nil
}

func noFile(p string) error {
	return errors.New(errors.InvalidArgument, "%q is not a file", p).WithField("path")
}

// check bounds what is asked for of an entry.
func check(a vmm.VolumeAttr) error {
	for _, part := range []struct {
		field string
		value *uint32
		most  uint32
	}{{"uid", a.UID, maxID}, {"gid", a.GID, maxID}, {"mode", a.Mode, maxMode}} {
		if part.value != nil && *part.value > part.most {
			return errors.New(errors.InvalidArgument, "%s is out of range", part.field).WithField(part.field).WithHint("0 to %d", part.most)
		}
	}
	return nil
}

func or(v *uint32, otherwise uint32) uint32 {
	if v != nil {
		return *v
	}
	return otherwise
}

// give sets an entry's owner and mode, by a descriptor of it: whatever has its
// name by then is left alone.
func give(e *os.File, uid, gid, mode uint32) error {
	if err := unix.Fchownat(int(e.Fd()), "", int(uid), int(gid), unix.AT_EMPTY_PATH); err != nil {
		return err
	}
	return unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", e.Fd()), mode) // after its owner, which takes setuid away
}

// Set implements vmm.VolumeFiles.
func (f *Files) Set(_ context.Context, p string, a vmm.VolumeAttr) (vmm.VolumeEntry, error) {
	p, err := clean(p)
	if err == nil {
		err = check(a)
	}
	if err != nil {
		return vmm.VolumeEntry{}, err
	}
	e, err := openAt(f.root, relative(p), unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return vmm.VolumeEntry{}, fail(err, "cannot change it")
	}
	defer func() { _ = e.Close() }()
	now, err := describe(e, p)
	switch {
	case err != nil:
	case now.Type != vmm.VolumeFile && now.Type != vmm.VolumeDirectory:
		err = errors.New(errors.InvalidArgument, "%q is neither a file nor a directory", p).WithField("path")
	default:
		if err = give(e, or(a.UID, now.UID), or(a.GID, now.GID), or(a.Mode, now.Mode)); err == nil {
			now, err = describe(e, p)
		}
	}
	return now, fail(err, "cannot change it")
}

// MakeDir implements vmm.VolumeFiles.
func (f *Files) MakeDir(_ context.Context, p string, a vmm.VolumeAttr, parents bool) (vmm.VolumeEntry, error) {
	p, err := clean(p)
	if err == nil {
		err = check(a)
	}
	if err != nil {
		return vmm.VolumeEntry{}, err
	}
	if parents {
		if err := f.makeParents(p, a); err != nil {
			return vmm.VolumeEntry{}, fail(err, "cannot make the directory")
		}
	}
	err = f.makeDir(p, a)
	if err != nil && !(parents && errors.Is(err, unix.EEXIST)) {
		return vmm.VolumeEntry{}, fail(err, "cannot make the directory")
	}
	e, err := f.entry(p)
	if err == nil && e.Type != vmm.VolumeDirectory {
		err = unix.EEXIST
	}
	return e, fail(err, "cannot make the directory")
}

// makeParents makes the directories above a clean path.
func (f *Files) makeParents(p string, a vmm.VolumeAttr) error {
	above := strings.Split(relative(p), "/")
	if len(above) > maxDepth {
		return errors.New(errors.InvalidArgument, "the path has more than %d levels", maxDepth).WithField("path")
	}
	for i := 1; i < len(above); i++ {
		err := f.makeDir("/"+path.Join(above[:i]...), vmm.VolumeAttr{UID: a.UID, GID: a.GID})
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
	return nil
}

func (f *Files) makeDir(p string, a vmm.VolumeAttr) error {
	if p == "/" {
		return unix.EEXIST
	}
	dir, name, err := f.parent(p)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	if err := unix.Mkdirat(int(dir.Fd()), name, 0o700); err != nil {
		return err
	}
	made, err := openAt(dir, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer func() { _ = made.Close() }()
	return give(made, or(a.UID, defaultOwner), or(a.GID, defaultOwner), or(a.Mode, defaultDirMode))
}

// Write implements vmm.VolumeFiles. The file has no name until all of it is
// there, so that a write that is cut short leaves nothing.
func (f *Files) Write(_ context.Context, p string, r io.Reader, a vmm.VolumeAttr, parents bool) (vmm.VolumeEntry, error) {
	p, err := clean(p)
	if err == nil {
		err = check(a)
	}
	switch {
	case err != nil:
		return vmm.VolumeEntry{}, err
	case p == "/":
		return vmm.VolumeEntry{}, noFile(p)
	}
	if parents {
		if err := f.makeParents(p, a); err != nil {
			return vmm.VolumeEntry{}, fail(err, "cannot write the file")
		}
	}
	e, err := f.write(p, r, a)
	return e, fail(err, "cannot write the file")
}

func (f *Files) write(p string, r io.Reader, a vmm.VolumeAttr) (vmm.VolumeEntry, error) {
	none := vmm.VolumeEntry{}
	was, err := f.entry(p)
	switch {
	case errors.Is(err, unix.ENOENT):
		was = vmm.VolumeEntry{UID: defaultOwner, GID: defaultOwner, Mode: defaultFileMode}
	case err != nil:
		return none, err
	case was.Type != vmm.VolumeFile:
		return none, noFile(p)
	}
	dir, name, err := f.parent(p)
	if err != nil {
		return none, err
	}
	defer func() { _ = dir.Close() }()
	file, err := openAt(dir, ".", unix.O_TMPFILE|unix.O_RDWR, 0o600)
	if err != nil {
		return none, err
	}
	defer func() { _ = file.Close() }()
	if _, err := bulk.Store(file, r); err != nil {
		return none, err
	}
	if err := give(file, or(a.UID, was.UID), or(a.GID, was.GID), or(a.Mode, was.Mode)); err != nil {
		return none, err
	}
	if err := file.Sync(); err != nil { // a full disk may show only now
		return none, err
	}
	if err := put(file, dir, name); err != nil {
		return none, err
	}
	return describe(file, p)
}

// put gives a file without a name one, in the place of what had it.
func put(file, dir *os.File, name string) error {
	at := int(dir.Fd())
	err := unix.Linkat(int(file.Fd()), "", at, name, unix.AT_EMPTY_PATH)
	if err != unix.EEXIST { //nolint:errorlint // a raw errno
		return err
	}
	// A link replaces nothing, a renaming does.
	beside := ".aetherium-" + string(domain.NewID())
	if err := unix.Linkat(int(file.Fd()), "", at, beside, unix.AT_EMPTY_PATH); err != nil {
		return err
	}
	if err := unix.Renameat(at, beside, at, name); err != nil {
		_ = unix.Unlinkat(at, beside, 0)
		return err
	}
	return nil
}

// Remove implements vmm.VolumeFiles.
func (f *Files) Remove(ctx context.Context, p string) error {
	p, err := clean(p)
	if err != nil {
		return err
	}
	if p == "/" {
		return errors.New(errors.InvalidArgument, "the volume's root cannot be removed").WithField("path").WithHint("delete the volume")
	}
	dir, name, err := f.parent(p)
	if err != nil {
		return fail(err, "cannot remove it")
	}
	defer func() { _ = dir.Close() }()
	return fail(remove(ctx, dir, name, maxDepth), "cannot remove it")
}

// remove removes what a name in a directory stands for, with all that is in it.
// A guest that goes on filling it does not hold this up for ever.
func remove(ctx context.Context, dir *os.File, name string, depth int) error {
	err := unix.Unlinkat(int(dir.Fd()), name, 0)
	if err != unix.EISDIR { //nolint:errorlint // a raw errno
		return err
	}
	if depth == 0 {
		return errors.New(errors.TooLarge, "there are more than %d levels", maxDepth).WithHint("remove it in a VM")
	}
	const tries = 3
	for range tries {
		if err = unix.Unlinkat(int(dir.Fd()), name, unix.AT_REMOVEDIR); err != unix.ENOTEMPTY { //nolint:errorlint // a raw errno
			return err
		}
		if err := empty(ctx, dir, name, depth); err != nil {
			return err
		}
	}
	if err = unix.Unlinkat(int(dir.Fd()), name, unix.AT_REMOVEDIR); err != nil {
		return err
	}
	return nil
}

// empty removes what is in a directory, batch by batch.
func empty(ctx context.Context, above *os.File, name string, depth int) error {
	const batch = 1024
	dir, err := openAt(above, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		names, err := dir.Readdirnames(batch)
		for _, name := range names {
			if err := remove(ctx, dir, name, depth-1); err != nil && !errors.Is(err, unix.ENOENT) {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}
