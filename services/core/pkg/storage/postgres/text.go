package postgres

import (
	"bytes"
	"encoding/hex"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// PostgreSQL's texts hold neither NUL nor what is not UTF-8; the store's do (a
// guest's last words, say). Such bytes are kept as mark and two hexadecimal
// digits, and so is a mark itself: no character is assigned to it.
const mark = "\U0010FFFF"

// escaped gives arguments as PostgreSQL takes them.
func escaped(args []any) []any {
	out := args
	for i, a := range args {
		s, ok := a.(string)
		if !ok || !strings.ContainsRune(s, 0) && utf8.ValidString(s) && !strings.Contains(s, mark) {
			continue
		}
		if &out[0] == &args[0] {
			out = slices.Clone(args)
		}
		out[i] = escape(s)
	}
	return out
}

func escape(s string) string {
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		if r == 0 || r == utf8.RuneError && n == 1 || s[:n] == mark {
			for _, c := range []byte(s[:n]) {
				b.WriteString(mark + hex.EncodeToString([]byte{c}))
			}
		} else {
			b.WriteString(s[:n])
		}
		s = s[n:]
	}
	return b.String()
}

func unescape(s []byte) []byte {
	parts := bytes.Split(s, []byte(mark))
	out := slices.Clone(parts[0])
	for _, p := range parts[1:] {
		if len(p) < 2 {
			return s // not of escape's
		}
		c, err := hex.DecodeString(string(p[:2]))
		if err != nil {
			return s
		}
		out = append(append(out, c...), p[2:]...)
	}
	return out
}

// row reads rows, and texts as they were given.
type row struct{ rows pgx.Rows }

// Scan implements sqlrepo.Row.
func (r row) Scan(dest ...any) error {
	values := r.rows.RawValues()
	if !slices.ContainsFunc(values, func(v []byte) bool { return bytes.Contains(v, []byte(mark)) }) {
		return r.rows.Scan(dest...)
	}
	for i, f := range r.rows.FieldDescriptions() {
		v := values[i]
		if f.DataTypeOID == pgtype.TextOID && v != nil {
			v = unescape(v)
		}
		if err := r.rows.Conn().TypeMap().Scan(f.DataTypeOID, f.Format, v, dest[i]); err != nil {
			return err
		}
	}
	return nil
}
