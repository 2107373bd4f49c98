package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/aetherium/aetherium/services/core/internal/agent"
	firstprocess "github.com/aetherium/aetherium/services/core/internal/agent/boot"
	"github.com/aetherium/aetherium/services/core/internal/agent/spawn"
)

// machineGrace is how long programs have to end when the kernel asks for the end.
const machineGrace = 5 * time.Second

// bootMachine makes a machine of a kernel that has just started, serves its
// host, and powers it off. It does not return.
func bootMachine() {
	defer firstprocess.PowerOff()
	// The kernel's console: what is said here is kept by the monitor.
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	if err := serveMachine(log); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "fc-agent:", err)
	}
}

func serveMachine(log *slog.Logger) error {
	m, err := firstprocess.Start()
	if err != nil {
		return err
	}
	prepare(log)
	ending, stop := signals(true, log)
	defer stop()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	host, err := m.Listen(log)
	if err != nil {
		return err
	}
	asked := make(chan time.Duration, 1)
	a := agent.New(agent.Options{
		PID1: true, OOM: spawn.NewOOMGuard(), Log: log,
		Machine: &agent.OwnKernel{Phases: m.Phases, Settle: m.Settle, Shutdown: func(grace time.Duration) {
			select {
			case asked <- grace:
			default: // it is under way
			}
		}},
	})
	return work(ctx, a, []net.Listener{host}, nil, ending, asked, machineGrace)
}
