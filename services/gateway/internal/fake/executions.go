package fake

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// Program is what a command's first argument names.
type Program func(p *Process) (exitCode int)

// Process is a running program's world.
type Process struct {
	Args           []string
	Env            map[string]string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Signals        <-chan int
	Sizes          <-chan domain.PTYSize
}

// Program adds a program.
func (o *Orchestrator) Program(name string, p Program) { o.locked(func() { o.programs[name] = p }) }

func builtins() map[string]Program {
	return map[string]Program{
		"true":  func(*Process) int { return 0 },
		"false": func(*Process) int { return 1 },
		"echo": func(p *Process) int {
			_, _ = fmt.Fprintln(p.Stdout, strings.Join(p.Args[1:], " "))
			return 0
		},
		"warn": func(p *Process) int {
			_, _ = fmt.Fprintln(p.Stderr, strings.Join(p.Args[1:], " "))
			return 0
		},
		"cat": func(p *Process) int { _, _ = io.Copy(p.Stdout, p.Stdin); return 0 },
		"raw": func(p *Process) int { _, _ = p.Stdout.Write([]byte{0xff, 0xfe}); return 0 },
		"env": func(p *Process) int { _, _ = fmt.Fprintln(p.Stdout, p.Env[p.Args[1]]); return 0 },
		"wait": func(p *Process) int { // for a signal
			_, _ = fmt.Fprintln(p.Stdout, "waiting")
			return 128 + <-p.Signals
		},
		"winch": func(p *Process) int { // for a new size of its terminal
			s := <-p.Sizes
			_, _ = fmt.Fprintf(p.Stdout, "%dx%d\n", s.Cols, s.Rows)
			return 0
		},
		"lines": func(p *Process) int { // a count of numbered lines, by turns on stdout and stderr
			n, _ := strconv.Atoi(p.Args[1])
			for i := range n {
				w := p.Stdout
				if i%2 == 1 {
					w = p.Stderr
				}
				_, _ = fmt.Fprintf(w, "line %d\n", i)
			}
			return 0
		},
		"/bin/bash": func(p *Process) int {
			_, _ = fmt.Fprintln(p.Stdout, "bash:", p.Args[len(p.Args)-1])
			return 0
		},
	}
}

type execution struct {
	domain.Execution
	events  []domain.OutputEvent
	from    int64 // below is dropped
	written int64
	end     *domain.ExecutionEnd
	stdin   *stdin
	signals chan int
	sizes   chan domain.PTYSize
}

// StartExecution implements vmm.Executions.
func (o *Orchestrator) StartExecution(_ context.Context, by vmm.Caller, id domain.ID, req vmm.StartExecution) (*domain.Execution, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if x, ok := o.execs[req.ID]; ok && req.ID != "" {
		if x.ProjectID != by.ProjectID {
			return nil, errors.New(errors.AlreadyExists, "the ID is taken")
		}
		if was := x.Command.Request; was != "" && req.Command.Request != "" && was != req.Command.Request {
			return nil, errors.New(errors.IdempotencyMismatch, "this Idempotency-Key was used for another request")
		}
		c := x.Execution
		return &c, nil
	}
	v, err := o.running(by, id)
	if err != nil {
		return nil, err
	}
	program, ok := o.programs[req.Command.Args[0]]
	if !ok {
		return nil, errors.New(errors.InvalidArgument, "%q is not in PATH", req.Command.Args[0]).WithField("args")
	}
	if req.ID == "" {
		req.ID = domain.NewID()
	}
	now := time.Now().UTC()
	x := &execution{
		Execution: domain.Execution{
			ID: req.ID, ProjectID: by.ProjectID, VMID: id, Epoch: v.Epoch, Command: req.Command, State: domain.ExecutionRunning,
			PID: int32(100 + len(o.execs)), CreatedAt: now, StartedAt: &now,
		},
		signals: make(chan int, 1), sizes: make(chan domain.PTYSize, 1),
	}
	o.execs[x.ID] = x
	p := &Process{
		Args: req.Command.Args, Env: req.Command.Env, Stdin: bytes.NewReader(nil), Signals: x.signals, Sizes: x.sizes,
		Stdout: journal{o, x, domain.Stdout}, Stderr: journal{o, x, domain.Stderr},
	}
	if req.Command.PTY != nil {
		p.Stdout, p.Stderr = journal{o, x, domain.PTY}, journal{o, x, domain.PTY}
	}
	if req.Command.Stdin || req.Command.PTY != nil {
		x.stdin = &stdin{o: o}
		p.Stdin = x.stdin
	}
	go func() {
		code := program(p)
		o.locked(func() {
			end := time.Now().UTC()
			x.State, x.ExitCode, x.EndedAt, x.OutputBytes = domain.ExecutionExited, &code, &end, x.written
			if code > 128 {
				x.Signal = code - 128
			}
			x.end = &domain.ExecutionEnd{ExitCode: code, Signal: x.Signal}
		})
	}()
	c := x.Execution
	return &c, nil
}

// journal is a stream that a program writes to.
type journal struct {
	o      *Orchestrator
	x      *execution
	stream domain.OutputStream
}

func (j journal) Write(p []byte) (int, error) {
	j.o.locked(func() {
		j.x.events = append(j.x.events, domain.OutputEvent{Offset: j.x.written, Stream: j.stream, Data: bytes.Clone(p)})
		j.x.written += int64(len(p))
	})
	return len(p), nil
}

// Drop forgets an execution's output below an offset, which must lie between two events.
func (o *Orchestrator) Drop(id domain.ID, below int64) {
	o.locked(func() {
		x := o.execs[id]
		for len(x.events) > 0 && x.events[0].Offset < below {
			x.events = x.events[1:]
		}
		x.from = below
	})
}

func (o *Orchestrator) exec(by vmm.Caller, id domain.ID) (*execution, error) {
	x, ok := o.execs[id]
	if !ok || x.ProjectID != by.ProjectID {
		return nil, errors.New(errors.NotFound, "there is no execution %s", id)
	}
	return x, nil
}

func (o *Orchestrator) liveExec(by vmm.Caller, id domain.ID) (*execution, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	x, err := o.exec(by, id)
	if err == nil && x.end != nil {
		err = errors.New(errors.Conflict, "the execution has ended")
	}
	return x, err
}

// GetExecution implements vmm.Executions.
func (o *Orchestrator) GetExecution(_ context.Context, by vmm.Caller, id domain.ID) (*domain.Execution, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	x, err := o.exec(by, id)
	if err != nil {
		return nil, err
	}
	c := x.Execution
	return &c, nil
}

// ListExecutions implements vmm.Executions.
func (o *Orchestrator) ListExecutions(_ context.Context, by vmm.Caller, id domain.ID, p vmm.Page) (list vmm.ExecutionList, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, err := o.find(by, id); err != nil {
		return list, err
	}
	var all []*domain.Execution
	for _, x := range o.execs {
		if x.VMID == id {
			c := x.Execution
			all = append(all, &c)
		}
	}
	list.List, err = page(all, p)
	return list, err
}

// WaitExecution implements vmm.Executions.
func (o *Orchestrator) WaitExecution(ctx context.Context, by vmm.Caller, id domain.ID) (*domain.Execution, error) {
	var c domain.Execution
	var failed error
	err := o.until(ctx, func() bool {
		x, err := o.exec(by, id)
		if failed = err; err != nil {
			return true
		}
		c = x.Execution
		return x.end != nil
	})
	return &c, errors.Join(err, failed)
}

type reader struct {
	o      *Orchestrator
	x      *execution
	at     int64
	follow bool
	ended  bool
}

// Execute implements vmm.Executions.
func (o *Orchestrator) Execute(ctx context.Context, by vmm.Caller, id domain.ID, req vmm.StartExecution) (*domain.Execution, vmm.OutputReader, error) {
	x, err := o.StartExecution(ctx, by, id, req)
	if err != nil {
		return nil, nil, err
	}
	out, err := o.Output(ctx, by, x.ID, 0, true)
	return x, out, err
}

// Output implements vmm.Executions.
func (o *Orchestrator) Output(_ context.Context, by vmm.Caller, id domain.ID, from int64, follow bool) (vmm.OutputReader, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	x, err := o.exec(by, id)
	if err != nil {
		return nil, err
	}
	if from > x.written {
		return nil, errors.New(errors.OutOfRange, "offset %d is beyond the %d bytes written", from, x.written).WithField("offset")
	}
	return &reader{o: o, x: x, at: from, follow: follow}, nil
}

// Hold is for readers that may miss something; here nothing is dropped.
func (r *reader) Hold() {}

func (r *reader) Next(ctx context.Context) (domain.OutputEvent, error) {
	var ev domain.OutputEvent
	eof := r.ended
	err := r.o.until(ctx, func() bool {
		switch {
		case eof:
		case r.at < r.x.from:
			ev = domain.OutputEvent{Offset: r.at, Gap: &domain.OutputGap{From: r.at, To: r.x.from}}
			r.at = r.x.from
		case r.at < r.x.written:
			i := sort.Search(len(r.x.events), func(i int) bool {
				return r.x.events[i].Offset+int64(len(r.x.events[i].Data)) > r.at
			})
			e := r.x.events[i]
			ev = domain.OutputEvent{Offset: r.at, Stream: e.Stream, Data: e.Data[r.at-e.Offset:]}
			r.at += int64(len(ev.Data))
		case r.x.end != nil:
			ev = domain.OutputEvent{Offset: r.x.written, End: r.x.end}
			r.ended = true
		case r.follow:
			return false
		default:
			eof = true
		}
		return true
	})
	if err == nil && eof {
		err = io.EOF
	}
	return ev, err
}

func (r *reader) Close() error { return nil }

// maxUnread is how much input a program may leave unread before its writers wait.
const maxUnread = 64 << 10

// stdin is a program's input: a bounded buffer, filled in order of offsets.
type stdin struct {
	o      *Orchestrator
	unread []byte
	taken  int64
	closed bool
}

func (in *stdin) Read(p []byte) (n int, err error) {
	_ = in.o.until(context.Background(), func() bool { return len(in.unread) > 0 || in.closed })
	in.o.locked(func() {
		if n = copy(p, in.unread); n == 0 {
			err = io.EOF
		}
		in.unread = in.unread[n:]
	})
	return n, err
}

// WriteStdin implements vmm.Executions. It blocks while the program does not read.
func (o *Orchestrator) WriteStdin(ctx context.Context, by vmm.Caller, id domain.ID, offset int64, data []byte) error {
	x, err := o.liveExec(by, id)
	if err != nil {
		return err
	}
	in := x.stdin
	if in == nil {
		return errors.New(errors.InvalidArgument, "the execution was started without stdin")
	}
	appends := offset < 0
	for done := false; !done; {
		err := o.until(ctx, func() bool { return len(in.unread) < maxUnread || x.end != nil })
		if err != nil {
			return err
		}
		o.locked(func() {
			switch skip := in.taken - offset; {
			case x.end != nil:
				err = errors.New(errors.Conflict, "the execution has ended")
			case appends:
			case skip < 0:
				err = errors.New(errors.OutOfRange, "input from %d to %d is missing", in.taken, offset)
			default: // what was taken before is skipped
				skip = min(skip, int64(len(data)))
				data, offset = data[skip:], offset+skip
			}
			if err != nil || in.closed {
				return
			}
			n := max(0, min(len(data), maxUnread-len(in.unread)))
			in.unread = append(in.unread, data[:n]...)
			in.taken += int64(n)
			data, offset = data[n:], offset+int64(n)
		})
		if err != nil {
			return err
		}
		done = len(data) == 0
	}
	return nil
}

// StdinOffset implements ws.StdinTeller.
func (o *Orchestrator) StdinOffset(_ context.Context, by vmm.Caller, id domain.ID) (int64, error) {
	x, err := o.liveExec(by, id)
	if err != nil {
		return 0, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if x.stdin == nil {
		return 0, errors.New(errors.InvalidArgument, "the execution was started without stdin")
	}
	return x.stdin.taken, nil
}

// CloseStdin implements vmm.Executions.
func (o *Orchestrator) CloseStdin(_ context.Context, by vmm.Caller, id domain.ID) error {
	x, err := o.liveExec(by, id)
	if err != nil {
		return err
	}
	o.locked(func() {
		if x.stdin != nil {
			x.stdin.closed = true
		}
	})
	return nil
}

// ResizePTY implements vmm.Executions.
func (o *Orchestrator) ResizePTY(_ context.Context, by vmm.Caller, id domain.ID, size domain.PTYSize) error {
	x, err := o.liveExec(by, id)
	if err != nil {
		return err
	}
	if x.Command.PTY == nil {
		return errors.New(errors.InvalidArgument, "the execution has no terminal")
	}
	select {
	case x.sizes <- size:
	default:
	}
	return nil
}

// SignalExecution implements vmm.Executions.
func (o *Orchestrator) SignalExecution(_ context.Context, by vmm.Caller, id domain.ID, signal int) error {
	x, err := o.liveExec(by, id)
	if err != nil {
		return err
	}
	select {
	case x.signals <- signal:
	default:
	}
	return nil
}
