package stepbuild

import (
	"bytes"
	"strings"
	"unicode"
)

const (
	maxLine   = 1000 // bytes of a line of output that are shown
	tailLines = 10   // of the output, in the error of a command that failed
	tailBytes = 2000
)

// output splits what a command writes into lines that can be shown.
type output struct {
	say  func(line string)
	part []byte // of a line that has not ended
	cut  bool   // more of the line is dropped
	last []string
}

func (o *output) write(p []byte) {
	for len(p) > 0 {
		// A carriage return ends a line of a progress display.
		end := bytes.IndexAny(p, "\r\n")
		piece := p
		if end >= 0 {
			piece = p[:end]
		}
		if room := maxLine - len(o.part); len(piece) > room {
			piece, o.cut = piece[:room], true
		}
		o.part = append(o.part, piece...)
		if end < 0 {
			return
		}
		o.line()
		p = p[end+1:]
	}
}

func (o *output) close() { o.line() }

func (o *output) line() {
	text := strings.TrimRight(printable(string(o.part)), " ")
	if o.cut {
		text += "…"
	}
	o.part, o.cut = o.part[:0], false
	if text == "" {
		return
	}
	o.say(text)
	if o.last = append(o.last, text); len(o.last) > tailLines {
		o.last = o.last[1:]
	}
}

// tail is the last output for an error's message; empty when there was none.
func (o *output) tail() string {
	text := strings.Join(o.last, " | ")
	if len(text) > tailBytes {
		text = "…" + strings.ToValidUTF8(text[len(text)-tailBytes:], "")
	}
	if text == "" {
		return ""
	}
	return "; its last output: " + text
}

// printable keeps a stranger's text from steering a terminal: escape sequences
// lose what makes them one, and common ones go whole.
func printable(s string) string {
	var b strings.Builder
	s = strings.ToValidUTF8(s, "?")
	for i := 0; i < len(s); {
		if n := escapeLength(s[i:]); n > 0 {
			i += n
			continue
		}
		r, size := rune(s[i]), 1
		if r >= 0x80 {
			for _, r = range s[i:] {
				break
			}
			size = len(string(r))
		}
		i += size
		switch {
		case r == '\t':
			b.WriteByte(' ')
		case unicode.IsPrint(r):
			b.WriteRune(r)
		}
	}
	return b.String()
}

// escapeLength measures a control sequence (ECMA-48 §5.4) at the beginning of s.
func escapeLength(s string) int {
	if !strings.HasPrefix(s, "\x1b[") {
		return 0
	}
	for i := 2; i < len(s); i++ {
		switch c := s[i]; {
		case c >= 0x40 && c <= 0x7e:
			return i + 1
		case c < 0x20 || c > 0x7e:
			return 0
		}
	}
	return len(s)
}
