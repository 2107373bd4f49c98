package nodelink

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"sync/atomic"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

type (
	byID struct {
		ID domain.ID
	}
	ofProject struct {
		Project, ID domain.ID
	}
	startExecution struct {
		VM  *domain.VM
		Req vmm.StartExecution
	}
	runExecution struct {
		VM, Project domain.ID
		Req         vmm.StartExecution
	}
	ranExecution struct {
		Execution *domain.Execution
		Output    bool // comes next
	}
	readOutput struct {
		Execution *domain.Execution
		From      int64
		Follow    bool
	}
	writeStdin struct {
		ID     domain.ID
		Offset int64
		Length int
	}
	resizePTY struct {
		ID   domain.ID
		Size domain.PTYSize
	}
	signalExecution struct {
		ID     domain.ID
		Signal int
	}
)

func (s *server) executions() {
	answers(s, "executions.start", func(ctx context.Context, in startExecution) (*domain.Execution, error) {
		return s.node.StartExecution(ctx, in.VM, in.Req)
	})
	streams(s, "executions.run", func(ctx context.Context, in runExecution, _ io.Reader, out *answer) error {
		x, r, err := s.node.Execute(ctx, &domain.VM{ID: in.VM, ProjectID: in.Project}, in.Req)
		if err != nil {
			return err
		}
		if r == nil {
			return out.begin(ranExecution{Execution: x})
		}
		defer func() { _ = r.Close() }()
		var first *domain.OutputEvent
		if !in.Req.Command.Stdin { // else whoever asks has to know that it runs, to give it something
			first, err = early(ctx, r)
		}
		if err != nil || first == nil {
			if berr := out.begin(ranExecution{x, true}); berr != nil || err != nil {
				return errors.Join(err, berr)
			}
			return sendOutput(ctx, r, out)
		}
		if err := out.hold(ranExecution{x, true}); err != nil {
			return err
		}
		if last, err := sendEvent(*first, out); last || err != nil {
			return err
		}
		return sendOutput(ctx, r, out)
	})
	answers(s, "executions.get", func(ctx context.Context, in byID) (*domain.Execution, error) {
		return s.node.Execution(ctx, in.ID)
	})
	answers(s, "executions.wait", func(ctx context.Context, in byID) (*domain.Execution, error) {
		return s.node.WaitExecution(ctx, in.ID)
	})
	answers(s, "executions.flush", func(ctx context.Context, _ none) (none, error) {
		return none{}, s.node.FlushExecutions(ctx)
	})
	takes(s, "stdin.write", func(ctx context.Context, in writeStdin, body io.Reader) (none, error) {
		if in.Length < 0 || in.Length > maxLine {
			return none{}, errors.New(errors.TooLarge, "a piece of input has %d bytes", in.Length)
		}
		data := make([]byte, in.Length)
		if _, err := io.ReadFull(body, data); err != nil {
			return none{}, errors.Wrap(err, errors.InvalidArgument, "a piece of input was cut off")
		}
		return none{}, s.node.WriteStdin(ctx, in.ID, in.Offset, data)
	})
	answers(s, "stdin.offset", func(ctx context.Context, in byID) (int64, error) {
		return s.node.StdinOffset(ctx, in.ID)
	})
	answers(s, "stdin.close", func(ctx context.Context, in byID) (none, error) {
		return none{}, s.node.CloseStdin(ctx, in.ID)
	})
	answers(s, "pty.resize", func(ctx context.Context, in resizePTY) (none, error) {
		return none{}, s.node.ResizePTY(ctx, in.ID, in.Size)
	})
	answers(s, "executions.signal", func(ctx context.Context, in signalExecution) (none, error) {
		return none{}, s.node.SignalExecution(ctx, in.ID, in.Signal)
	})
	streams(s, "output.read", func(ctx context.Context, in readOutput, body io.Reader, out *answer) error {
		r, err := s.node.Output(ctx, in.Execution, in.From, in.Follow)
		if err != nil {
			return err
		}
		defer func() { _ = r.Close() }()
		if err := out.begin(none{}); err != nil {
			return err
		}
		// Whether the command is to wait for the reader is known once it reads.
		how := make([]byte, 1)
		if _, err := io.ReadFull(body, how); err != nil {
			return err
		}
		if how[0] == holding {
			r.Hold()
		}
		return sendOutput(ctx, r, out)
	})
}

const (
	holding = 'h'
	looking = 'l'
)

// outputHead is an event of output before its bytes.
type outputHead struct {
	Offset int64                `json:"o,omitempty"`
	Stream domain.OutputStream  `json:"s,omitempty"`
	Length int                  `json:"n,omitempty"`
	Gap    *domain.OutputGap    `json:"g,omitempty"`
	End    *domain.ExecutionEnd `json:"e,omitempty"`
}

// event is the event without its bytes.
func (h outputHead) event() domain.OutputEvent {
	return domain.OutputEvent{Offset: h.Offset, Stream: h.Stream, Gap: h.Gap, End: h.End}
}

// together is how long the answer to who runs a command waits for its first output,
// or its end, to be sent with it: to send anything costs both sides more than a short
// command runs.
const together = 3 * time.Millisecond

// early gives the first event of an output if it comes at once. EOF comes again.
func early(ctx context.Context, r vmm.OutputReader) (*domain.OutputEvent, error) {
	soon, cancel := context.WithTimeout(ctx, together)
	defer cancel()
	e, err := r.Next(soon)
	switch {
	case err == nil:
		return &e, nil
	case err == io.EOF, ctx.Err() == nil && soon.Err() != nil: //nolint:errorlint // returned bare
		return nil, nil
	}
	return nil, err
}

func sendOutput(ctx context.Context, r vmm.OutputReader, out *answer) error {
	for {
		e, err := r.Next(ctx)
		if err == io.EOF { //nolint:errorlint // returned bare
			return nil
		}
		if err != nil {
			return err
		}
		if last, err := sendEvent(e, out); last || err != nil {
			return err
		}
	}
}

// sendEvent sends an event. Nothing comes after an execution's end, which goes with
// the end of the answer.
func sendEvent(e domain.OutputEvent, out *answer) (last bool, err error) {
	head, err := line(outputHead{e.Offset, e.Stream, len(e.Data), e.Gap, e.End})
	if err != nil {
		return false, err
	}
	if head = append(head, e.Data...); e.End != nil {
		return true, out.add(head)
	}
	_, err = out.Write(head)
	return false, err
}

// StartExecution implements service.Node.
func (c *Client) StartExecution(ctx context.Context, vm *domain.VM, req vmm.StartExecution) (*domain.Execution, error) {
	return call[*domain.Execution](ctx, c, "executions.start", startExecution{vm, req})
}

// Execute implements service.Node. A node of before is asked for the two things that
// it knows.
func (c *Client) Execute(ctx context.Context, vm *domain.VM, req vmm.StartExecution) (*domain.Execution, vmm.OutputReader, error) {
	if !c.older.is(time.Now()) {
		var ran ranExecution
		r, err := c.straight(ctx, "executions.run", runExecution{vm.ID, vm.ProjectID, req}, &ran)
		if err == nil && !ran.Output {
			return ran.Execution, nil, r.Close()
		}
		if err == nil {
			return ran.Execution, &directOutput{reply: r}, nil
		}
		if !errors.HasCode(err, errors.Unsupported) {
			return nil, nil, err
		}
		c.older.found(time.Now())
	}
	x, err := c.StartExecution(ctx, vm, req)
	return x, nil, err
}

// olderFor is how long a node is taken to be older than a call, once it was: it may
// be updated at any time, and to ask it for what it does not know costs a call.
const olderFor = time.Minute

// older remembers that a node is older than a call.
type older struct{ until atomic.Int64 } // in ns since 1970

func (o *older) is(now time.Time) bool { return now.UnixNano() < o.until.Load() }

func (o *older) found(now time.Time) { o.until.Store(now.Add(olderFor).UnixNano()) }

// directOutput is the output of an execution at another node, in the answer of the call
// that began it. It ends with the context of that call.
type directOutput struct {
	reply   *reply
	reading chan outputEvent // gets the event that is read beside who waits; nil: none is
	ended   bool             // the execution's end was the last event
	last    error            // after the last event
}

// Hold implements vmm.OutputReader: it is too late for that.
func (o *directOutput) Hold() {}

// Next implements vmm.OutputReader.
func (o *directOutput) Next(ctx context.Context) (domain.OutputEvent, error) {
	if o.last != nil {
		return domain.OutputEvent{}, o.last
	}
	if o.reading == nil {
		if e, here := eventHere(o.reply.Reader); here {
			return o.told(e, nil)
		}
		reading := make(chan outputEvent, 1)
		go func() {
			e, err := nextEvent(o.reply.Reader)
			reading <- outputEvent{e, err}
		}()
		o.reading = reading
	}
	select {
	case e := <-o.reading:
		o.reading = nil
		return o.told(e.OutputEvent, e.err)
	case <-ctx.Done(): // the next one to ask gets what comes
		return domain.OutputEvent{}, ctx.Err()
	}
}

func (o *directOutput) told(e domain.OutputEvent, err error) (domain.OutputEvent, error) {
	if err != nil {
		o.last = o.reply.why(err)
	}
	o.ended = e.End != nil
	return e, o.last
}

// ending is how long the end of an answer is waited for, which comes with its last
// event. A connection whose answer was read to its end is used again.
const ending = 50 * time.Millisecond

// Close implements vmm.OutputReader.
func (o *directOutput) Close() error {
	if o.ended && o.reading == nil {
		late := time.AfterFunc(ending, o.reply.cancel)
		_, _ = o.reply.Peek(1)
		late.Stop()
	}
	o.reply.cancel()
	if o.reading != nil {
		<-o.reading
		o.reading = nil
	}
	return o.reply.Close()
}

// eventHere gives the next event if all of it has come already.
func eventHere(r *bufio.Reader) (e domain.OutputEvent, here bool) {
	all, _ := r.Peek(r.Buffered())
	n := bytes.IndexByte(all, '\n') + 1
	var head outputHead
	if n == 0 || json.Unmarshal(all[:n], &head) != nil || head.Length < 0 || head.Length > len(all)-n {
		return e, false // what is wrong with it is found by nextEvent
	}
	e = head.event()
	if head.Length > 0 {
		e.Data = bytes.Clone(all[n : n+head.Length])
	}
	_, _ = r.Discard(n + head.Length)
	return e, true
}

// Execution implements service.Node.
func (c *Client) Execution(ctx context.Context, id domain.ID) (*domain.Execution, error) {
	return call[*domain.Execution](ctx, c, "executions.get", byID{id})
}

// WaitExecution implements service.Node.
func (c *Client) WaitExecution(ctx context.Context, id domain.ID) (*domain.Execution, error) {
	return call[*domain.Execution](ctx, c, "executions.wait", byID{id})
}

// FlushExecutions implements service.Node.
func (c *Client) FlushExecutions(ctx context.Context) error {
	_, err := call[none](ctx, c, "executions.flush", none{})
	return err
}

// WriteStdin implements service.Node.
func (c *Client) WriteStdin(ctx context.Context, id domain.ID, offset int64, data []byte) error {
	_, err := send[none](ctx, c, "stdin.write", writeStdin{id, offset, len(data)}, bytes.NewReader(data))
	return err
}

// StdinOffset implements service.Node.
func (c *Client) StdinOffset(ctx context.Context, id domain.ID) (int64, error) {
	return call[int64](ctx, c, "stdin.offset", byID{id})
}

// CloseStdin implements service.Node.
func (c *Client) CloseStdin(ctx context.Context, id domain.ID) error {
	_, err := call[none](ctx, c, "stdin.close", byID{id})
	return err
}

// ResizePTY implements service.Node.
func (c *Client) ResizePTY(ctx context.Context, id domain.ID, size domain.PTYSize) error {
	_, err := call[none](ctx, c, "pty.resize", resizePTY{id, size})
	return err
}

// SignalExecution implements service.Node.
func (c *Client) SignalExecution(ctx context.Context, id domain.ID, signal int) error {
	_, err := call[none](ctx, c, "executions.signal", signalExecution{id, signal})
	return err
}

// Output implements service.Node.
func (c *Client) Output(ctx context.Context, x *domain.Execution, from int64, follow bool) (vmm.OutputReader, error) {
	// The reader outlasts the context that it is opened with.
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	how, say := io.Pipe()
	r, err := c.open(life, "output.read", readOutput{x, from, follow}, how, new(none))
	if stop() && err == nil {
		return &output{reply: r, life: life, cancel: cancel, say: say, how: looking, events: make(chan outputEvent), done: make(chan struct{})}, nil
	}
	cancel()
	if err == nil {
		_ = r.Close()
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	_ = how.Close()
	return nil, err
}

// output is the output of an execution at another node.
type output struct {
	reply   *reply
	life    context.Context
	cancel  context.CancelFunc
	say     *io.PipeWriter
	how     byte
	started bool
	events  chan outputEvent // one is read ahead
	done    chan struct{}    // closed when nothing more is read
	last    error            // after the last event
}

type outputEvent struct {
	domain.OutputEvent
	err error
}

// Hold implements vmm.OutputReader.
func (o *output) Hold() { o.how = holding }

// Next implements vmm.OutputReader.
func (o *output) Next(ctx context.Context) (domain.OutputEvent, error) {
	if o.last != nil {
		return domain.OutputEvent{}, o.last
	}
	if !o.started {
		o.started = true
		go o.read()
	}
	select {
	case e := <-o.events:
		o.last = e.err
		return e.OutputEvent, e.err
	case <-ctx.Done():
		return domain.OutputEvent{}, ctx.Err()
	}
}

// read reads events until one of them is an error.
func (o *output) read() {
	defer close(o.done)
	_, err := o.say.Write([]byte{o.how})
	for {
		var e outputEvent
		if err == nil {
			e.OutputEvent, err = nextEvent(o.reply.Reader)
		}
		if err != nil {
			e = outputEvent{err: o.reply.why(err)}
		}
		select {
		case o.events <- e:
		case <-o.life.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

func nextEvent(r *bufio.Reader) (domain.OutputEvent, error) {
	if _, err := r.Peek(1); err != nil {
		return domain.OutputEvent{}, err
	}
	var head outputHead
	if err := readLine(r, &head); err != nil {
		return domain.OutputEvent{}, err
	}
	if head.Length < 0 || head.Length > maxLine {
		return domain.OutputEvent{}, garbled(nil)
	}
	e := head.event()
	if head.Length > 0 {
		e.Data = make([]byte, head.Length)
		if _, err := io.ReadFull(r, e.Data); err != nil {
			return domain.OutputEvent{}, err
		}
	}
	return e, nil
}

// Close implements vmm.OutputReader.
func (o *output) Close() error {
	o.cancel()
	err := o.say.Close()
	if o.started {
		<-o.done
	}
	return errors.Join(err, o.reply.Close())
}
