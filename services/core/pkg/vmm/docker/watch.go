package docker

import (
	"context"
	"io"
	"sync/atomic"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/guest/mux"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// watch is one run of a machine in this process: the channel to its agent, and
// the news of its end.
type watch struct {
	id        string
	container string
	startedAt string // with the container, which run it is
	channel   *mux.Mux
	done      chan struct{} // closed when the run has ended, or the driver was closed
	exit      *vmm.Exit     // once done; nil when the driver was closed first
	ordered   atomic.Bool   // we end it
	paused    atomic.Bool

	ask   context.Context // of the engine, how it ends; over when it is known without that
	stop  context.CancelFunc
	known atomic.Pointer[vmm.Exit]
}

// follow gives the watch of a machine that runs. One of an earlier run, of which
// the engine has not told yet, has come to its end.
func (d *Driver) follow(id string, c *container.InspectResponse) (*watch, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, errors.New(errors.Unavailable, "the driver is closed")
	}
	if w := d.watches[id]; w != nil && !w.ended() {
		if w.of(c) || later(w.startedAt, c.State.StartedAt) { // or the container was looked at before this run
			return w, nil
		}
		w.end(vmm.Exit{At: time.Now().UTC()}) // its container tells of the newer run only
	}
	w := &watch{id: id, container: c.ID, startedAt: c.State.StartedAt, done: make(chan struct{})}
	w.ask, w.stop = context.WithCancel(d.ctx)
	w.paused.Store(c.State.Paused)
	w.channel = mux.New(mux.Host, func(ctx context.Context) (io.ReadWriteCloser, error) { return d.attach(ctx, w) }, mux.Options{Log: d.log})
	d.watches[id] = w
	d.working.Go(func() { d.attend(w) })
	return w, nil
}

// watched gives the watch that there is, or nil.
func (d *Driver) watched(id string) *watch {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.watches[id]
}

// of reports whether it is the container's run, or last run, that is watched.
func (w *watch) of(c *container.InspectResponse) bool {
	return w.container == c.ID && w.startedAt == c.State.StartedAt
}

// later compares times of the engine.
func later(a, b string) bool {
	at, errA := time.Parse(time.RFC3339Nano, a)
	than, errB := time.Parse(time.RFC3339Nano, b)
	return errA == nil && errB == nil && at.After(than)
}

// rested has the watch that is left of a machine that does not run any more come
// to its end, before the machine is started again.
func (d *Driver) rested(ctx context.Context, id string, c *container.InspectResponse) error {
	w := d.watched(id)
	if w == nil || !w.of(c) {
		return nil
	}
	w.end(w.exitOf(c.State))
	select {
	case <-w.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// end has the watch end by what is known, if the engine has not told yet.
func (w *watch) end(exit vmm.Exit) {
	w.known.CompareAndSwap(nil, &exit)
	w.stop()
}

func (w *watch) ended() bool {
	select {
	case <-w.done:
		return true
	default:
		return false
	}
}

// attend waits for the run's end, which the engine tells.
func (d *Driver) attend(w *watch) {
	defer func() {
		d.mu.Lock()
		if d.watches[w.id] == w {
			delete(d.watches, w.id)
		}
		d.mu.Unlock()
		w.stop()
		close(w.done)
		_ = w.channel.Close()
	}()
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		result := d.engine.ContainerWait(w.ask, w.container, client.ContainerWaitOptions{Condition: container.WaitConditionNotRunning})
		select {
		case end := <-result.Result:
			w.exit = d.autopsy(w, int(end.StatusCode))
			return
		case err := <-result.Error:
			if w.ask.Err() != nil {
				w.exit = w.known.Load()
				return
			}
			if errors.HasCode(said(err, ""), errors.NotFound) {
				w.exit = &vmm.Exit{At: time.Now().UTC()}
				return
			}
			d.log.Debug("the engine does not tell of a machine's end", "machine", w.id, "error", err)
		}
		// The engine is gone for a while; what it says next is what is so.
		select {
		case <-time.After(pause):
		case <-w.ask.Done():
			w.exit = w.known.Load()
			return
		}
	}
}

// autopsy tells how a run ended.
func (d *Driver) autopsy(w *watch, code int) *vmm.Exit {
	state := &container.State{ExitCode: code}
	if c, err := d.inspect(d.ctx, w.id); err == nil && w.of(c) && !c.State.Running {
		state = c.State
	}
	exit := w.exitOf(state)
	return &exit
}

// exitOf is how the run ended, given its container.
func (w *watch) exitOf(s *container.State) vmm.Exit {
	exit := exitOf(s)
	if w.ordered.Load() {
		exit.OOM = false
	}
	return exit
}

// exitOf is how a container ended that does not run.
func exitOf(s *container.State) vmm.Exit {
	exit := vmm.Exit{Known: true, Code: s.ExitCode, At: time.Now().UTC()}
	if at, err := time.Parse(time.RFC3339Nano, s.FinishedAt); err == nil && at.Year() > 1 {
		exit.At = at.UTC()
	}
	if s.Status == container.StateCreated {
		exit.Known = false // it never ran
	}
	const bySignal = 128
	if s.ExitCode > bySignal && s.ExitCode <= bySignal+64 {
		exit.Signal = s.ExitCode - bySignal
	}
	// The engine notes any process that the limit ended; the first one ends by SIGKILL.
	exit.OOM = s.OOMKilled && exit.Signal == 9
	return exit
}

// Wait blocks until the machine no longer runs. See [vmm.Driver].
func (d *Driver) Wait(ctx context.Context, id string) (vmm.Exit, error) {
	w := d.watched(id)
	if w == nil {
		c, err := d.inspect(ctx, id)
		if err != nil {
			return vmm.Exit{}, err
		}
		if !c.State.Running {
			return exitOf(c.State), nil
		}
		if w, err = d.follow(id, c); err != nil {
			return vmm.Exit{}, err
		}
	}
	select {
	case <-w.done:
	case <-ctx.Done():
		return vmm.Exit{}, ctx.Err()
	}
	if w.exit == nil {
		return vmm.Exit{}, errors.New(errors.Unavailable, "the driver is closed")
	}
	return *w.exit, nil
}

// attach opens the stream to the agent. Where a run is over it waits: whoever
// follows it closes the channel.
func (d *Driver) attach(ctx context.Context, w *watch) (io.ReadWriteCloser, error) {
	r, err := d.engine.ContainerAttach(ctx, w.container, client.ContainerAttachOptions{Stream: true, Stdin: true, Stdout: true})
	if err != nil {
		return nil, err
	}
	// What comes is cut into frames that name their stream.
	out, in := io.Pipe()
	go func() {
		_, err := stdcopy.StdCopy(in, io.Discard, r.Reader)
		_ = in.CloseWithError(err)
	}()
	return &stream{HijackedResponse: r.HijackedResponse, out: out}, nil
}

// stream is an attached container: its input, and its output without frames.
type stream struct {
	client.HijackedResponse
	out *io.PipeReader
}

func (s *stream) Read(b []byte) (int, error)  { return s.out.Read(b) }
func (s *stream) Write(b []byte) (int, error) { return s.Conn.Write(b) }

func (s *stream) Close() error {
	s.HijackedResponse.Close()
	return s.out.Close()
}
