package cli

import (
	"context"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/internal/cli/ignore"
	"github.com/aetherium/aetherium/services/core/internal/cli/pack"
	"github.com/aetherium/aetherium/services/core/pkg/client"
	"github.com/aetherium/aetherium/services/core/pkg/image/steps"
)

// stepFiles are looked for in the context where no file is named.
var stepFiles = []string{"Aetherfile", "Dockerfile"}

// stepSource is a template's source given by a file of steps here.
type stepSource struct {
	file    string // "-" is stdin
	context string // a directory; empty: none
	needed  bool   // a step copies from the context
}

// given reports whether a build by steps is asked for.
func (s *stepSource) given() bool { return s.file != "" || s.context != "" }

// read finds and checks the file, so that what is wrong with it is known
// before anything is sent.
func (s *stepSource) read(a *app, cmd *cobra.Command) (string, error) {
	if s.context != "" {
		if info, err := os.Stat(s.context); err != nil {
			return "", localError(err)
		} else if !info.IsDir() {
			return "", usagef(cmd, "%s is not a directory", s.context)
		}
	}
	if s.file == "" {
		for _, name := range stepFiles {
			if _, err := os.Stat(filepath.Join(s.context, name)); err == nil {
				s.file = filepath.Join(s.context, name)
				break
			}
		}
		if s.file == "" {
			return "", usage(cmd, errors.New(errors.InvalidArgument, "there is neither an Aetherfile nor a Dockerfile in %s", s.context).
				WithHint("name the file of steps: --file FILE"))
		}
	}
	in := a.input(cmd.Context())
	if s.file != "-" {
		f, err := openLocal(cmd.Context(), s.file)
		if err != nil {
			return "", localError(err)
		}
		defer func() { _ = f.Close() }()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, domain.MaxStepsBytes+1))
	if err != nil {
		return "", localError(err)
	}
	parsed, err := steps.Parse(string(text))
	if err != nil {
		e := *errors.Public(err)
		e.Message, e.Field = s.file+": "+e.Message, ""
		return "", &e
	}
	if s.needed = parsed.NeedsContext(); s.needed && s.context == "" {
		return "", usage(cmd, errors.New(errors.InvalidArgument, "%s copies files, and no context is given", s.file).
			WithHint("name the directory that COPY takes files from: aetherium template build NAME -f FILE DIRECTORY"))
	}
	return string(text), nil
}

// send sends the context's directory, but for what .dockerignore leaves out.
func (s *stepSource) send(ctx context.Context, a *app, c *client.Client) (api.Upload, error) {
	var none api.Upload
	rules := new(ignore.Rules)
	f, err := os.Open(filepath.Join(s.context, ignore.FileName))
	switch {
	case err == nil:
		rules, err = ignore.Parse(f)
		_ = f.Close()
		if err != nil {
			return none, err
		}
	case !errors.Is(err, os.ErrNotExist):
		return none, localError(err)
	}
	p := a.progress("context", -1)
	defer p.done()
	r, w := io.Pipe()
	packed := make(chan error, 1)
	go func() {
		err := pack.Tree(ctx, w, s.context, pack.Options{
			Skip:    func(name string, isDir bool) bool { return rules.Skip(name) && (!isDir || rules.SkipAll(name)) },
			Skipped: func(name, why string) { a.say("%s is left out: %s", name, why) },
		})
		_ = w.CloseWithError(err)
		packed <- err
	}()
	up, err := c.Upload(ctx, p.reader(r), -1)
	_ = r.CloseWithError(errStopped) // a server that answered early reads no more
	if local := <-packed; local != nil && !errors.Is(local, errStopped) {
		return none, localError(local)
	}
	return up, err
}
