package buildctx

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/image/steps"
)

// Match is one thing that a source of COPY names.
type Match struct {
	Name  string // its last element, as the source named it
	IsDir bool

	at   string // where it is in the context, links followed
	node *node
}

// Find gives what sources name, in their order; a source may be a pattern
// (path.Match, element by element). A source that is a link is followed.
// Returns NotFound for a source that names nothing, InvalidArgument for one
// that leads out of the context through a link.
func (c *Context) Find(sources []string) ([]Match, error) {
	var all []Match
	for _, source := range sources {
		found, err := c.find(source)
		if err != nil {
			return nil, err
		}
		if len(found) == 0 {
			return nil, errors.New(errors.NotFound, "%q names nothing in the context (%s)", clip(source), steps.CodeNotThere).WithField("source.context").
				WithHint("sources are relative to the context's directory")
		}
		all = append(all, found...)
	}
	return all, nil
}

func (c *Context) find(source string) ([]Match, error) {
	walk := []Match{{Name: "", IsDir: true, at: "", node: c.root}}
	if source == "" || source == "." {
		return walk, nil
	}
	for part := range strings.SplitSeq(source, "/") {
		var next []Match
		for _, m := range walk {
			if m.node.kind != tar.TypeDir {
				continue
			}
			for _, name := range slices.Sorted(maps.Keys(m.node.children)) {
				if err := c.look(); err != nil {
					return nil, err
				}
				if ok, err := path.Match(part, name); err != nil || !ok && name != part {
					continue
				}
				at, n, err := c.follow(path.Join(m.at, name), maxLinks)
				if err != nil {
					return nil, err
				}
				if n == nil {
					if strings.ContainsAny(part, `*?[`) {
						continue // a pattern meets a link that leads nowhere
					}
					return nil, errors.New(errors.NotFound, "%q is a link to nothing in the context (%s)", clip(path.Join(m.at, name)), steps.CodeNotThere).WithField("source.context")
				}
				next = append(next, Match{Name: name, IsDir: n.kind == tar.TypeDir, at: at, node: n})
			}
		}
		walk = next
	}
	return walk, nil
}

// follow finds what a path within the context leads to; nil for nothing.
func (c *Context) follow(name string, links int) (string, *node, error) {
	at, n := "", c.root
	parts := strings.Split(path.Clean(name), "/")
	for i, part := range parts {
		if n.kind != tar.TypeDir {
			return "", nil, nil
		}
		if part == "." {
			continue
		}
		next := n.children[part]
		if next == nil {
			return "", nil, nil
		}
		if next.kind != tar.TypeSymlink {
			at, n = path.Join(at, part), next
			continue
		}
		if links == 0 {
			return "", nil, refuse("too many links on the way to %q", name)
		}
		// Joined without cleaning first: a target may not climb out of the
		// context even to come back.
		target := next.content
		if path.IsAbs(target) {
			return "", nil, refuse("%q is a link that leads out of the context ("+string(steps.CodeEscape)+")", path.Join(at, part))
		}
		to := path.Join(at, target)
		if climbs(at, target) {
			return "", nil, refuse("%q is a link that leads out of the context ("+string(steps.CodeEscape)+")", path.Join(at, part))
		}
		return c.follow(path.Join(append([]string{to}, parts[i+1:]...)...), links-1)
	}
	return at, n, nil
}

// climbs reports whether a relative path that begins in a directory of the
// context leaves it on the way.
func climbs(dir, target string) bool {
	depth := 0
	if dir != "" && dir != "." {
		depth = strings.Count(dir, "/") + 1
	}
	for part := range strings.SplitSeq(target, "/") {
		switch part {
		case "", ".":
		case "..":
			if depth--; depth < 0 {
				return true
			}
		default:
			depth++
		}
	}
	return false
}

// Selection is a set of entries under the names that they get.
type Selection struct {
	context *Context
	names   map[string]map[string]*node // entry in the context to its new names
	dirs    []named                     // in order, parents first
	count   int
	Bytes   int64 // of the files
	mode    func(own int64) int64
}

// Chmod has files and directories written with a mode in place of their own.
func (s *Selection) Chmod(mode int64) { s.mode = func(int64) int64 { return mode } }

type named struct {
	name string
	node *node
}

// Lay gives matches their names below a directory: what is in a directory
// comes without the directory itself, a file by its own name, or by rename if
// that is not empty (there is one match then). What comes later replaces what
// came before. Returns InvalidArgument where a file meets a directory.
func (c *Context) Lay(matches []Match, rename string) (*Selection, error) {
	s := &Selection{context: c, names: map[string]map[string]*node{}, mode: func(own int64) int64 { return own }}
	final := map[string]string{} // new name to the entry that has it
	kinds := map[string]*node{}
	var add func(name, at string, n *node) error
	add = func(name, at string, n *node) error {
		if err := c.look(); err != nil {
			return err
		}
		if old := kinds[name]; old != nil && (old.kind == tar.TypeDir) != (n.kind == tar.TypeDir) {
			return refuse("%q is a directory of one source and a file of another", name)
		}
		final[name], kinds[name] = at, n
		for _, child := range slices.Sorted(maps.Keys(n.children)) {
			if err := add(path.Join(name, child), path.Join(at, child), n.children[child]); err != nil {
				return err
			}
		}
		return nil
	}
	for _, m := range matches {
		name := m.Name
		if rename != "" {
			name = rename
		}
		if m.IsDir {
			name = "."
		}
		if err := add(name, m.at, m.node); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(final)) {
		n := kinds[name]
		s.count++
		if n.kind == tar.TypeDir {
			s.dirs = append(s.dirs, named{name, n})
			continue
		}
		at := final[name]
		if s.names[at] == nil {
			s.names[at] = map[string]*node{}
		}
		s.names[at][name] = n
		s.Bytes += n.size
	}
	return s, nil
}

// Entries tells how many there are.
func (s *Selection) Entries() int { return s.count }

// Digest sums up names, kinds, modes and content, and nothing else: neither
// times nor owners.
func (s *Selection) Digest() string {
	lines := make([]string, 0, s.count)
	line := func(name string, n *node) {
		lines = append(lines, fmt.Sprintf("%q %c %04o %d %q\n", name, n.kind, n.mode, n.size, n.content))
	}
	for _, d := range s.dirs {
		line(d.name, d.node)
	}
	for _, names := range s.names {
		for name, n := range names {
			line(name, n)
		}
	}
	slices.Sort(lines)
	h := sha256.New()
	for _, l := range lines {
		_, _ = io.WriteString(h, l)
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

// WriteTar writes the entries as a tar, read from the context's once more.
// A context that changed meanwhile is Conflict.
func (s *Selection) WriteTar(ctx context.Context, w io.Writer) error {
	tw := tar.NewWriter(w)
	for _, d := range s.dirs {
		h := tar.Header{
			Typeflag: tar.TypeDir, Name: d.name + "/", Mode: s.mode(d.node.mode), ModTime: d.node.time, Format: tar.FormatPAX,
		}
		if err := tw.WriteHeader(&h); err != nil {
			return err
		}
	}
	left := len(s.names)
	err := s.context.each(ctx, func(in *tar.Header, at string, r io.Reader) error {
		names := s.names[at]
		if names == nil {
			return nil
		}
		left--
		return s.writeEntry(tw, in, names, r)
	})
	if err != nil {
		return err
	}
	if left > 0 {
		return errChanged
	}
	return tw.Close()
}

var errChanged = errors.New(errors.Conflict, "the context changed while it was read").WithField("source.context")

// writeEntry writes an entry under each of its names: the first with its
// content, the others as copies by reference.
func (s *Selection) writeEntry(tw *tar.Writer, in *tar.Header, names map[string]*node, r io.Reader) error {
	sorted := slices.Sorted(maps.Keys(names))
	for i, name := range sorted {
		n := names[name]
		h := tar.Header{Typeflag: n.kind, Name: name, Mode: s.mode(n.mode), Size: n.size, ModTime: n.time, Format: tar.FormatPAX}
		switch {
		case n.kind == tar.TypeSymlink:
			h.Linkname = n.content
		case i > 0:
			h.Typeflag, h.Size, h.Linkname = tar.TypeLink, 0, sorted[0]
		case in.Size != n.size:
			return errChanged
		}
		if err := tw.WriteHeader(&h); err != nil {
			return err
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := io.Copy(tw, r); err != nil {
				return err
			}
		}
	}
	return nil
}
