// Package manifest describes a root filesystem's content, one line per entry,
// so that two trees are the same if and only if their manifests' digests are.
// Times are not part of it: the same packages unpacked twice have one digest.
package manifest

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Summary is what a manifest comes to.
type Summary struct {
	Digest  string // "sha256:…" of the manifest
	Bytes   int64  // content of regular files, each inode once
	Entries int64
}

// entry is one line: type, mode, uid, gid, size, content, capability, path.
type entry struct {
	kind    byte
	mode    uint32
	uid     uint32
	gid     uint32
	size    int64
	content string // digest, link target, or the first name of a hard-linked file
	cap     string
	path    string
}

func (e *entry) write(w io.Writer) error {
	_, err := fmt.Fprintf(w, "%c %04o %d %d %d %q %s %q\n", e.kind, e.mode, e.uid, e.gid, e.size, e.content, e.cap, e.path)
	return err
}

type inode struct{ dev, ino uint64 }

// Known is a tree whose manifest is there. Neither is ever changed.
type Known struct {
	Root string
	File string // its manifest
}

// Write writes the manifest of the tree at root, which nobody may be changing,
// and sums it up. Files are read by several workers at once; those that are
// the very files of a known tree, by hard links, are not read again.
func Write(ctx context.Context, root string, w io.Writer, known ...Known) (Summary, error) {
	shared, err := contents(known)
	if err != nil {
		return Summary{}, err
	}
	var (
		entries []*entry
		sum     Summary
		seen    = map[inode]string{}
	)
	g, ctx := errgroup.WithContext(ctx)
	files := make(chan *entry, 256)
	g.Go(func() error {
		defer close(files)
		return filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			e, id, err := describe(root, name)
			if err != nil {
				return err
			}
			entries = append(entries, e)
			if e.kind != 'f' {
				return nil
			}
			if first, ok := seen[id]; ok {
				e.kind, e.content = 'h', first
				return nil
			}
			seen[id] = e.path
			sum.Bytes += e.size
			if e.content = shared.content(e.path, id); e.content != "" {
				return nil
			}
			select {
			case files <- e:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	})
	pool := sync.Pool{New: func() any { return &hasher{h: sha256.New(), buf: make([]byte, 256<<10)} }}
	for range max(2, runtime.GOMAXPROCS(0)) {
		g.Go(func() error {
			h := pool.Get().(*hasher)
			defer pool.Put(h)
			for e := range files {
				var err error
				if e.content, err = h.file(filepath.Join(root, e.path), e.size); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return Summary{}, err
	}
	digest := sha256.New()
	out := bufio.NewWriterSize(io.MultiWriter(w, digest), 64<<10)
	for _, e := range entries {
		if err := e.write(out); err != nil {
			return Summary{}, err
		}
	}
	if err := out.Flush(); err != nil {
		return Summary{}, err
	}
	sum.Digest = "sha256:" + hex.EncodeToString(digest.Sum(nil))
	sum.Entries = int64(len(entries))
	return sum, nil
}

func describe(root, name string) (*entry, inode, error) {
	var st unix.Stat_t
	if err := unix.Lstat(name, &st); err != nil {
		return nil, inode{}, &fs.PathError{Op: "lstat", Path: name, Err: err}
	}
	rel := strings.TrimPrefix(strings.TrimPrefix(name, root), "/")
	if rel == "" {
		rel = "."
	}
	e := &entry{mode: st.Mode & 0o7777, uid: st.Uid, gid: st.Gid, path: rel, cap: "-"}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		e.kind = 'd'
	case unix.S_IFREG:
		e.kind, e.size = 'f', st.Size
		var buf [64]byte
		if n, err := unix.Lgetxattr(name, "security.capability", buf[:]); err == nil {
			e.cap = hex.EncodeToString(buf[:n])
		}
	case unix.S_IFLNK:
		target, err := os.Readlink(name)
		if err != nil {
			return nil, inode{}, err
		}
		e.kind, e.mode, e.content = 'l', 0o777, target
	case unix.S_IFIFO:
		e.kind = 'p'
	default:
		return nil, inode{}, fmt.Errorf("%s: a root filesystem has no entries of mode %o", rel, st.Mode)
	}
	return e, inode{uint64(st.Dev), st.Ino}, nil //nolint:unconvert // Dev is not 64 bits wide everywhere
}

type hasher struct {
	h   hash.Hash
	buf []byte
}

func (h *hasher) file(name string, size int64) (string, error) {
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", &fs.PathError{Op: "open", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	h.h.Reset()
	n, err := io.CopyBuffer(struct{ io.Writer }{h.h}, struct{ io.Reader }{f}, h.buf)
	if err != nil {
		return "", err
	}
	if n != size {
		return "", fmt.Errorf("%s changed while it was read", name)
	}
	return hex.EncodeToString(h.h.Sum(nil)), nil
}

// FirstDifference tells the first line in which two manifest files differ.
func FirstDifference(a, b string) (string, error) {
	fa, err := os.Open(a)
	if err != nil {
		return "", err
	}
	defer fa.Close()
	fb, err := os.Open(b)
	if err != nil {
		return "", err
	}
	defer fb.Close()
	ra, rb := bufio.NewReader(fa), bufio.NewReader(fb)
	for {
		la, ea := ra.ReadString('\n')
		lb, eb := rb.ReadString('\n')
		switch {
		case la != lb:
			return fmt.Sprintf("%s instead of %s", orEnd(lb), orEnd(la)), nil
		case ea == io.EOF && eb == io.EOF:
			return "the manifest itself", nil
		case ea != nil:
			return "", ea
		case eb != nil:
			return "", eb
		}
	}
}

func orEnd(line string) string {
	if line == "" {
		return "nothing"
	}
	return "[" + strings.TrimSpace(line) + "]"
}
