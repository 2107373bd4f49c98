// Package serverlog reads what servers have logged: out of a Loki that has the
// lines of all of them, out of the files that this process writes, or out of
// those and the ones that workers write.
package serverlog

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"log/slog"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/aetherium/aetherium/libs/common/pkg/logging"
)

// Bounds on what is read.
const (
	MaxLimit  = 1000      // lines of a page
	maxLine   = 128 << 10 // bytes of a line; of a longer one the beginning is told
	maxPage   = 8 << 20   // bytes of the lines of a page
	maxFields = 256       // of a line
)

// Filter says which lines are meant. Zero fields do not filter.
type Filter struct {
	Since, Until time.Time // not before, before
	Level        slog.Level
	Leveled      bool   // Level and above; otherwise all
	Service      string // the program
	Host         string
	Text         string // contained in the line, as upper and lower case are
	VM           string // ID
	Request      string // ID
	Trace        string // ID
}

// Page says which part of the lines is meant.
type Page struct {
	Limit  int // 1 to MaxLimit
	Bytes  int // of the lines, but for the last; 0: maxPage
	Cursor string
	Oldest bool // first; otherwise the newest
}

// Entry is a line.
type Entry struct {
	ID      string // where it is; the same line has the same
	Behind  string // cursor of a page that goes on behind it, in the order that it was read in; of files alone
	At      time.Time
	Level   string
	Service string
	Host    string
	Worker  string // ID, where workers were asked
	Message string
	Fields  map[string]json.RawMessage // the rest
	Cut     bool                       // it was too long, and some is missing
}

// List is a page of lines, which may have fewer than asked for, or none, before
// the last.
type List struct {
	Entries []Entry
	Next    string // cursor; empty: there are no more
	Missing []Missing
}

// Missing is a server that was to be asked for its lines, and why they are not
// there.
type Missing struct {
	Worker string // ID; empty: it is the gateway itself
	Name   string
	Reason Reason
	Detail string // for people
}

// Reason is why lines are missing.
type Reason string

// The reasons.
const (
	Away        Reason = "away"        // nothing is heard of the worker
	Unreachable Reason = "unreachable" // it cannot be spoken to
	Slow        Reason = "slow"        // it has not answered in time
	OldVersion  Reason = "old_version" // it does not know how
	NoFile      Reason = "no_file"     // it logs to none
	Unknown     Reason = "unknown"     // what was read before is of a server that is not there
	TooMany     Reason = "too_many"    // more workers than are asked
	Failed      Reason = "failed"
)

// Listener is whom a stream tells. Neither is called while one is.
type Listener struct {
	Line func(Entry) error
	// Missing tells of a server whose lines do not come, once until they do again.
	// where is the ID to go on behind.
	Missing func(m Missing, where string) error
}

// Source is where lines are read.
type Source interface {
	// Kind is loki, fleet or file.
	Kind() string
	// Read gives a page. Returns InvalidArgument for the cursor, Unavailable.
	Read(ctx context.Context, f Filter, p Page) (List, error)
	// Check returns InvalidArgument for what is no line's ID, but empty.
	Check(after string) error
	// Follow tells the lines behind the one of an ID and those to come, until ctx
	// ends or telling fails; without an ID those since f.Since, or from now on.
	// Returns InvalidArgument for the ID, Unavailable.
	Follow(ctx context.Context, f Filter, after string, to Listener) error
}

// The names of what is asked for in lines.
var (
	vmKeys      = []string{"vm", "vm_id"}
	requestKeys = []string{"request_id"}
	traceKeys   = []string{logging.TraceKey}
)

// byField is the IDs that are asked for, each with the fields that it may be in.
func (f Filter) byField() (of []fieldFilter) {
	for _, c := range []fieldFilter{{vmKeys, f.VM}, {requestKeys, f.Request}, {traceKeys, f.Trace}} {
		if c.value != "" {
			of = append(of, c)
		}
	}
	return of
}

type fieldFilter struct {
	keys  []string
	value string
}

// needles are what a line must contain as it is written.
func (f Filter) needles() []string {
	var all []string
	if f.Text != "" {
		all = append(all, escaped(f.Text))
	}
	for _, c := range f.byField() {
		all = append(all, escaped(c.value))
	}
	return all
}

// takes reports whether a line of a file that has the needles is meant.
func (f Filter) takes(e *Entry) bool {
	if e.At.Before(f.Since) || !f.Until.IsZero() && !e.At.Before(f.Until) {
		return false
	}
	if f.Leveled {
		var l slog.Level
		if l.UnmarshalText([]byte(e.Level)) != nil || l < f.Level {
			return false
		}
	}
	for _, c := range f.byField() {
		found := false
		for _, k := range c.keys {
			var v string
			found = found || json.Unmarshal(e.Fields[k], &v) == nil && v == c.value
		}
		if !found {
			return false
		}
	}
	return true
}

// escaped is a text as it stands within a line.
func escaped(s string) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // as slog
	_ = enc.Encode(s)        // a string always encodes
	text := strings.TrimSuffix(b.String(), "\n")
	return text[1 : len(text)-1]
}

// parse reads a line as far as it goes: of one that was cut, what is whole.
func parse(line []byte) (e Entry) {
	dec := json.NewDecoder(bytes.NewReader(line))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		e.Cut, e.Message = true, strings.ToValidUTF8(string(line), "\uFFFD")
		return e
	}
	e.Fields = map[string]json.RawMessage{}
	for dec.More() {
		key, err := dec.Token()
		name, is := key.(string)
		var value json.RawMessage
		if err == nil && is {
			err = dec.Decode(&value)
		}
		if err != nil || !is {
			e.Cut = true
			return e
		}
		e.set(name, value)
	}
	_, err := dec.Token()
	e.Cut = e.Cut || err != nil
	return e
}

// timeOf reads the time that a line begins with, as slog has it; zero: it has none.
func timeOf(line []byte) time.Time {
	text, is := bytes.CutPrefix(line, []byte(`{"time":"`))
	text, _, closed := bytes.Cut(text[:min(len(text), 64)], []byte{'"'})
	at, err := time.Parse(time.RFC3339Nano, string(text))
	if !is || !closed || err != nil {
		return time.Time{}
	}
	return at
}

func (e *Entry) set(name string, value json.RawMessage) {
	var err error
	switch {
	case name == slog.TimeKey && e.At.IsZero():
		err = json.Unmarshal(value, &e.At)
	case name == slog.LevelKey && e.Level == "":
		err = json.Unmarshal(value, &e.Level)
		e.Level = strings.ToLower(e.Level)
	case name == slog.MessageKey && e.Message == "":
		err = json.Unmarshal(value, &e.Message)
	case len(e.Fields) < maxFields:
		e.Fields[name] = value
	default:
		e.Cut = true
	}
	if err != nil {
		e.Cut = true
	}
}

// encode makes a cursor or an ID.
func encode(position any) string {
	text, _ := json.Marshal(position) // of numbers and strings
	return base64.RawURLEncoding.EncodeToString(text)
}

// decode returns InvalidArgument for what encode has not made of the kind.
func decode(s, field string, position any) error {
	bad := noPlace(field)
	text, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || !utf8.Valid(text) {
		return bad
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if dec.Decode(position) != nil {
		return bad
	}
	if _, err := dec.Token(); err != io.EOF { //nolint:errorlint // the decoder's own
		return bad
	}
	return nil
}

// Fields that a place is told in.
const (
	cursorField = "query.cursor"
	resumeField = "query.after"
)
