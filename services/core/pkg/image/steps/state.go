package steps

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// State is what steps leave to those after them, and to the template.
type State struct {
	Env     map[string]string
	WorkDir string // absolute; empty: the user's home
	// User is who commands run as; empty until a USER step: root while the
	// template is built, and what the base says afterwards.
	User string
}

// Action is what a step comes to: what is to be done, nothing left to fill in.
type Action struct {
	Step Step

	// Of RUN:
	Args []string
	Env  map[string]string
	Cwd  string
	User string

	// Of COPY; Dir is WORKDIR's too.
	Sources []string // clean, relative to the context; may hold patterns
	Dir     string   // absolute destination
	AsDir   bool     // the destination is a directory, whatever is there
	Chown   string   // user or user:group; empty: root
	// Chmod is the mode of what is copied, in octal; empty: its own.
	Chmod string
}

// Root is whom the steps before a USER step run as.
const Root = "root"

// Changes reports whether the action changes files, so that there is a layer for it.
func (a Action) Changes() bool {
	return a.Step.Kind == Run || a.Step.Kind == Copy || a.Step.Kind == WorkDir
}

// Apply follows a step. Errors are *Error.
func (s *State) Apply(step Step) (Action, error) {
	a := Action{Step: step}
	switch step.Kind {
	case Env:
		return a, s.setEnv(step)
	case User:
		name, err := step.Target.expand(step.Line, s.Env)
		if err == nil {
			err = checkUser(step.Line, name)
		}
		if err != nil {
			return a, err
		}
		s.User = name
	case WorkDir:
		dir, err := s.path(step)
		if err != nil {
			return a, err
		}
		s.WorkDir, a.Dir = dir, dir
	case Run:
		a.Env, a.Cwd, a.User = maps.Clone(s.Env), s.WorkDir, s.User
		if a.Cwd == "" {
			a.Cwd = "/"
		}
		if a.User == "" {
			a.User = Root
		}
		if a.Args = step.Exec; a.Args == nil {
			a.Args = []string{"/bin/sh", "-c", step.Shell}
		}
	case Copy:
		return s.copyFiles(a)
	}
	return a, nil
}

func (s *State) setEnv(step Step) error {
	// All values of one step see the environment from before it.
	next := maps.Clone(s.Env)
	if next == nil {
		next = map[string]string{}
	}
	for _, v := range step.Vars {
		value, err := v.value.expand(step.Line, s.Env)
		if err != nil {
			return err
		}
		next[v.name] = value
	}
	if err := domain.ValidateEnv("", next); err != nil {
		return bad(step.Line, CodeEnvironment, "%s", errors.Public(err).Message)
	}
	s.Env = next
	return nil
}

// path gives a step's target as an absolute, clean path.
func (s *State) path(step Step) (string, error) {
	p, err := step.Target.expand(step.Line, s.Env)
	if err != nil {
		return "", err
	}
	switch {
	case p == "":
		return "", bad(step.Line, CodePath, "the path is empty")
	case strings.IndexByte(p, 0) >= 0, len(p) >= domain.MaxPathBytes:
		return "", bad(step.Line, CodePath, "this is not a path")
	}
	if !path.IsAbs(p) {
		p = path.Join("/", s.WorkDir, p)
	}
	if p = path.Clean(p); len(p) >= domain.MaxPathBytes {
		return "", bad(step.Line, CodePath, "the path has more than %d bytes", domain.MaxPathBytes-1)
	}
	return p, nil
}

func (s *State) copyFiles(a Action) (Action, error) {
	step := a.Step
	for _, w := range step.Sources {
		text, err := w.expand(step.Line, s.Env)
		if err != nil {
			return a, err
		}
		if text, err = cleanSource(step.Line, text); err != nil {
			return a, err
		}
		a.Sources = append(a.Sources, text)
	}
	target, err := step.Target.expand(step.Line, s.Env)
	if err != nil {
		return a, err
	}
	if a.Dir, err = s.path(step); err != nil {
		return a, err
	}
	a.AsDir = strings.HasSuffix(target, "/") || target == "." || strings.HasSuffix(target, "/.")
	if len(a.Sources) > 1 && !a.AsDir {
		return a, bad(step.Line, CodeNeedsDirectory, "several sources need a directory as destination").hint(`end it with "/"`)
	}
	if a.Chown, err = step.Chown.expand(step.Line, s.Env); err != nil {
		return a, err
	}
	if a.Chmod, err = step.Chmod.expand(step.Line, s.Env); err != nil {
		return a, err
	}
	if a.Chmod != "" && !modeForm.MatchString(a.Chmod) {
		return a, bad(step.Line, CodeMode, "%q is not a mode", clip(a.Chmod)).hint("three or four octal digits: --chmod=0755")
	}
	if a.Chown == "" {
		return a, nil
	}
	return a, checkOwner(step.Line, a.Chown)
}

// Mode is what Chmod says; false: nothing.
func (a Action) Mode() (int64, bool) {
	mode, err := strconv.ParseInt(a.Chmod, 8, 64)
	return mode, err == nil
}

// cleanSource makes a source of COPY relative to the context. Returns *Error
// for one that would leave it.
func cleanSource(line int, source string) (string, error) {
	switch {
	case source == "", strings.IndexByte(source, 0) >= 0, len(source) >= domain.MaxPathBytes:
		return "", bad(line, CodePath, "%q is not a path", clip(source))
	}
	for part := range strings.SplitSeq(source, "/") {
		if part == ".." {
			return "", bad(line, CodeEscape, "%q leaves the context", clip(source))
		}
		if _, err := path.Match(part, ""); err != nil {
			return "", bad(line, CodePath, "%q is not a pattern", clip(source))
		}
	}
	return strings.TrimPrefix(path.Clean("/"+source), "/"), nil
}

var (
	userForm  = regexp.MustCompile(`^([a-z_][a-z0-9_-]{0,31}\$?|[0-9]{1,5})$`)
	modeForm  = regexp.MustCompile(`^[0-7]{3,4}$`)
	ownerForm = regexp.MustCompile(`^([a-z_][a-z0-9_-]{0,31}\$?|[0-9]{1,5})(:([a-z_][a-z0-9_-]{0,31}\$?|[0-9]{1,5}))?$`)
)

func checkUser(line int, name string) error {
	if !userForm.MatchString(name) {
		return bad(line, CodeUser, "%q is not a user's name or ID", clip(name)).hint("groups are the user's own")
	}
	return nil
}

func checkOwner(line int, owner string) error {
	if !ownerForm.MatchString(owner) {
		return bad(line, CodeUser, "%q is not an owner", clip(owner)).hint("--chown=user or --chown=user:group")
	}
	return nil
}

// Layer names a layer by all that it depends on: 64 hexadecimal digits.
type Layer string

// BaseLayer names what is below the first step: a root filesystem by the
// digest of its content, seen by one project. Projects share no layers, so
// that none learns by a build's speed what another has built.
func BaseLayer(project, digest string) Layer {
	return sum("base", project, digest)
}

// On names the layer that an action makes on another one. content is the
// digest of the files that COPY takes.
func (l Layer) On(a Action, content string) Layer {
	parts := []string{string(l), string(a.Step.Kind), a.Cwd, a.User, a.Dir, a.Chown, content, strconv.FormatBool(a.AsDir)}
	for _, list := range [][]string{a.Args, a.Sources, assignments(a.Env)} {
		parts = append(append(parts, strconv.Itoa(len(list))), list...)
	}
	if mode, ok := a.Mode(); ok { // else the layers from before there were modes count
		parts = append(parts, strconv.FormatInt(mode, 8))
	}
	return sum(parts...)
}

func assignments(env map[string]string) []string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(env)) {
		list = append(list, name+"="+env[name])
	}
	return list
}

// sum hashes a list of strings, each with its length, so that no two lists
// have one sum.
func sum(parts ...string) Layer {
	h := sha256.New()
	for _, p := range append([]string{"aetherium layer 1"}, parts...) {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return Layer(hex.EncodeToString(h.Sum(nil)))
}
