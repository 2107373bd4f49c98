package cli

import (
	"strings"
	"testing"
	"time"
)

// A hundred percent is all of it, and nothing less.
func TestProgressIsNotRoundedUp(t *testing.T) {
	t.Parallel()
	at := time.Unix(100, 0)
	p := &progress{title: "f", total: 1000, n: 999, began: at}
	if line := p.line(at.Add(time.Second)); !strings.Contains(line, " 99%") {
		t.Errorf("got %q", line)
	}
	p.n = 1000
	if line := p.line(at.Add(time.Second)); !strings.Contains(line, "[========================] 100%") {
		t.Errorf("got %q", line)
	}
}
