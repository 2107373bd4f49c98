// Package hooks runs the programs that a template has for the moments before a
// snapshot and after it: to write down what is in memory only, and to draw
// anew what must not be the same in two machines.
package hooks

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/agent/osuser"
	"github.com/aetherium/aetherium/services/core/internal/agent/spawn"
)

const (
	// Root is where the hooks' directories are.
	Root = "/etc/aetherium"
	// Limit is how long the hooks of one directory may take together.
	Limit = 30 * time.Second

	quiesceDir = "quiesce.d"
	resumeDir  = "resume.d"

	eachLimit = 10 * time.Second
	linger    = 500 * time.Millisecond // for output after the end
	maxHooks  = 64
	maxOutput = 4 << 10 // of a hook, that is kept
	maxTold   = 512     // of that, in an error
)

// Runner runs a machine's hooks.
type Runner struct {
	Root    string // empty: [Root]
	Path    string // PATH of hooks; empty: spawn.DefaultPath
	Starter *spawn.Starter
	Log     *slog.Logger

	turn     sync.Mutex
	quiesced bool
}

// Quiesce runs the executables in quiesce.d in the order of their names, as root.
// When one fails those in resume.d undo what was done, and the rest is not run.
// Returns Conflict, saying which failed and how.
func (r *Runner) Quiesce(ctx context.Context) error {
	r.turn.Lock()
	defer r.turn.Unlock()
	r.quiesced = true // also in a snapshot of the memory
	err := r.run(ctx, quiesceDir, false)
	if err != nil {
		r.resume(context.WithoutCancel(ctx))
	}
	return err
}

// Resume runs those in resume.d, if there was a Quiesce since the last time, or
// if always is set. What fails is logged: the machine goes on in any case.
func (r *Runner) Resume(ctx context.Context, always bool) {
	r.turn.Lock()
	defer r.turn.Unlock()
	if r.quiesced || always {
		r.resume(ctx)
	}
}

func (r *Runner) resume(ctx context.Context) {
	_ = r.run(ctx, resumeDir, true)
	r.quiesced = false
}

// run runs a directory's hooks, all of them or until one fails, and returns what failed first.
func (r *Runner) run(ctx context.Context, dir string, all bool) error {
	ctx, cancel := context.WithTimeout(ctx, Limit)
	defer cancel()
	paths, err := r.list(dir)
	if err != nil {
		r.Log.Warn("hooks cannot be read", "directory", dir, "error", err)
		return err
	}
	var first error
	for _, path := range paths {
		output, err := r.one(ctx, path)
		if err != nil {
			r.Log.Warn("a hook failed", "hook", path, "error", err, "output", output)
			if first == nil {
				first = err
			}
			if !all {
				break
			}
			continue
		}
		r.Log.Info("a hook was run", "hook", path, "output", output)
	}
	return first
}

// list lists the executables of a directory in the order of their names.
func (r *Runner) list(dir string) ([]string, error) {
	root := r.Root
	if root == "" {
		root = Root
	}
	entries, err := os.ReadDir(filepath.Join(root, dir))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, errors.New(errors.Conflict, "the hooks in %s cannot be read: %s", filepath.Join(root, dir), err)
	}
	var paths []string
	for _, e := range entries {
		path := filepath.Join(root, dir, e.Name())
		info, err := os.Stat(path)
		if err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if len(paths) == maxHooks {
			return nil, errors.New(errors.Conflict, "there are more than %d hooks in %s", maxHooks, filepath.Join(root, dir))
		}
		paths = append(paths, path)
	}
	return paths, nil
}

// one runs one hook to its end.
func (r *Runner) one(ctx context.Context, path string) (output string, err error) {
	ctx, cancel := context.WithTimeout(ctx, eachLimit)
	defer cancel()
	if ctx.Err() != nil {
		return "", errors.New(errors.Conflict, "the hook %s was not run: those before it took %s", path, Limit)
	}
	search := r.Path
	if search == "" {
		search = spawn.DefaultPath
	}
	process, err := r.Starter.Start(spawn.Spec{
		Args: []string{path}, Cwd: "/", User: &osuser.User{Name: "root", Home: "/root"},
		Env: []string{"PATH=" + search, "HOME=/root", "USER=root", "LOGNAME=root"},
	})
	if err != nil {
		return "", errors.New(errors.Conflict, "the hook %s cannot be run: %s", path, errors.Public(err).Message)
	}
	var kept tail
	var pumps sync.WaitGroup
	for _, f := range []*os.File{process.Stdout, process.Stderr} {
		pumps.Go(func() {
			_, _ = io.Copy(&kept, f)
			_ = f.Close()
		})
	}
	killed := false
	select {
	case <-process.Ended():
	case <-ctx.Done():
		killed = process.SignalGroup(syscall.SIGKILL) == nil
		<-process.Ended()
	}
	until := time.Now().Add(linger) // for what it left behind, and that is not waited for
	for _, f := range []*os.File{process.Stdout, process.Stderr} {
		_ = f.SetReadDeadline(until)
	}
	pumps.Wait()
	switch status := process.Status(); {
	case killed && errors.Is(ctx.Err(), context.DeadlineExceeded):
		err = errors.New(errors.Conflict, "the hook %s took longer than it may%s", path, kept.told()).
			WithHint("a hook has %s, all together %s", eachLimit, Limit)
	case killed:
		err = errors.New(errors.Conflict, "the hook %s was ended: whoever asked for it has gone", path)
	case status.Signaled():
		err = errors.New(errors.Conflict, "the hook %s was ended by signal %d%s", path, status.Signal(), kept.told())
	case status.ExitStatus() != 0:
		err = errors.New(errors.Conflict, "the hook %s ended with exit code %s%s", path, strconv.Itoa(status.ExitStatus()), kept.told())
	}
	return kept.String(), err
}

// tail keeps the last of what is written.
type tail struct {
	mu    sync.Mutex
	bytes []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.bytes = append(t.bytes, p...)
	if over := len(t.bytes) - maxOutput; over > 0 {
		t.bytes = append(t.bytes[:0], t.bytes[over:]...)
	}
	return len(p), nil
}

// String is what is kept, as text.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(strings.ToValidUTF8(string(t.bytes), "\uFFFD"))
}

// told is the end of it as an error says it.
func (t *tail) told() string {
	text := t.String()
	if text == "" {
		return ""
	}
	if over := len(text) - maxTold; over > 0 {
		text = strings.ToValidUTF8(text[over:], "")
	}
	return ": " + text
}
