package image

import (
	"archive/tar"
	"bufio"
	"context"
	"encoding/json"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/image/internal/tree"
	"github.com/aetherium/aetherium/services/core/pkg/image/internal/unpack"
)

// maxDescription bounds the line before a packed build's archive.
const maxDescription = 1 << 20

const capability = "security.capability"

// Pack writes a build for the stores of other hosts: zstd of its description, a
// line of JSON, and an archive of its tree. The same build is the same bytes each
// time. Returns NotFound, TooLarge, NoSpace,
// PreconditionFailed where the tree cannot be read as it was made.
func (s *Store) Pack(ctx context.Context, id string, w io.Writer) error {
	r, err := s.Get(ctx, id)
	if err != nil {
		return err
	}
	z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return errors.Wrap(err, errors.Internal, "the build cannot be packed")
	}
	line, err := json.Marshal(r)
	if err == nil && len(line) >= maxDescription {
		err = errors.New(errors.TooLarge, "the description of build %q has %d bytes", id, len(line))
	}
	if err == nil {
		_, err = z.Write(append(line, '\n'))
	}
	if err == nil {
		err = archive(ctx, r.RootFS, z)
	}
	return packError(ctx, id, errors.Join(err, z.Close()))
}

func packError(ctx context.Context, id string, err error) error {
	var pathErr *fs.PathError
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &pathErr) && !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT):
		return errors.Wrap(err, errors.PreconditionFailed, "build %q cannot be read as it was made", id)
	}
	return storeError(err)
}

// archive writes a finished tree: directories, files, links and pipes, each with
// what its manifest tells of it, and its time.
func archive(ctx context.Context, root string, w io.Writer) error {
	out := tar.NewWriter(w)
	names := map[[2]uint64]string{} // of files with several
	buf := make([]byte, 256<<10)
	err := filepath.WalkDir(root, func(name string, _ fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(name, &st); err != nil {
			return &fs.PathError{Op: "lstat", Path: name, Err: err}
		}
		rel := strings.TrimPrefix(strings.TrimPrefix(name, root), "/")
		if rel == "" {
			rel = "."
		}
		h := &tar.Header{
			Name: rel, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid), ModTime: time.Unix(st.Mtim.Unix()), Format: tar.FormatPAX,
		}
		id := [2]uint64{uint64(st.Dev), st.Ino} //nolint:unconvert // Dev is not 64 bits wide everywhere
		if first, ok := names[id]; ok && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			h.Typeflag, h.Linkname = tar.TypeLink, first
			return out.WriteHeader(h)
		}
		if st.Nlink > 1 {
			names[id] = rel
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			h.Typeflag = tar.TypeDir
			h.Name += "/"
		case unix.S_IFIFO:
			h.Typeflag = tar.TypeFifo
		case unix.S_IFLNK:
			h.Typeflag = tar.TypeSymlink
			if h.Linkname, err = os.Readlink(name); err != nil {
				return err
			}
		case unix.S_IFREG:
			h.Typeflag, h.Size = tar.TypeReg, st.Size
			var value [64]byte
			if n, err := unix.Lgetxattr(name, capability, value[:]); err == nil {
				h.PAXRecords = map[string]string{"SCHILY.xattr." + capability: string(value[:n])}
			}
			return archiveFile(out, h, name, buf)
		default:
			return errors.New(errors.PreconditionFailed, "a root filesystem has no entries of mode %o", st.Mode)
		}
		return out.WriteHeader(h)
	})
	return errors.Join(err, out.Close())
}

func archiveFile(out *tar.Writer, h *tar.Header, name string, buf []byte) error {
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if err := out.WriteHeader(h); err != nil {
		return err
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{out}, struct{ io.Reader }{f}, buf)
	return err
}

// Unpack makes the build that r has packed, unless it is here, and compares it
// with the digest that it was built with. See Build for what it promises.
//
// Returns PreconditionFailed where it is another one or not whole, TooLarge,
// NoSpace, Conflict.
func (s *Store) Unpack(ctx context.Context, id, digest string, r io.Reader) (Result, error) {
	if err := checkID(id); err != nil {
		return Result{}, err
	}
	made, in, err := describe(r)
	if err != nil {
		return Result{}, err
	}
	defer in.Close()
	if made.ID != id || made.Digest != digest {
		return Result{}, errors.New(errors.PreconditionFailed, "what was packed is not the build %q", id)
	}
	return s.run(ctx, id, made.Source, nil, func(ctx context.Context, b *build) error {
		b.packed, b.result = true, made
		t, err := tree.Open(b.root)
		if err != nil {
			return err
		}
		defer t.Close()
		err = unpack.New(t, b.cfg.Limits, true, b.note("unpack")).Tar(ctx, in)
		if errors.HasCode(err, errors.InvalidArgument) {
			return errors.Wrap(err, errors.PreconditionFailed, "the packed build %q is damaged", id)
		}
		return err
	})
}

// packedBuild is what follows the description.
type packedBuild struct {
	io.Reader
	io.Closer
}

func describe(r io.Reader) (made Result, _ io.ReadCloser, err error) {
	plain, err := unpack.Decompress(r)
	if err != nil {
		return made, nil, damagedPack(err)
	}
	in := bufio.NewReaderSize(plain, maxDescription)
	line, err := in.ReadSlice('\n')
	if err == nil {
		err = json.Unmarshal(line, &made)
	}
	if err != nil {
		_ = plain.Close()
		return made, nil, damagedPack(err)
	}
	return made, packedBuild{in, plain}, nil
}

func damagedPack(err error) error {
	var coded *errors.Error
	if errors.As(err, &coded) && coded.Code != errors.InvalidArgument || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return errors.Wrap(err, errors.PreconditionFailed, "what was packed cannot be read")
}
