// Package ignore reads .dockerignore files: which files of a directory are not
// sent as a build's context.
//
// A line is a pattern of path.Match, element by element, relative to the
// directory; "**" stands for any number of elements, "!" takes back what
// earlier lines left out, "#" begins a comment. What is below something left
// out is left out. The last line that fits decides.
package ignore

import (
	"bufio"
	"io"
	"path"
	"regexp"
	"strings"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// FileName is the file's name.
const FileName = ".dockerignore"

const (
	maxBytes = 1 << 20
	maxRules = 2000
)

type rule struct {
	form *regexp.Regexp
	back bool // "!": it is sent after all
}

// Rules is a file's content. The zero value leaves nothing out.
type Rules struct {
	rules []rule
	backs bool
}

// Parse reads a file. Returns InvalidArgument with the line, TooLarge.
func Parse(r io.Reader) (*Rules, error) {
	var out Rules
	in := bufio.NewScanner(io.LimitReader(r, maxBytes))
	for n := 1; in.Scan(); n++ {
		line := strings.TrimSpace(strings.TrimPrefix(in.Text(), "\ufeff"))
		if line == "" || line[0] == '#' {
			continue
		}
		line, back := strings.CutPrefix(line, "!")
		pattern := strings.TrimPrefix(path.Clean("/"+strings.TrimSpace(line)), "/")
		if pattern == "" {
			continue
		}
		form, err := compile(pattern)
		if err != nil {
			return nil, errors.New(errors.InvalidArgument, "%s, line %d: %.60q is not a pattern", FileName, n, pattern)
		}
		if len(out.rules) == maxRules {
			return nil, errors.New(errors.TooLarge, "%s has more than %d patterns", FileName, maxRules)
		}
		out.rules, out.backs = append(out.rules, rule{form, back}), out.backs || back
	}
	if err := in.Err(); err != nil {
		return nil, errors.New(errors.InvalidArgument, "%s has a line that is too long", FileName)
	}
	return &out, nil
}

// compile makes a regular expression of a pattern; what is below a match
// matches too.
func compile(pattern string) (*regexp.Regexp, error) {
	var b strings.Builder
	b.WriteString("^")
	for i := 0; i < len(pattern); i++ {
		switch c := pattern[i]; c {
		case '*':
			if !strings.HasPrefix(pattern[i:], "**") {
				b.WriteString("[^/]*")
				continue
			}
			i++
			if i+1 < len(pattern) && pattern[i+1] == '/' { // "**/" is also nothing
				i++
				b.WriteString("(.*/)?")
			} else {
				b.WriteString(".*")
			}
		case '?':
			b.WriteString("[^/]")
		case '[':
			end := strings.IndexByte(pattern[i:], ']')
			if end < 0 {
				return nil, path.ErrBadPattern
			}
			b.WriteString(pattern[i : i+end+1])
			i += end
		case '\\':
			if i++; i == len(pattern) {
				return nil, path.ErrBadPattern
			}
			b.WriteString(regexp.QuoteMeta(pattern[i : i+1]))
		default:
			b.WriteString(regexp.QuoteMeta(string(c)))
		}
	}
	b.WriteString("(/.*)?$")
	return regexp.Compile(b.String())
}

// Skip reports whether a file is left out. name is relative, with slashes.
func (r *Rules) Skip(name string) bool {
	skip := false
	for _, rule := range r.rules {
		if skip == rule.back && rule.form.MatchString(name) {
			skip = !rule.back
		}
	}
	return skip
}

// SkipAll reports whether a directory is left out with all that is in it.
func (r *Rules) SkipAll(dir string) bool { return !r.backs && r.Skip(dir) }
