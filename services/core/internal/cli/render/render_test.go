package render_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/aetherium/aetherium/services/core/internal/cli/render"
)

func TestTable(t *testing.T) {
	t.Parallel()
	now := time.Unix(10_000, 0)
	soon := now.Add(90 * time.Minute)
	rows := [][]render.Cell{
		{render.Text("a"), render.Bytes(1 << 20), render.Since(now.Add(-time.Hour), now), render.Until(&soon, now)},
		{render.Text("longer\tname"), render.Int(7), render.Since(time.Time{}, now), render.Until(nil, now)},
		{render.Text(""), render.Text("é"), render.Since(now.Add(time.Minute), now), render.Until(&now, now.Add(1))},
	}
	for human, want := range map[bool]string{
		true: "" +
			"NAME          SIZE   AGE  ENDS\n" +
			"a             1 MiB  1h   in 1h30m\n" +
			"longer\\tname  7      -    never\n" +
			"-             é      0s   due\n",
		false: "" +
			"a\t1048576\t1970-01-01T01:46:40Z\t1970-01-01T04:16:40Z\n" +
			"longer\\tname\t7\t\t\n" +
			"\té\t1970-01-01T02:47:40Z\t1970-01-01T02:46:40Z\n",
	} {
		var b bytes.Buffer
		if err := render.Table(&b, human, []string{"NAME", "SIZE", "AGE", "ENDS"}, rows); err != nil {
			t.Fatal(err)
		}
		if b.String() != want {
			t.Errorf("got\n%q\nwant\n%q", b.String(), want)
		}
	}
}

func TestCleanShowsWhatSteersATerminal(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"plain, é, 日本":      "plain, é, 日本",
		"\x1b]0;title\a":    `\x1b]0;title\a`,
		"a\nb\r\tc":         `a\nb\r\tc`,
		"\u202Edrowssap":    `\u202edrowssap`,
		"\u0085 and \x9b":   `\u0085 and \x9b`,
		"bad \xff\xfe utf8": `bad \xff\xfe utf8`,
		"\uFFFD stays":      "\uFFFD stays",
	} {
		if got := render.Clean(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}
