package container

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// DefaultStopTimeout is how long a service may take to stop unless it says otherwise.
const DefaultStopTimeout = 10 * time.Second

// Service is one part of a running program. Every function may be nil.
type Service struct {
	Name string
	// Start returns when the service is ready for those that start after it.
	// Its context is for starting only: it ends with the start of the app.
	Start func(ctx context.Context) error
	// Run works until its context ends. When it returns before that, with or
	// without an error, the program ends.
	Run func(ctx context.Context) error
	// Stop lets go of what Start made and makes Run return. Run's context ends
	// when Stop has returned.
	Stop func(ctx context.Context) error
	// StopTimeout bounds Stop and Run's return after it; 0: [DefaultStopTimeout].
	StopTimeout time.Duration
}

// App starts services in their order and stops them in reverse, once. Start,
// Stop and Run are safe to be called at any time, twice and concurrently.
type App struct {
	log      *slog.Logger
	services []Service

	mu       sync.Mutex // guards the fields below up to the next comment
	phase    phase
	stopping context.CancelCauseFunc // gives starting up
	cause    error                   // why the app ends; nil: it was asked to

	started  chan struct{} // closed when starting has succeeded or failed
	startErr error         // before started is closed
	ending   chan struct{} // closed when the app is to end
	stopped  chan struct{} // closed when everything has stopped
	stopErr  error         // before stopped is closed
	running  []*running    // of services that started, by the one who starts and then the one who stops
}

type phase int

const (
	created phase = iota
	begun
	ended // asked to end, perhaps before it began
)

type running struct {
	Service
	cancel context.CancelFunc
	done   chan struct{} // closed when Run has returned
	err    error         // before done is closed
}

// NewApp makes an app of services in the order they depend on each other.
func NewApp(log *slog.Logger, services ...Service) *App {
	return &App{
		log: log, services: services,
		started: make(chan struct{}), ending: make(chan struct{}), stopped: make(chan struct{}),
	}
}

// Start starts the services one after the other. When one fails, those before
// it are stopped, and its error is returned. Further calls wait for the first
// and return the same. Returns Canceled after Stop.
func (a *App) Start(ctx context.Context) error {
	a.mu.Lock()
	if a.phase != created {
		a.mu.Unlock()
		select {
		case <-a.started:
			return a.startErr
		case <-ctx.Done():
			return errors.Public(ctx.Err())
		}
	}
	a.phase = begun
	ctx, cancel := context.WithCancelCause(ctx)
	a.stopping = cancel
	a.mu.Unlock()
	defer cancel(nil)

	err := a.startAll(ctx)
	if err != nil {
		a.end(err)
	}
	a.startErr = err
	close(a.started)
	// The one who starts also waits for the end, so that the end of a service
	// stops the app even when nobody looks.
	go func() {
		<-a.ending
		a.stopErr = a.stopAll()
		close(a.stopped)
	}()
	if err != nil {
		<-a.stopped
		return errors.Join(err, a.stopErr)
	}
	return nil
}

func (a *App) startAll(ctx context.Context) error {
	for _, s := range a.services {
		if ctx.Err() != nil {
			return errors.Wrap(context.Cause(ctx), errors.Canceled, "starting was given up before %s", s.Name)
		}
		begin := time.Now()
		if s.Start != nil {
			if err := guard(s.Name, func() error { return s.Start(ctx) }); err != nil {
				return errors.Wrap(err, errors.CodeOf(err), "%s did not start: %s", s.Name, errors.Public(err).Message)
			}
		}
		// Run's life is the service's, not the call's that started it.
		rctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		r := &running{Service: s, cancel: cancel, done: make(chan struct{})}
		a.running = append(a.running, r)
		if s.Run == nil {
			close(r.done)
		} else {
			go a.run(rctx, r)
		}
		a.log.Debug("service started", "service", s.Name, "took", time.Since(begin))
	}
	return nil
}

func (a *App) run(ctx context.Context, r *running) {
	r.err = guard(r.Name, func() error { return r.Run(ctx) })
	close(r.done)
	if ctx.Err() != nil {
		return // it was asked to
	}
	if r.err != nil {
		a.end(errors.Wrap(r.err, errors.CodeOf(r.err), "%s failed: %s", r.Name, errors.Public(r.err).Message))
		return
	}
	a.end(errors.New(errors.Internal, "%s ended by itself", r.Name))
}

// guard turns a panic into an error, so that the other services still stop in order.
func guard(name string, f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = errors.Wrap(fmt.Errorf("%v\n%s", p, debug.Stack()), errors.Internal, "%s panicked", name)
		}
	}()
	return f()
}

// end begins the end; the first cause is kept.
func (a *App) end(cause error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.phase == ended {
		return
	}
	never := a.phase == created
	a.phase = ended
	a.cause = cause
	if a.stopping != nil {
		a.stopping(cause)
	}
	close(a.ending)
	if never {
		a.startErr = errors.New(errors.Canceled, "the program was stopped before it started")
		close(a.started)
		close(a.stopped)
	}
}

// stopAll stops what runs, last started first.
func (a *App) stopAll() error {
	var errs []error
	for i := len(a.running) - 1; i >= 0; i-- {
		if err := a.stopOne(a.running[i]); err != nil {
			a.log.Error("a service did not stop well", "service", a.running[i].Name, "error", err)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (a *App) stopOne(r *running) error {
	timeout := r.StopTimeout
	if timeout <= 0 {
		timeout = DefaultStopTimeout
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	defer r.cancel()
	begin := time.Now()
	var err error
	if r.Stop != nil {
		// A Stop that ignores its deadline must not keep the others from stopping.
		result := make(chan error, 1)
		go func() { result <- guard(r.Name, func() error { return r.Stop(ctx) }) }()
		select {
		case err = <-result:
		case <-ctx.Done():
			return errors.New(errors.DeadlineExceeded, "%s did not stop within %s", r.Name, timeout)
		}
	}
	r.cancel()
	select {
	case <-r.done:
	case <-ctx.Done():
		return errors.Join(err, errors.New(errors.DeadlineExceeded, "%s did not end within %s", r.Name, timeout))
	}
	if err != nil {
		return errors.Wrap(err, errors.CodeOf(err), "%s did not stop well: %s", r.Name, errors.Public(err).Message)
	}
	a.log.Debug("service stopped", "service", r.Name, "took", time.Since(begin))
	return nil
}

// Stop stops the services, last started first, each within its time, and
// waits for it or for ctx. It returns what went wrong while stopping. An app
// that never started stops at once, and stopping twice is fine.
func (a *App) Stop(ctx context.Context) error {
	a.end(nil)
	select {
	case <-a.stopped:
		return a.stopErr
	case <-ctx.Done():
		return errors.Public(ctx.Err())
	}
}

// Done is closed when everything has stopped.
func (a *App) Done() <-chan struct{} { return a.stopped }

// Run starts the services and waits until ctx ends or the first of them does,
// then stops all. It returns nil when ctx ended and all stopped well, else the
// first cause and what went wrong while stopping.
func (a *App) Run(ctx context.Context) error {
	if err := a.Start(ctx); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		a.end(nil)
	case <-a.ending:
	}
	<-a.stopped
	a.mu.Lock()
	cause := a.cause
	a.mu.Unlock()
	return errors.Join(cause, a.stopErr)
}
