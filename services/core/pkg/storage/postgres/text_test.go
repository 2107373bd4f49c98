package postgres

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func FuzzText(f *testing.F) {
	for _, s := range []string{"", "plain", "a\x00b", "\xff\xfe", mark, mark + "00", "☃" + mark + "\x00", "\xf4\x8f\xbf"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		stored := escaped([]any{1, s})[1].(string)
		if strings.ContainsRune(stored, 0) || !utf8.ValidString(stored) {
			t.Errorf("%q is stored as %q", s, stored)
		}
		back := stored
		if strings.Contains(stored, mark) {
			back = string(unescape([]byte(stored)))
		}
		if back != s {
			t.Errorf("%q came back as %q", s, back)
		}
	})
}

func TestNumbered(t *testing.T) {
	t.Parallel()
	for query, want := range map[string]string{"SELECT 1": "SELECT 1", "?": "$1", "a = ? AND (b, c) = (?, ?) LIMIT ?": "a = $1 AND (b, c) = ($2, $3) LIMIT $4"} {
		if got := numbered(query); got != want {
			t.Errorf("%s: %s", query, got)
		}
	}
}
