package steps

import (
	"strings"
)

// word is a word as written: quotes are gone, variables are not expanded yet.
type word []part

// part is text, or a variable with what stands in for it.
type part struct {
	text string // the text, or the variable's name
	kind partKind
	// alternative is used where the variable is empty (orElse) or is not (ifSet).
	alternative string
}

type partKind byte

const (
	literal partKind = iota
	plainVariable
	orElse // ${name:-alternative}
	ifSet  // ${name:+alternative}
)

// fixed gives the word's text if no variable is in it.
func (w word) fixed() (string, bool) {
	var b strings.Builder
	for _, p := range w {
		if p.kind != literal {
			return "", false
		}
		b.WriteString(p.text)
	}
	return b.String(), true
}

// String is the word with its variables unexpanded, for messages.
func (w word) String() string {
	var b strings.Builder
	for _, p := range w {
		if p.kind != literal {
			b.WriteByte('$')
		}
		b.WriteString(p.text)
	}
	return b.String()
}

// expand fills in the variables; those that are not set are empty.
func (w word) expand(line int, env map[string]string) (string, error) {
	var b strings.Builder
	for _, p := range w {
		text := p.text
		switch value := env[p.text]; p.kind {
		case plainVariable:
			text = value
		case orElse:
			if text = value; value == "" {
				text = p.alternative
			}
		case ifSet:
			if text = ""; value != "" {
				text = p.alternative
			}
		}
		if b.Len()+len(text) > MaxValue {
			return "", bad(line, CodeTooLarge, "a value has more than %d bytes when its variables are filled in", MaxValue)
		}
		b.WriteString(text)
	}
	return b.String(), nil
}

// cut splits a word at the first c in its leading text.
func (w word) cut(c byte) (before string, after word, ok bool) {
	if len(w) == 0 || w[0].kind != literal {
		return "", nil, false
	}
	i := strings.IndexByte(w[0].text, c)
	if i < 0 {
		return "", nil, false
	}
	after = append(word{{text: w[0].text[i+1:]}}, w[1:]...)
	return w[0].text[:i], after, true
}

// lexer reads words: quotes, backslashes and variables as a shell has them,
// and nothing else of a shell.
type lexer struct {
	line int
	in   string
	at   int
	out  word
	text strings.Builder
	seen bool // the word has begun, though it may be empty
}

// words splits a line.
func (s *Step) words(text string) ([]word, error) {
	l := lexer{line: s.Line, in: text}
	var all []word
	for {
		w, ok, err := l.next(" \t")
		if err != nil {
			return nil, err
		}
		if !ok {
			return all, nil
		}
		if all = append(all, w); len(all) > MaxWords {
			return nil, bad(s.Line, CodeTooMany, "%s has more than %d words", s.Kind, MaxWords)
		}
	}
}

// one reads a line as one word.
func (s *Step) one(text string) (word, error) {
	l := lexer{line: s.Line, in: text}
	w, _, err := l.next("")
	return w, err
}

// expandable reads text in which only variables mean something.
func expandable(line int, text string) (word, error) {
	l := lexer{line: line, in: text}
	for l.at < len(l.in) {
		if l.in[l.at] == '$' {
			if err := l.dollar(); err != nil {
				return nil, err
			}
			continue
		}
		l.text.WriteByte(l.in[l.at])
		l.at++
	}
	l.flush()
	return l.out, nil
}

func (l *lexer) next(separators string) (word, bool, error) {
	for l.at < len(l.in) && strings.IndexByte(separators, l.in[l.at]) >= 0 {
		l.at++
	}
	l.out, l.seen = nil, false
	for l.at < len(l.in) {
		c := l.in[l.at]
		if strings.IndexByte(separators, c) >= 0 {
			break
		}
		l.seen = true
		var err error
		switch c {
		case '\'':
			err = l.single()
		case '"':
			err = l.double()
		case '$':
			err = l.dollar()
		case '\\':
			if l.at++; l.at < len(l.in) {
				l.text.WriteByte(l.in[l.at])
				l.at++
			}
		default:
			l.text.WriteByte(c)
			l.at++
		}
		if err != nil {
			return nil, false, err
		}
	}
	l.flush()
	return l.out, l.seen, nil
}

func (l *lexer) flush() {
	if l.text.Len() > 0 {
		l.out = append(l.out, part{text: l.text.String()})
		l.text.Reset()
	}
}

func (l *lexer) single() error {
	end := strings.IndexByte(l.in[l.at+1:], '\'')
	if end < 0 {
		return bad(l.line, CodeQuote, "a quote is not closed")
	}
	l.text.WriteString(l.in[l.at+1 : l.at+1+end])
	l.at += end + 2
	return nil
}

func (l *lexer) double() error {
	for l.at++; l.at < len(l.in); {
		switch c := l.in[l.at]; {
		case c == '"':
			l.at++
			return nil
		case c == '$':
			if err := l.dollar(); err != nil {
				return err
			}
		case c == '\\' && l.at+1 < len(l.in) && strings.IndexByte(`"$\`, l.in[l.at+1]) >= 0:
			l.text.WriteByte(l.in[l.at+1])
			l.at += 2
		default:
			l.text.WriteByte(c)
			l.at++
		}
	}
	return bad(l.line, CodeQuote, "a quote is not closed")
}

// dollar reads $name, ${name}, ${name:-text} and ${name:+text}. A dollar that
// no name follows is one.
func (l *lexer) dollar() error {
	rest := l.in[l.at+1:]
	if !strings.HasPrefix(rest, "{") {
		n := nameLength(rest)
		if n == 0 {
			l.text.WriteByte('$')
			l.at++
			return nil
		}
		l.flush()
		l.out = append(l.out, part{text: rest[:n], kind: plainVariable})
		l.at += 1 + n
		return nil
	}
	end := strings.IndexByte(rest, '}')
	if end < 0 {
		return bad(l.line, CodeVariable, "a ${ is not closed")
	}
	inner := rest[1:end]
	n := nameLength(inner)
	p := part{text: inner[:n], kind: plainVariable}
	switch after := inner[n:]; {
	case n == 0:
		return bad(l.line, CodeVariable, "${%s} names no variable", clip(inner))
	case after == "":
	case strings.HasPrefix(after, ":-"):
		p.kind, p.alternative = orElse, after[2:]
	case strings.HasPrefix(after, ":+"):
		p.kind, p.alternative = ifSet, after[2:]
	default:
		return bad(l.line, CodeVariable, "${%s} is not supported", clip(inner)).hint("${name}, ${name:-text} and ${name:+text} are")
	}
	if strings.ContainsAny(p.alternative, `$"'\`) {
		return bad(l.line, CodeVariable, "${%s} is not supported", clip(inner)).hint("the text after :- or :+ must be plain")
	}
	l.flush()
	l.out = append(l.out, p)
	l.at += 2 + end
	return nil
}

func nameLength(s string) int {
	n := 0
	for n < len(s) && n < 128 {
		c := s[n]
		if c != '_' && (c|0x20 < 'a' || c|0x20 > 'z') && (n == 0 || c < '0' || c > '9') {
			break
		}
		n++
	}
	return n
}
