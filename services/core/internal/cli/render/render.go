// Package render writes what commands show: aligned tables for people, tab
// separated values for programs, JSON.
//
// Nothing that comes from a server or a VM reaches a terminal as it is:
// control characters, which could rewrite what the user sees, are shown as
// escapes.
package render

import (
	"encoding/json"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/aetherium/aetherium/services/core/internal/cli/units"
)

// Cell is one value: as people read it, and as programs do.
type Cell struct{ Human, Plain string }

// Text is a cell that is the same for both.
func Text(s string) Cell { return Cell{s, s} }

// Int is a number.
func Int(n int64) Cell { return Text(strconv.FormatInt(n, 10)) }

// Bytes is a size: with a unit for people, in bytes for programs.
func Bytes(n int64) Cell { return Cell{units.Bytes(n), strconv.FormatInt(n, 10)} }

// Since is a time in the past: how long ago for people.
func Since(t, now time.Time) Cell {
	if t.IsZero() {
		return Cell{"-", ""}
	}
	return Cell{units.Duration(max(0, now.Sub(t)).Truncate(time.Second)), stamp(t)}
}

// Until is a time to come.
func Until(t *time.Time, now time.Time) Cell {
	switch {
	case t == nil:
		return Cell{"never", ""}
	case t.Before(now):
		return Cell{"due", stamp(*t)}
	}
	return Cell{"in " + units.Duration(t.Sub(now).Truncate(time.Second)), stamp(*t)}
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// Table writes rows under titles. For people columns are aligned and an empty
// value is a dash; for programs values are separated by one tab and there are no titles.
func Table(w io.Writer, human bool, titles []string, rows [][]Cell) error {
	var b strings.Builder
	if !human {
		for _, row := range rows {
			for i, c := range row {
				if i > 0 {
					b.WriteByte('\t')
				}
				b.WriteString(Clean(c.Plain))
			}
			b.WriteByte('\n')
		}
		_, err := io.WriteString(w, b.String())
		return err
	}
	lines := [][]string{titles}
	for _, row := range rows {
		line := make([]string, len(row))
		for i, c := range row {
			if line[i] = Clean(c.Human); line[i] == "" {
				line[i] = "-"
			}
		}
		lines = append(lines, line)
	}
	align(&b, lines)
	_, err := io.WriteString(w, b.String())
	return err
}

// Pairs writes one thing's properties, a line each; empty ones are left out.
func Pairs(w io.Writer, human bool, pairs [][2]string) error {
	var b strings.Builder
	var lines [][]string
	for _, p := range pairs {
		if p[1] == "" {
			continue
		}
		if !human {
			b.WriteString(p[0] + "\t" + Clean(p[1]) + "\n")
			continue
		}
		for i, part := range strings.Split(strings.TrimRight(p[1], "\n"), "\n") {
			name := p[0] + ":"
			if i > 0 {
				name = ""
			}
			lines = append(lines, []string{name, Clean(part)})
		}
	}
	align(&b, lines)
	_, err := io.WriteString(w, b.String())
	return err
}

// align pads every column but the last, with two spaces between columns.
func align(b *strings.Builder, lines [][]string) {
	var widths []int
	for _, line := range lines {
		for i, s := range line {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(s))
		}
	}
	for _, line := range lines {
		var text strings.Builder
		for i, s := range line {
			text.WriteString(s)
			if i < len(line)-1 {
				text.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(s)+2))
			}
		}
		b.WriteString(strings.TrimRight(text.String(), " ") + "\n")
	}
}

// JSON writes a value, indented.
func JSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// JSONLine writes a value on one line.
func JSONLine(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// Clean shows control characters, and bytes that are not UTF-8, as escapes.
func Clean(s string) string {
	if strings.IndexFunc(s, unsafe) < 0 && utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(s[i:], "\uFFFD"):
			b.WriteString(`\x` + strconv.FormatUint(uint64(s[i])|0x100, 16)[1:])
		case unsafe(r):
			quoted := strconv.QuoteRuneToASCII(r)
			b.WriteString(quoted[1 : len(quoted)-1])
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// unsafe reports characters that steer a terminal or hide text: controls, and
// formats such as the bidirectional overrides.
func unsafe(r rune) bool { return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) }
