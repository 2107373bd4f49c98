// Command fc-agent is the guest agent: the one program that runs in every VM,
// usually as its PID 1. It runs commands, serves files and forwards ports for
// the host, over a listening socket that the host hands to it.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/version"
	"github.com/aetherium/aetherium/services/core/internal/agent"
	firstprocess "github.com/aetherium/aetherium/services/core/internal/agent/boot"
	"github.com/aetherium/aetherium/services/core/internal/agent/spawn"
)

// Exit codes.
const (
	exitOK    = 0
	exitFail  = 1
	exitUsage = 2
)

func main() {
	// What the agent does is short, and so it need not wake other threads to do
	// it: a command starts and ends sooner, and what the runtime keeps for each
	// processor is a third of an idle agent's memory. A driver that sets the
	// variable GOMAXPROCS spares it the making of the others.
	runtime.GOMAXPROCS(1)
	if firstprocess.Wanted() {
		bootMachine() // and never returns
	}
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// options are the command line.
type options struct {
	listenFD    int
	listenUnix  string
	listenStdio bool
	listenTCP   string
	grace       time.Duration
	version     bool
}

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("fc-agent", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.IntVar(&o.listenFD, "listen-fd", -1, "serve the host on this inherited listening `descriptor`")
	flags.StringVar(&o.listenUnix, "listen-unix", "", "serve the host on a unix socket at this `path`")
	flags.BoolVar(&o.listenStdio, "listen-stdio", false, "serve the host on connections multiplexed over standard input and output")
	flags.StringVar(&o.listenTCP, "listen-tcp", "", "serve SDK clients, with what they may do, on this `address` (host:port)")
	flags.DurationVar(&o.grace, "grace", 5*time.Second, "how long processes have to end after SIGTERM")
	flags.BoolVar(&o.version, "version", false, "print the version and exit")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	switch {
	case flags.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case !o.version && o.listenFD < 0 && o.listenUnix == "" && !o.listenStdio && o.listenTCP == "":
		return o, errors.Plain("one of --listen-fd, --listen-unix, --listen-stdio and --listen-tcp is needed")
	case o.grace < 0:
		return o, errors.Plain("--grace must not be negative")
	}
	return o, nil
}

func run(args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return exitOK
	}
	if err != nil {
		_, _ = fmt.Fprintln(stderr, "fc-agent:", err)
		return exitUsage
	}
	if o.version {
		_, _ = fmt.Fprintln(stdout, "fc-agent", version.String())
		return exitOK
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	if err := serve(o, log); err != nil {
		_, _ = fmt.Fprintln(stderr, "fc-agent:", err)
		return exitFail
	}
	return exitOK
}

// serve runs the agent until a signal ends it or a listener fails.
func serve(o options, log *slog.Logger) error {
	prepare(log) // before signals are caught
	hoardThreads(spareThreads)
	pid1 := os.Getpid() == 1
	ending, stop := signals(pid1, log)
	defer stop()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	host, guests, err := listen(ctx, o)
	if err != nil {
		return err
	}
	if o.listenStdio {
		channel, err := listenStdio(log)
		if err != nil {
			return err
		}
		defer func() { _ = channel.Close() }()
		host = append(host, channel.Listener())
	}
	a := agent.New(agent.Options{PID1: pid1, Path: os.Getenv("PATH"), OOM: spawn.NewOOMGuard(), Log: log})
	if pid1 {
		serveLocal(ctx, a, log)
	}
	return work(ctx, a, host, guests, ending, nil, o.grace)
}

// serveLocal serves the machine's own services. The machine is of use without.
func serveLocal(ctx context.Context, a *agent.Agent, log *slog.Logger) {
	l, err := agent.ListenLocal(ctx)
	if err != nil {
		log.Warn("local services", "error", err)
		return
	}
	go func() {
		if err := a.ServeLocal(ctx, l); err != nil {
			log.Warn("local services", "error", err)
		}
	}()
}

// work serves until the end is asked for, by a signal or by the host with a
// grace of its own, or a listener fails.
func work(ctx context.Context, a *agent.Agent, host, guests []net.Listener, ending <-chan struct{}, asked <-chan time.Duration, grace time.Duration) (err error) {
	failed := make(chan error, len(host)+len(guests))
	for _, l := range host {
		go func() { failed <- a.Serve(ctx, l) }()
	}
	for _, l := range guests {
		go func() { failed <- a.ServeGuests(ctx, l) }()
	}
	select {
	case <-ending:
	case grace = <-asked:
	case err = <-failed:
	}
	// Processes end before the streams that tell of it.
	a.Shutdown(grace)
	return err
}

// prepare makes the process a proper parent: what it inherited, descriptors and
// ignored signals, stays with it, it pins no mount, and files are made with the
// usual rights.
func prepare(log *slog.Logger) {
	if err := unix.CloseRange(3, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC); err != nil && !errors.Is(err, unix.ENOSYS) {
		log.Warn("inherited descriptors stay open in commands", "error", err)
	}
	if err := spawn.DefaultSignals(); err != nil {
		log.Warn("signals that were ignored stay so in commands", "error", err)
	}
	if err := lowerLimits(); err != nil {
		log.Warn("resource limits stay as they were inherited", "error", err)
	}
	unix.Umask(0o022)
	if err := os.Chdir("/"); err != nil {
		log.Warn("the working directory stays", "error", err)
	}
}

// lowerLimits gives the agent, and so every command, as many open files as
// servers expect, as far as whoever started the machine has them, and no cores:
// a host may feed those to a program of its own. Neither can be raised again.
func lowerLimits() error {
	const files = 1 << 20
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return os.NewSyscallError("getrlimit", err)
	}
	l.Max = min(l.Max, files)
	l.Cur = l.Max
	return errors.Join(
		os.NewSyscallError("setrlimit", unix.Setrlimit(unix.RLIMIT_NOFILE, &l)),
		os.NewSyscallError("setrlimit", unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})),
	)
}

// listen opens the listeners for the host and for guests.
func listen(ctx context.Context, o options) (host, guests []net.Listener, err error) {
	var config net.ListenConfig
	if o.listenFD >= 0 {
		f := os.NewFile(uintptr(o.listenFD), "host")
		if f == nil {
			return nil, nil, fmt.Errorf("descriptor %d is not open", o.listenFD)
		}
		l, err := net.FileListener(f)
		_ = f.Close() // the listener has its own
		if err != nil {
			return nil, nil, fmt.Errorf("descriptor %d is not a listening socket: %w", o.listenFD, err)
		}
		host = append(host, l)
	}
	if o.listenUnix != "" {
		if err := os.Remove(o.listenUnix); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, nil, err
		}
		mask := unix.Umask(0o177) // for the host alone from its first moment
		l, err := config.Listen(ctx, "unix", o.listenUnix)
		unix.Umask(mask)
		if err != nil {
			return nil, nil, err
		}
		host = append(host, l)
	}
	if o.listenTCP != "" {
		l, err := config.Listen(ctx, "tcp", o.listenTCP)
		if err != nil {
			return nil, nil, err
		}
		guests = append(guests, l)
	}
	return host, guests, nil
}

// signals returns a channel that is closed when a signal asks for the end:
// SIGTERM, SIGINT, and SIGPWR as machine managers send it. As PID 1 the agent
// takes no other signal to heart: a stray `kill -HUP 1` must not end the
// machine. They are caught, never ignored: being ignored is inherited.
func signals(pid1 bool, log *slog.Logger) (ending <-chan struct{}, stop func()) {
	received := make(chan os.Signal, 8)
	signal.Notify(received, syscall.SIGTERM, syscall.SIGINT, syscall.SIGPWR)
	if pid1 {
		signal.Notify(received, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2,
			syscall.SIGALRM, syscall.SIGVTALRM, syscall.SIGPROF, syscall.SIGXCPU, syscall.SIGXFSZ, syscall.SIGIO)
	}
	done := make(chan struct{})
	quit := make(chan struct{})
	go func() {
		for {
			select {
			case s := <-received:
				switch s {
				case syscall.SIGTERM, syscall.SIGINT, syscall.SIGPWR:
					close(done)
					return
				}
				log.Warn("signal without effect", "signal", s.String())
			case <-quit:
				return
			}
		}
	}()
	return done, func() {
		signal.Stop(received)
		close(quit)
	}
}
