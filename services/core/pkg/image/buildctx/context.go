package buildctx

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/image/internal/unpack"
	"github.com/aetherium/aetherium/services/core/pkg/image/steps"
)

// Limits bounds a context. Zero fields have defaults.
type Limits struct {
	Bytes   int64 // of all files together, unpacked; default 4 GiB
	Entries int   // default 200,000
	// Looks is how many entries all sources together may make us look at;
	// default 5 million: many sources that each name everything are refused.
	Looks int
}

const (
	maxName  = 4095
	maxDepth = 128
	maxLinks = 40 // followed on the way to one source, as Linux has it
)

func (l Limits) withDefaults() Limits {
	if l.Bytes <= 0 {
		l.Bytes = 4 << 30
	}
	if l.Entries <= 0 {
		l.Entries = 200_000
	}
	if l.Looks <= 0 {
		l.Looks = 5_000_000
	}
	return l
}

// node is one entry. A directory that the tar does not name has no header.
type node struct {
	kind     byte // a tar type flag: file, directory or symbolic link
	mode     int64
	size     int64
	content  string // a file's digest, a link's target
	time     time.Time
	children map[string]*node
}

func newDir() *node {
	return &node{kind: tar.TypeDir, mode: 0o755, time: time.Unix(0, 0), children: map[string]*node{}}
}

// Context is what is in a tar. It holds no file open. It is not safe for
// concurrent use.
type Context struct {
	file   string
	limits Limits
	root   *node
	looks  int // at entries, by all that was asked so far
}

func (c *Context) look() error {
	if c.looks++; c.looks > c.limits.Looks {
		return errors.New(errors.TooLarge, "the sources of COPY name too much altogether (%s)", steps.CodeTooMany).WithField("source.steps")
	}
	return nil
}

// Open reads the tar in a file, plain or compressed with gzip or zstd.
// Returns InvalidArgument for what is damaged or refused, TooLarge, NotFound.
func Open(ctx context.Context, file string, limits Limits) (*Context, error) {
	c := &Context{file: file, limits: limits.withDefaults(), root: newDir()}
	count, bytes := 0, int64(0)
	buf := make([]byte, 128<<10)
	err := c.each(ctx, func(h *tar.Header, name string, r io.Reader) error {
		if count++; count > c.limits.Entries {
			return errors.New(errors.TooLarge, "the context has more than %d entries", c.limits.Entries)
		}
		n := &node{kind: h.Typeflag, mode: h.Mode & 0o7777, size: h.Size, time: h.ModTime}
		switch h.Typeflag {
		case tar.TypeDir:
			n.size, n.children = 0, map[string]*node{}
		case tar.TypeSymlink:
			if h.Linkname == "" || len(h.Linkname) > maxName || strings.IndexByte(h.Linkname, 0) >= 0 {
				return refuse("the link %q has no proper target", name)
			}
			n.size, n.mode, n.content = 0, 0o777, h.Linkname
		default:
			if h.Size > c.limits.Bytes-bytes {
				return errors.New(errors.TooLarge, "the context has more than %d bytes", c.limits.Bytes)
			}
			bytes += h.Size
			n.kind = tar.TypeReg
			sum := sha256.New()
			if _, err := io.CopyBuffer(sum, struct{ io.Reader }{r}, buf); err != nil {
				return err
			}
			n.content = hex.EncodeToString(sum.Sum(nil))
		}
		return c.put(name, n)
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

func refuse(format string, name string) error {
	return errors.New(errors.InvalidArgument, format, clip(name)).WithField("source.context")
}

func clip(s string) string {
	if len(s) > 200 {
		s = s[:200] + "…"
	}
	return strings.ToValidUTF8(s, "?")
}

// each reads the tar once. Names are clean; what is refused whatever its name is refused here.
func (c *Context) each(ctx context.Context, do func(h *tar.Header, name string, r io.Reader) error) error {
	// O_NONBLOCK: opening a FIFO must not hang.
	f, err := os.OpenFile(c.file, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return errors.Wrap(err, errors.NotFound, "the context is not there any more").WithHint("send it again").WithField("source.context")
	}
	if err != nil {
		return errors.Wrap(err, errors.InvalidArgument, "the context cannot be opened").WithField("source.context")
	}
	defer f.Close()
	plain, err := unpack.Decompress(f)
	if err != nil {
		return err
	}
	defer plain.Close()
	// What compresses well must not keep us reading for ever: headers and
	// padding come on top of the files, in proportion to the entries.
	in := &bounded{ctx: ctx, r: plain, left: c.limits.Bytes + int64(c.limits.Entries)*8<<10 + 1<<20}
	tr := tar.NewReader(in)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return readError(ctx, err)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		name, err := cleanName(h.Name)
		if err != nil {
			return err
		}
		switch h.Typeflag {
		case tar.TypeReg, tar.TypeDir, tar.TypeSymlink:
		case tar.TypeLink:
			return errors.New(errors.InvalidArgument, "%q is a hard link, which a context cannot have", clip(name)).
				WithHint("make the tar with --hard-dereference").WithField("source.context")
		default:
			return refuse("%q is a device, a pipe or of an unknown kind", name)
		}
		if err := do(h, name, tr); err != nil {
			return readError(ctx, err)
		}
	}
}

func readError(ctx context.Context, err error) error {
	var coded *errors.Error
	switch {
	case errors.As(err, &coded):
		return err
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return errors.Wrap(err, errors.InvalidArgument, "the context is not a complete tar").WithField("source.context")
}

// bounded is a reader that ends with its context and at a bound.
type bounded struct {
	ctx  context.Context
	r    io.Reader
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	if b.left <= 0 {
		return 0, errors.New(errors.TooLarge, "the context is too large").WithField("source.context")
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// cleanName makes an entry's name canonical; "." is the context itself.
func cleanName(name string) (string, error) {
	switch {
	case name == "" || strings.IndexByte(name, 0) >= 0 || len(name) > maxName:
		return "", refuse("an entry of the context has no proper name: %q", name)
	case strings.HasPrefix(name, "/"):
		return "", refuse("the entry %q of the context has an absolute name ("+string(steps.CodeEscape)+")", name)
	}
	if slices.Contains(strings.Split(name, "/"), "..") {
		return "", refuse("the entry %q leaves the context ("+string(steps.CodeEscape)+")", name)
	}
	name = path.Clean(name)
	if strings.Count(name, "/") >= maxDepth {
		return "", refuse("the entry %q is too deep", name)
	}
	return name, nil
}

// put adds an entry below directories only: one that a link stands in for
// would lead elsewhere.
func (c *Context) put(name string, n *node) error {
	if name == "." {
		if n.kind != tar.TypeDir {
			return refuse("the entry %q is no directory", name)
		}
		c.root.mode, c.root.time = n.mode, n.time
		return nil
	}
	dir := c.root
	parts := strings.Split(name, "/")
	for _, part := range parts[:len(parts)-1] {
		next := dir.children[part]
		if next == nil {
			next = newDir()
			dir.children[part] = next
		}
		if next.kind != tar.TypeDir {
			return refuse("the entry %q is below a file or a link ("+string(steps.CodeEscape)+")", name)
		}
		dir = next
	}
	base := parts[len(parts)-1]
	if old := dir.children[base]; old != nil {
		if old.kind != tar.TypeDir || n.kind != tar.TypeDir {
			return refuse("the entry %q is there twice", name)
		}
		old.mode, old.time = n.mode, n.time
		return nil
	}
	dir.children[base] = n
	return nil
}
