package kms

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// Exit codes of a command (sysexits.h).
const (
	exitUnknown   = 65 // EX_DATAERR
	exitTemporary = 75 // EX_TEMPFAIL
)

// byCommand asks by running a program.
type byCommand struct {
	argv []string
	env  []string
}

func newCommand(c Config) (*byCommand, error) {
	if !filepath.IsAbs(c.Command[0]) {
		return nil, errors.New(errors.InvalidArgument, "%q is not the absolute path of a program", c.Command[0]).WithField("command")
	}
	if _, err := exec.LookPath(c.Command[0]); err != nil {
		return nil, errors.Wrap(err, errors.InvalidArgument, "%s cannot be run", c.Command[0]).WithField("command")
	}
	return &byCommand{argv: c.Command, env: append([]string{}, c.Env...)}, nil
}

func (b *byCommand) ask(ctx context.Context, what string, q question) (answer, error) {
	in, err := json.Marshal(q)
	if err != nil {
		return answer{}, &outcome{err: err}
	}
	args := append(append([]string{}, b.argv[1:]...), what)
	cmd := exec.CommandContext(ctx, b.argv[0], args...)
	out, errs := &clipped{most: maxAnswer + 1}, &clipped{most: 1 << 10}
	cmd.Env, cmd.Dir = b.env, "/"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(in), out, errs
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	kill := func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.Cancel = kill
	cmd.WaitDelay = time.Second // for what it left running with our pipes
	err = cmd.Run()
	if cmd.Process != nil {
		_ = kill() // the group has ended, or has something left that shall
	}
	var exit *exec.ExitError
	switch {
	case err == nil:
		return parse(out.Bytes())
	case ctx.Err() != nil:
		return answer{}, &outcome{temporary: true, err: ctx.Err()}
	case errors.As(err, &exit):
		return answer{}, &outcome{
			unknown: exit.ExitCode() == exitUnknown && what == "unwrap", temporary: exit.ExitCode() == exitTemporary,
			err: fmt.Errorf("%s %s: %w: %s", b.argv[0], what, err, strings.TrimSpace(errs.String())),
		}
	}
	return answer{}, &outcome{err: err}
}

// clipped keeps the beginning of what is written to it.
type clipped struct {
	bytes.Buffer
	most int
}

func (c *clipped) Write(p []byte) (int, error) {
	_, _ = c.Buffer.Write(p[:min(len(p), c.most-c.Len())])
	return len(p), nil
}
