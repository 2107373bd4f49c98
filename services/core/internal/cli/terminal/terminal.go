// Package terminal handles the user's terminal: raw mode that is always
// undone, the window's size, and the keys that detach.
package terminal

import (
	"io"
	"os"
	"sync"

	"golang.org/x/term"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
)

// Terminal is the user's terminal. It is safe for concurrent use.
type Terminal struct {
	file *os.File

	mu    sync.Mutex
	saved *term.State // set while in raw mode
}

// Of gives the terminal behind a stream, or nil where it is none.
func Of(stream any) *Terminal {
	f, ok := stream.(*os.File)
	if !ok || f == nil || !term.IsTerminal(int(f.Fd())) {
		return nil
	}
	return &Terminal{file: f}
}

// Is reports whether a stream is a terminal.
func Is(stream any) bool { return Of(stream) != nil }

// Raw hands every key to the reader as it is. It does nothing in raw mode.
func (t *Terminal) Raw() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.saved != nil {
		return nil
	}
	state, err := term.MakeRaw(int(t.file.Fd()))
	if err == nil {
		t.saved = state
	}
	return err
}

// Restore undoes Raw. It does nothing otherwise, on a nil terminal too, so it
// may stand on every way out.
func (t *Terminal) Restore() {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.saved != nil {
		_ = term.Restore(int(t.file.Fd()), t.saved)
		t.saved = nil
	}
}

// Renew sets raw mode again where it is in force: a shell sets modes of its
// own when it continues a stopped job.
func (t *Terminal) Renew() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.saved != nil {
		_, _ = term.MakeRaw(int(t.file.Fd()))
	}
}

// IsRaw reports whether raw mode is in force; then a line ends in \r\n.
func (t *Terminal) IsRaw() bool {
	if t == nil {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.saved != nil
}

// ReadSecret prompts on w and reads a line that is not shown. Ctrl-C and an
// end of input yield io.EOF. The terminal is then as it was.
func (t *Terminal) ReadSecret(w io.Writer, prompt string) (string, error) {
	if err := t.Raw(); err != nil {
		return "", err
	}
	defer t.Restore()
	return term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{t.file, w}, "").ReadPassword(prompt)
}

// Go runs f in a goroutine whose panic leaves the terminal as it was.
func (t *Terminal) Go(f func()) {
	go func() {
		defer t.Guard()
		f()
	}()
}

// Guard is deferred at the top of a goroutine: a panic ends the program
// without running what other goroutines deferred.
func (t *Terminal) Guard() {
	if p := recover(); p != nil {
		t.Restore()
		panic(p)
	}
}

// Size gives the window's size in cells; ok is false where it has none.
func (t *Terminal) Size() (size api.PTYSize, ok bool) {
	cols, rows, err := term.GetSize(int(t.file.Fd()))
	if err != nil || cols < 1 || rows < 1 || cols > 4096 || rows > 4096 {
		return api.PTYSize{}, false
	}
	return api.PTYSize{Cols: uint16(cols), Rows: uint16(rows)}, true
}

// The keys that detach, one after the other.
const (
	ctrlP = 0x10
	ctrlQ = 0x11
)

// Keys reads keys until the user detaches with ctrl-p ctrl-q, which is told as
// [ErrDetached]. A ctrl-p is held back until the next key shows what it was.
type Keys struct {
	r    io.Reader
	held bool
	err  error
}

// NewKeys reads from r.
func NewKeys(r io.Reader) *Keys { return &Keys{r: r} }

type detached struct{}

func (detached) Error() string { return "detached" }

// ErrDetached says that the user asked to be detached.
var ErrDetached error = detached{}

// Read reads keys. p needs room for two bytes.
func (k *Keys) Read(p []byte) (int, error) {
	for {
		if k.err != nil {
			return 0, k.err
		}
		if len(p) < 2 {
			return 0, io.ErrShortBuffer
		}
		// One byte is left for a ctrl-p that was held back.
		buf := make([]byte, len(p)-1)
		n, err := k.r.Read(buf)
		out := p[:0]
		for _, b := range buf[:n] {
			switch {
			case k.held && b == ctrlQ:
				k.err = ErrDetached
				return len(out), nil
			case k.held:
				out = append(out, ctrlP)
				k.held = b == ctrlP
				if !k.held {
					out = append(out, b)
				}
			case b == ctrlP:
				k.held = true
			default:
				out = append(out, b)
			}
		}
		if err != nil {
			if k.err = err; k.held {
				out = append(out, ctrlP)
			}
		}
		if len(out) > 0 {
			return len(out), nil
		}
	}
}
