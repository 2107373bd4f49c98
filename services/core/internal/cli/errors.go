package cli

import (
	"context"
	"io"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/cli/render"
	"github.com/aetherium/aetherium/services/core/pkg/client"
)

// The exit codes of our own.
const (
	exitFailed        = 1
	exitUsage         = 2
	exitRunFailed     = 125 // of run, exec, shell and attach
	exitNotExecutable = 126
	exitNoProgram     = 127
)

// exit ends with a code. err, where there is one, is told.
type exit struct {
	code int
	err  error
}

func (e *exit) Error() string {
	if e.err == nil {
		return "exit"
	}
	return e.err.Error()
}

func (e *exit) Unwrap() error { return e.err }

// usage is a wrong command line.
func usage(cmd *cobra.Command, err *errors.Error) error {
	if err.Hint == "" {
		err = err.WithHint("see: %s --help", cmd.CommandPath())
	}
	return &exit{exitUsage, err}
}

func usagef(cmd *cobra.Command, format string, args ...any) error {
	return usage(cmd, errors.New(errors.InvalidArgument, format, args...))
}

// flagError turns what pflag says of a flag into a usage error.
func flagError(cmd *cobra.Command, err error) error {
	var ours *errors.Error
	if errors.As(err, &ours) {
		_, flag, ok := strings.Cut(err.Error(), `" for "`)
		name, _, ok2 := strings.Cut(flag, `" flag`)
		if ok && ok2 {
			e := *ours
			e.Message = name + ": " + e.Message
			ours = &e
		}
		return usage(cmd, ours)
	}
	return usagef(cmd, "%s", err)
}

// report tells an error and gives the exit code it stands for.
func (a *app) report(ctx context.Context, err error) int {
	if err == nil {
		return 0
	}
	code := exitFailed
	var x *exit
	if errors.As(err, &x) {
		if code = x.code; x.err == nil {
			return code
		}
		err = x.err
	}
	var stop interrupted
	switch {
	case errors.Is(err, syscall.EPIPE) && client.ProblemOf(err) == nil && !client.IsUnreachable(err):
		return 128 + int(syscall.SIGPIPE) // whoever read us has enough
	case errors.As(err, &stop), ctx.Err() != nil && errors.As(context.Cause(ctx), &stop):
		return stop.code()
	}
	a.tell(a.explain(err))
	return code
}

// listed says how to see what there is, by what is said not to be there.
var listed = []struct{ words, hint string }{
	{"no VM ", "`aetherium vm ls` lists VMs, with --all those that have ended too"},
	{"no template ", "`aetherium template ls` lists templates"},
	{"has no tag ", "`aetherium template ls` shows the tags of templates"},
	{"no snapshot ", "`aetherium snapshot ls` lists snapshots"},
	{"no volume ", "`aetherium volume ls` lists volumes"},
	{"no worker is named ", "`aetherium worker ls` lists workers"},
	{"join token ", "`aetherium worker token ls` lists join tokens"},
	{"no dead job ", "`aetherium queue dead` lists dead jobs"},
	{"no task ", "`aetherium task ls` lists tasks"},
	{"webhook ", "`aetherium webhook ls` lists webhooks"},
	{"no secret ", "`aetherium secret ls` lists secrets"},
	{"no project ", "`aetherium project ls` lists projects, for administrators"},
	{"no user ", "`aetherium user ls` lists users, for administrators"},
	{"no member ", "`aetherium member ls` lists members"},
	{"API key ", "`aetherium key ls --all` lists keys"},
	{"no execution ", "aetherium logs --all VM lists a VM's"},
}

// whereListed is a hint for a NotFound; empty where none helps.
func whereListed(message string) string {
	for _, l := range listed {
		if strings.Contains(message, l.words) {
			return l.hint
		}
	}
	return ""
}

// tell writes an error as people read it: what went wrong and its code, then
// what to do about it.
func (a *app) tell(err error) {
	var e *errors.Error
	if !errors.As(err, &e) {
		a.say("%s", err)
		return
	}
	text := e.Message
	if e.Code != errors.InvalidArgument || client.ProblemOf(err) != nil {
		text += " (" + string(e.Code) + ")"
	}
	if p := client.ProblemOf(err); p != nil && p.RequestID != "" && e.Code == errors.Internal {
		text += " [request " + p.RequestID + "]"
	}
	a.say("%s", text)
	if e.Hint != "" {
		end := "\n"
		if a.term.IsRaw() {
			end = "\r\n"
		}
		_, _ = io.WriteString(a.Stderr, "hint: "+render.Clean(e.Hint)+end)
	}
}

// startError gives a command that could not be started the exit code that
// shells give it.
func startError(err error) error {
	var x *exit
	if err == nil || errors.As(err, &x) {
		return err
	}
	return &exit{startCode(err), err}
}

func startCode(err error) int {
	var e *errors.Error
	if !errors.As(err, &e) || (e.Field != "args" && e.Field != "") {
		return exitRunFailed
	}
	switch e.Code {
	case errors.InvalidArgument, errors.NotFound, errors.PermissionDenied:
	default:
		return exitRunFailed
	}
	// The codes stand for more than this; the guest agent's words tell apart.
	text := e.Message
	switch {
	case strings.HasPrefix(text, "the program ") && (strings.Contains(text, "was not found") || strings.HasSuffix(text, "does not exist")):
		return exitNoProgram
	case strings.Contains(text, "cannot be executed"), strings.Contains(text, "not a program"),
		strings.HasPrefix(text, "the program ") && strings.Contains(text, "cannot be"):
		return exitNotExecutable
	}
	return exitRunFailed
}
