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
	channel   *mux.Mux
	done      chan struct{} // closed when the run has ended, or the driver was closed
	exit      *vmm.Exit     // once done; nil when the driver was closed first
	ordered   atomic.Bool   // we end it
	paused    atomic.Bool
}

// follow gives the watch of a machine that runs.
func (d *Driver) follow(id string, c *container.InspectResponse) (*watch, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, errors.New(errors.Unavailable, "the driver is closed")
	}
	if w := d.watches[id]; w != nil && !w.ended() {
		return w, nil
	}
	w := &watch{id: id, container: c.ID, done: make(chan struct{})}
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
		close(w.done)
		_ = w.channel.Close()
	}()
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		result := d.engine.ContainerWait(d.ctx, w.container, client.ContainerWaitOptions{Condition: container.WaitConditionNotRunning})
		select {
		case end := <-result.Result:
			w.exit = d.autopsy(w, int(end.StatusCode))
			return
		case err := <-result.Error:
			if d.ctx.Err() != nil {
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
		case <-d.ctx.Done():
			return
		}
	}
}

// autopsy tells how a run ended.
func (d *Driver) autopsy(w *watch, code int) *vmm.Exit {
	state := &container.State{ExitCode: code}
	if c, err := d.inspect(d.ctx, w.id); err == nil && c.ID == w.container && !c.State.Running {
		state = c.State
	}
	exit := exitOf(state)
	if w.ordered.Load() {
		exit.OOM = false
	}
	return &exit
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
