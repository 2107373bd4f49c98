package cli

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
)

// passed are the signals that go on to a command in a VM.
var passed = map[os.Signal]string{
	syscall.SIGINT:  "INT",
	syscall.SIGTERM: "TERM",
	syscall.SIGHUP:  "HUP",
	syscall.SIGQUIT: "QUIT",
}

// notify starts the delivery of signals. Those that whoever started us has
// turned off (nohup, a script's background job) stay so.
func notify() (<-chan os.Signal, func()) {
	c := make(chan os.Signal, 16)
	for s := range passed {
		if !signal.Ignored(s) {
			signal.Notify(c, s)
		}
	}
	signal.Notify(c, syscall.SIGWINCH, syscall.SIGCONT)
	// Writing to a closed pipe is an error to handle then, and not our end: a
	// VM may have to be removed first.
	pipe := make(chan os.Signal, 1)
	signal.Notify(pipe, syscall.SIGPIPE)
	return c, func() { signal.Stop(c); signal.Stop(pipe) }
}

// interrupted is why a command ended that a signal ended.
type interrupted struct{ signal syscall.Signal }

func (i interrupted) Error() string { return "interrupted" }

// Unwrap makes it a cancellation for those who ask.
func (i interrupted) Unwrap() error { return context.Canceled }

func (i interrupted) code() int { return 128 + int(i.signal) }

// sameSignal is how soon after the first a signal still means the same: timeout(1)
// sends one to a process and to its group, its group includes it.
const sameSignal = 500 * time.Millisecond

// dispatch hands signals to the command that takes them, else ends ctx; one
// more, later, then ends the process at once. It returns when ctx ended for
// another reason.
func (a *app) dispatch(ctx context.Context, cancel context.CancelCauseFunc, done <-chan struct{}) {
	var first time.Time
	for {
		select {
		case <-done:
			return
		case s := <-a.Signals:
			a.mu.Lock()
			forward := a.forward
			a.mu.Unlock()
			if forward != nil && forward(s) {
				continue
			}
			sig, ok := s.(syscall.Signal)
			if _, ends := passed[s]; !ok || !ends {
				continue
			}
			switch {
			case ctx.Err() == nil:
				first = a.Now()
				cancel(interrupted{sig})
			case a.Now().Sub(first) >= sameSignal:
				a.term.Restore()
				a.Quit(interrupted{sig}.code())
				return
			}
		}
	}
}

// forwarding has signals handed to f until the returned function is called.
func (a *app) forwarding(f func(os.Signal) bool) (stop func()) {
	set := func(f func(os.Signal) bool) {
		a.mu.Lock()
		a.forward = f
		a.mu.Unlock()
	}
	set(f)
	return func() { set(nil) }
}

// size is the terminal's, or a usual one where it cannot be told.
func (a *app) size() api.PTYSize {
	if a.term != nil {
		if s, ok := a.term.Size(); ok {
			return s
		}
	}
	return api.PTYSize{Cols: 80, Rows: 24}
}
