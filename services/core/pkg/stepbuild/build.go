package stepbuild

import (
	"context"
	"fmt"
	"io"
	"maps"
	"path"
	"strings"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/image/buildctx"
	"github.com/aetherium/aetherium/services/core/pkg/image/steps"
)

// Base is what FROM led to.
type Base struct {
	BuildID string
	Digest  string // of its content
	Env     map[string]string
	WorkDir string
	User    string
}

// Node is where a build is made.
type Node interface {
	// Base finds what FROM names.
	Base(ctx context.Context, from string, say Say) (Base, error)
	// HasLayer reports whether a layer is kept.
	HasLayer(ctx context.Context, l steps.Layer) (bool, error)
	// Boot gives a machine whose disk is that of a layer, or, where l is empty,
	// of the base alone.
	Boot(ctx context.Context, base Base, l steps.Layer) (Machine, error)
}

// Machine is where steps are carried out. Its methods are called one after
// another.
type Machine interface {
	// Run runs a command; out gets what it writes. That it could not be started
	// is an error, that it failed is not.
	Run(ctx context.Context, a steps.Action, out func([]byte)) (Exit, error)
	// IsDir reports whether a path leads to a directory.
	IsDir(ctx context.Context, path string) (bool, error)
	// MakeDir makes a directory and those above it; one that exists is success.
	MakeDir(ctx context.Context, path string) error
	// Unpack unpacks a tar below a directory and gives what it makes to an
	// owner ("user", "user:group"; empty: root).
	Unpack(ctx context.Context, dir, owner string, r io.Reader) error
	// Keep keeps the disk as it is as a layer on top of another one.
	Keep(ctx context.Context, l, below steps.Layer, step string) error
	// Close removes the machine.
	Close()
}

// Exit is how a command ended.
type Exit struct {
	Code int
	Lost string // why there is no code; the command may have run
	OOM  bool   // the machine's memory was too small for it
}

// Say reports what goes on: a step and a line of text.
type Say func(step, text string)

// Request is a build to be made.
type Request struct {
	File *steps.File
	// Context is what COPY takes files from; nil: there is none.
	Context *buildctx.Context
	// Project and driver: what layers are shared within.
	Scope   string
	NoCache bool // every step is carried out; its layers are kept
	Say     Say
}

// Outcome is what a build came to.
type Outcome struct {
	Base  Base
	Layer steps.Layer // the topmost; empty: nothing was changed
	// Of the template:
	Env     map[string]string
	WorkDir string
	User    string
}

// planned is a step that changes files, with the layer it makes.
type planned struct {
	number int // from 1, FROM included
	action steps.Action
	layer  steps.Layer
	below  steps.Layer // empty: the base
	copies []buildctx.Match
}

type builder struct {
	Request
	node    Node
	base    Base
	total   int
	machine Machine
}

// Run makes a build. Errors name the step and the line. When ctx ends the
// machine is removed and the build with it.
func Run(ctx context.Context, node Node, req Request) (Outcome, error) {
	b := &builder{Request: req, node: node, total: len(req.File.Steps) + 1}
	from := req.File.From
	b.say(1, from.Text)
	var err error
	b.base, err = node.Base(ctx, from.From, func(_, text string) { b.say(1, text) })
	if err != nil {
		return Outcome{}, b.blame(from, err)
	}
	plan, state, err := b.plan()
	if err != nil {
		return Outcome{}, err
	}
	out := Outcome{Base: b.base, Env: state.Env, WorkDir: state.WorkDir, User: state.User}
	if out.User == "" {
		out.User = b.base.User
	}
	if len(plan) > 0 {
		out.Layer = plan[len(plan)-1].layer
	}
	done, err := b.kept(ctx, plan)
	if err != nil {
		return Outcome{}, err
	}
	for _, p := range plan[:done] {
		b.say(p.number, p.action.Step.Text+" (cached)")
	}
	if done == len(plan) {
		return out, nil
	}
	if b.machine, err = node.Boot(ctx, b.base, plan[done].below); err != nil {
		return Outcome{}, err
	}
	defer b.machine.Close()
	for _, p := range plan[done:] {
		b.say(p.number, p.action.Step.Text)
		if err = b.do(ctx, p); err != nil {
			return Outcome{}, b.blame(p.action.Step, err)
		}
	}
	return out, nil
}

func (b *builder) say(number int, text string) {
	b.Say(fmt.Sprintf("%d/%d", number, b.total), text)
}

// plan follows the steps and finds out what each is and makes, before
// anything runs: a source of COPY that is not there fails at once.
func (b *builder) plan() ([]planned, steps.State, error) {
	state := steps.State{Env: maps.Clone(b.base.Env), WorkDir: b.base.WorkDir}
	layer := steps.BaseLayer(b.Scope, b.base.Digest)
	below := steps.Layer("")
	var plan []planned
	for i, s := range b.File.Steps {
		a, err := state.Apply(s)
		if err != nil {
			return nil, state, err
		}
		if !a.Changes() {
			continue
		}
		p := planned{number: i + 2, action: a, below: below}
		content := ""
		if s.Kind == steps.Copy {
			if p.copies, content, err = b.find(a); err != nil {
				return nil, state, b.blame(s, err)
			}
		}
		layer = layer.On(a, content)
		p.layer, below = layer, layer
		plan = append(plan, p)
	}
	return plan, state, nil
}

func (b *builder) find(a steps.Action) ([]buildctx.Match, string, error) {
	if b.Context == nil {
		return nil, "", errors.New(errors.InvalidArgument, "there is no context to copy from").WithField("source.context").
			WithHint("give the context's directory: aetherium template build NAME -f FILE DIRECTORY")
	}
	matches, err := b.Context.Find(a.Sources)
	if err != nil {
		return nil, "", err
	}
	selection, err := b.Context.Lay(matches, "")
	if err != nil {
		return nil, "", err
	}
	return matches, selection.Digest(), nil
}

// kept tells how many steps' layers are there, from the first: the deepest
// layer that is kept has all those before it in it.
func (b *builder) kept(ctx context.Context, plan []planned) (int, error) {
	if b.NoCache {
		return 0, nil
	}
	for n := len(plan); n > 0; n-- {
		has, err := b.node.HasLayer(ctx, plan[n-1].layer)
		if err != nil {
			return 0, err
		}
		if has {
			return n, nil
		}
	}
	return 0, nil
}

func (b *builder) do(ctx context.Context, p planned) error {
	var err error
	switch p.action.Step.Kind {
	case steps.Run:
		err = b.run(ctx, p)
	case steps.Copy:
		err = b.copyFiles(ctx, p)
	case steps.WorkDir:
		err = b.machine.MakeDir(ctx, p.action.Dir)
	}
	if err != nil {
		return err
	}
	return b.machine.Keep(ctx, p.layer, p.below, p.action.Step.Text)
}

func (b *builder) run(ctx context.Context, p planned) error {
	out := output{say: func(line string) { b.say(p.number, line) }}
	exit, err := b.machine.Run(ctx, p.action, out.write)
	out.close()
	if errors.HasCode(err, errors.InvalidArgument) { // a program, user or directory that is not there
		return errors.Wrap(err, errors.InvalidArgument, "%s (%s)", errors.Public(err).Message, steps.CodeFailed)
	}
	if err != nil {
		return err
	}
	var what string
	switch {
	case exit.Lost != "":
		what = "was lost: " + exit.Lost
	case exit.Code == 0:
		return nil
	default:
		what = fmt.Sprintf("failed with exit code %d", exit.Code)
	}
	if exit.OOM {
		what += ", out of memory"
	}
	failed := errors.New(errors.InvalidArgument, "the command %s (%s)%s", what, steps.CodeFailed, out.tail())
	if exit.OOM {
		return failed.WithHint("give the build more: --memory")
	}
	return failed
}

func (b *builder) copyFiles(ctx context.Context, p planned) error {
	a := p.action
	dir, rename := a.Dir, ""
	if !a.AsDir && !(len(p.copies) == 1 && p.copies[0].IsDir) {
		isDir, err := b.machine.IsDir(ctx, dir)
		if err != nil {
			return err
		}
		if !isDir {
			if len(p.copies) > 1 {
				return &steps.Error{
					Line: a.Step.Line, Code: steps.CodeNeedsDirectory, Message: "several files need a directory as destination", Hint: `end it with "/"`,
				}
			}
			if dir, rename = path.Split(a.Dir); rename == "" {
				return errors.New(errors.InvalidArgument, "%q is not a file's name", a.Dir)
			}
		}
	}
	selection, err := b.Context.Lay(p.copies, rename)
	if err != nil {
		return err
	}
	if mode, ok := a.Mode(); ok {
		selection.Chmod(mode)
	}
	r, w := io.Pipe()
	go func() { _ = w.CloseWithError(selection.WriteTar(ctx, w)) }()
	defer r.Close()
	return b.machine.Unpack(ctx, dir, a.Chown, r)
}

// blame names the line and the step in an error that does not.
func (b *builder) blame(s steps.Step, err error) error {
	var own *steps.Error
	if err == nil || errors.As(err, &own) || errors.HasCode(err, errors.Canceled) {
		return err
	}
	public := errors.Public(err)
	switch public.Code {
	case errors.DeadlineExceeded: // what it was at when time was up
		return errors.Wrap(err, public.Code, "line %d: %s", s.Line, short(s.Text))
	case errors.Internal: // not the file's fault
		return errors.Wrap(err, public.Code, "line %d: %s: %s", s.Line, short(s.Text), public.Message)
	}
	e := errors.Wrap(err, public.Code, "line %d: %s: %s", s.Line, short(s.Text), public.Message)
	e.Hint, e.Field, e.RetryAfter = public.Hint, public.Field, public.RetryAfter
	if strings.HasPrefix(e.Field, "source.image") || e.Field == "" {
		e.Field = "source.steps"
	}
	return e
}

func short(text string) string {
	const most = 120
	if len(text) > most {
		return strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}
