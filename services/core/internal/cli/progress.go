package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/aetherium/aetherium/services/core/internal/cli/render"
	"github.com/aetherium/aetherium/services/core/internal/cli/terminal"
	"github.com/aetherium/aetherium/services/core/internal/cli/units"
)

// progress shows how far a copy has come, on a terminal. It belongs to the
// goroutine that copies.
type progress struct {
	out   io.Writer // nil: nobody looks
	now   func() time.Time
	title string
	total int64 // -1: not known
	n     int64
	began time.Time
	drawn time.Time
}

const (
	barCells  = 24
	barPeriod = 100 * time.Millisecond
)

// progress makes a progress bar on stderr; where that is no terminal, or IDs
// alone are asked for, it shows nothing.
func (a *app) progress(title string, total int64) *progress {
	p := &progress{now: a.Now, title: render.Clean(title), total: total, began: a.Now()}
	if terminal.Is(a.Stderr) && !a.flags.quiet {
		p.out = a.Stderr
	}
	return p
}

func (p *progress) reader(r io.Reader) io.Reader { return io.TeeReader(r, p) }

func (p *progress) writer(w io.Writer) io.Writer {
	if p.out == nil {
		return w
	}
	return io.MultiWriter(w, p)
}

// Write counts what was copied.
func (p *progress) Write(b []byte) (int, error) {
	p.n += int64(len(b))
	// The first tenth of a second shows nothing: most copies are over by then.
	if now := p.now(); p.out != nil && now.Sub(p.began) >= barPeriod && now.Sub(p.drawn) >= barPeriod {
		p.drawn = now
		_, _ = io.WriteString(p.out, "\r\x1b[K"+p.line(now))
	}
	return len(b), nil
}

func (p *progress) line(now time.Time) string {
	var rate string
	if t := now.Sub(p.began).Seconds(); t > 0 {
		rate = units.Bytes(int64(float64(p.n)/t)) + "/s"
	}
	if p.total <= 0 {
		return fmt.Sprintf("%s  %s  %s", p.title, units.Bytes(p.n), rate)
	}
	part := min(1, float64(p.n)/float64(p.total))
	full := int(part * barCells)
	return fmt.Sprintf("%s  [%s%s] %3d%%  %s of %s  %s", p.title,
		strings.Repeat("=", full), strings.Repeat(" ", barCells-full), int(100*part), units.Bytes(p.n), units.Bytes(p.total), rate)
}

// done takes the bar away.
func (p *progress) done() {
	if p.out != nil && !p.drawn.IsZero() {
		_, _ = io.WriteString(p.out, "\r\x1b[K")
	}
}
