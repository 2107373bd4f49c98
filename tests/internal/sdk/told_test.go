package sdk

import "testing"

// A script that ends well and has told of no check is a failure.
func TestNothingIsAFailure(t *testing.T) {
	const check, skip, done = `{"feature":"a","check":"b","ok":true}` + "\n", `{"feature":"a","check":"c","skip":"none"}` + "\n", `{"done":true}` + "\n"
	for name, c := range map[string]struct {
		out     string
		results int
		whole   bool
	}{
		"all":            {check + skip + done, 2, true},
		"nothing":        {"", 0, false},
		"no checks":      {done, 0, false},
		"skipped alone":  {skip + done, 1, false},
		"not to its end": {check, 1, false},
		"other words":    {"{}\n[]\nword\n" + done, 0, false},
	} {
		results, said, err := told([]byte(c.out))
		if len(results) != c.results || (err == nil) != c.whole {
			t.Errorf("%s: %d results, %v", name, len(results), err)
		}
		if want := map[string]int{"other words": 3}[name]; len(said) != want {
			t.Errorf("%s: it said %q", name, said)
		}
	}
}
