package agent

import (
	"context"
	"crypto/rand"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/agent/access"
	"github.com/aetherium/aetherium/services/core/internal/agent/envd"
	"github.com/aetherium/aetherium/services/core/internal/agent/execution"
	"github.com/aetherium/aetherium/services/core/internal/agent/files"
	"github.com/aetherium/aetherium/services/core/internal/agent/fsys"
	"github.com/aetherium/aetherium/services/core/internal/agent/guest"
	"github.com/aetherium/aetherium/services/core/internal/agent/hooks"
	"github.com/aetherium/aetherium/services/core/internal/agent/identity"
	"github.com/aetherium/aetherium/services/core/internal/agent/limits"
	"github.com/aetherium/aetherium/services/core/internal/agent/machine"
	"github.com/aetherium/aetherium/services/core/internal/agent/osuser"
	"github.com/aetherium/aetherium/services/core/internal/agent/reap"
	"github.com/aetherium/aetherium/services/core/internal/agent/settings"
	"github.com/aetherium/aetherium/services/core/internal/agent/spawn"
	"github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1/guestv1connect"
	"github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/filesystem/filesystempbconnect"
	"github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/process/processpbconnect"
	"github.com/aetherium/aetherium/services/core/pkg/guest/lane"
)

const (
	headerTimeout  = 15 * time.Second
	maxHeaderBytes = 64 << 10
	// maxStreams bounds the calls at once on one connection: the host keeps
	// one per execution.
	maxStreams = 2 * execution.MaxExecutions
	killGrace  = 2 * time.Second // for what SIGKILL leaves to do
)

// Options configure an agent.
type Options struct {
	// PID1 makes the agent wait for every orphan and end every process of the
	// machine at its end, not only its own.
	PID1 bool
	// Etc is where passwd and group are; empty: "/etc".
	Etc string
	// Path is the PATH of commands; empty: spawn.DefaultPath.
	Path string
	// OOM protects the agent when memory runs out; nil: nothing does.
	OOM *spawn.OOMGuard
	// Machine is set where the agent is the first process of a machine with a
	// kernel of its own.
	Machine *OwnKernel
	// Log takes what goes wrong within; nil: nothing is logged.
	Log *slog.Logger
}

// OwnKernel is what only a machine with a kernel of its own has.
type OwnKernel = guest.OwnKernel

// Agent runs a machine's processes and serves its files.
type Agent struct {
	pid1       bool
	reaper     *reap.Reaper
	group      *limits.Group // of what runs; nil: the machine shares its host's kernel
	executions *execution.Registry
	log        *slog.Logger
	calls      *guest.Calls
	host       http.Handler
	guests     http.Handler
	local      http.Handler
	settings   *settings.Store
	users      *osuser.DB
	clients    clients
}

// New starts an agent. It reaps children from here on until Shutdown.
func New(o Options) *Agent {
	if o.Etc == "" {
		o.Etc = "/etc"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	users := osuser.NewDB(o.Etc)
	store := &settings.Store{}
	reaper := reap.Start(o.PID1)
	clock, random := &machine.Clock{}, &machine.Random{}
	var group *limits.Group
	if o.Machine != nil {
		group = &limits.Group{}
	}
	starter := &spawn.Starter{Reaper: reaper, OOM: o.OOM, Group: group}
	a := &Agent{
		pid1: o.PID1, reaper: reaper, group: group, log: o.Log, settings: store, users: users,
		executions: &execution.Registry{
			Starter: starter,
			Users:   users, Settings: store, Path: o.Path,
		},
	}
	watchers := &envd.Watchers{}
	runner := &hooks.Runner{Starter: starter, Log: o.Log}
	var keeper *identity.Keeper
	if o.Machine != nil {
		keeper = &identity.Keeper{Clock: clock, Random: random, Group: group, Log: o.Log, Forget: func(ctx context.Context) {
			store.Clear()
			watchers.Clear()
			a.clients.endOthers(ctx)
		}}
	}
	guard := &access.Guard{Settings: store, Users: users}
	fs := &fsys.FS{Users: users}
	fileHandler := &files.Handler{Guard: guard, FS: fs, Now: time.Now, Log: o.Log}
	envdHTTP := &envd.HTTP{Guard: guard, Meter: machine.NewMeter(), Clock: clock}
	process := lazily(func() http.Handler {
		return service(processpbconnect.NewProcessHandler(&envd.Process{Guard: guard, Executions: a.executions}, envd.Options(guard)...))
	})
	filesystem := lazily(func() http.Handler {
		return service(filesystempbconnect.NewFilesystemHandler(&envd.Filesystem{Guard: guard, FS: fs, Watchers: watchers}, envd.Options(guard)...))
	})
	sdks := func(mux *http.ServeMux) *http.ServeMux {
		mux.Handle("/"+processpbconnect.ProcessName+"/", process)
		mux.Handle("/"+filesystempbconnect.FilesystemName+"/", filesystem)
		envdHTTP.Register(mux)
		fileHandler.Envd(mux)
		return mux
	}
	executions := &guest.Executions{Registry: a.executions}
	own := &guest.Machine{
		Settings: store, Clock: clock, Random: random, BootID: rand.Text(), Identity: keeper, Hooks: runner, Own: o.Machine, Meter: envdHTTP.Meter, Group: group,
	}
	a.calls = &guest.Calls{Machine: own, Executions: executions, Log: o.Log}
	a.guests = lazily(func() http.Handler { return sdks(http.NewServeMux()) })
	a.host = lazily(func() http.Handler {
		host := sdks(http.NewServeMux())
		fileHandler.Native(host)
		host.HandleFunc("POST "+lane.Path, executions.Lane)
		host.Handle("/"+guestv1connect.ExecutionServiceName+"/", lazily(func() http.Handler {
			return service(guestv1connect.NewExecutionServiceHandler(executions, guest.Options()...))
		}))
		host.Handle("/"+guestv1connect.MachineServiceName+"/", lazily(func() http.Handler {
			return service(guestv1connect.NewMachineServiceHandler(own, guest.Options()...))
		}))
		return host
	})
	a.local = lazily(func() http.Handler {
		local := http.NewServeMux()
		envdHTTP.RegisterEnvs(local)
		return local
	})
	return a
}

// lazily makes a handler at its first request: building descriptors and patterns
// is a good part of the agent's start, and most machines are never asked by HTTP;
// those that are have files or an SDK's calls to serve, and not all else.
func lazily(handler func() http.Handler) http.Handler {
	get := sync.OnceValue(handler)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { get().ServeHTTP(w, r) })
}

// service is a service of Connect without its path.
func service(_ string, h http.Handler) http.Handler { return h }

// Serve serves the host on a listener until ctx ends or the listener fails.
// Everything is served: whoever reaches the listener owns the machine.
func (a *Agent) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return a.serve(ctx, split(ctx, l, a.serveCalls), a.host)
}

// serveCalls serves a connection of calls, of which from is what is read.
func (a *Agent) serveCalls(ctx context.Context, conn net.Conn, from io.Reader) {
	defer a.clients.leave(conn)
	a.calls.Serve(a.clients.enter(ctx, conn), conn, from)
}

// ServeGuests serves the SDKs' half on a listener that processes of the guest
// can reach, as when the agent runs alone.
func (a *Agent) ServeGuests(ctx context.Context, l net.Listener) error {
	return a.serve(ctx, l, a.guests)
}

func (a *Agent) serve(ctx context.Context, l net.Listener, h http.Handler) error {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	server := &http.Server{
		Handler:           a.clients.serving(h),
		Protocols:         &protocols,
		ReadHeaderTimeout: headerTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext:       a.clients.enter,
		ConnState:         a.clients.state,
		ErrorLog:          log.New(logWriter{a.log}, "", 0),
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	err := server.Serve(l)
	if ctx.Err() != nil || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return errors.Wrap(err, errors.Unavailable, "the listener failed")
}

// logWriter takes the HTTP server's complaints.
type logWriter struct{ log *slog.Logger }

func (w logWriter) Write(p []byte) (int, error) {
	w.log.Warn("http", "message", string(p))
	return len(p), nil
}

// Shutdown ends what runs: no new commands, SIGTERM to all (SIGHUP too on
// terminals, whose shells ignore the former), SIGKILL after grace. As PID 1 it
// means every process of the machine, whose file systems it writes to disk, else
// every process group that the agent started. It returns when all are
// gone, or soon after SIGKILL at the latest.
func (a *Agent) Shutdown(grace time.Duration) {
	a.executions.Stop()
	a.group.Release() // who is asked to end must be able to
	a.signalAll(syscall.SIGTERM)
	a.signalAll(syscall.SIGCONT) // one that is stopped can end as well
	for _, ex := range a.executions.Running() {
		if ex.Command.Size != nil {
			_ = ex.Signal(int(syscall.SIGHUP))
		}
	}
	if !a.waitNone(grace) {
		a.signalAll(syscall.SIGKILL)
		a.waitNone(killGrace)
	}
	a.reaper.Close()
	if a.pid1 {
		machine.Sync()
	}
}

// Spawned reports whether the agent has ever started a process.
func (a *Agent) Spawned() bool { return a.reaper.Spawned() }

func (a *Agent) signalAll(sig syscall.Signal) {
	if a.pid1 {
		_ = syscall.Kill(-1, sig) // all but the caller and kernel threads; ESRCH: none
		return
	}
	for _, ex := range a.executions.Running() {
		_ = ex.Signal(int(sig))
	}
}

func (a *Agent) waitNone(limit time.Duration) bool {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return a.reaper.WaitNone(ctx) == nil
}
