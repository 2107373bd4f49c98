package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/agent"
	firstprocess "github.com/aetherium/aetherium/services/core/internal/agent/boot"
	"github.com/aetherium/aetherium/services/core/internal/agent/spawn"
)

// machineGrace is how long programs have to end when the kernel asks for the end.
const machineGrace = 5 * time.Second

// bootMachine makes a machine of a kernel that has just started, serves its
// host, and ends it. It does not return. What goes wrong is told on the kernel's
// console, which the monitor keeps.
func bootMachine() {
	var m *firstprocess.Machine
	err := func() (err error) {
		defer func() {
			if p := recover(); p != nil { // a machine whose first process dies tells nothing
				err = errors.New(errors.Internal, "panic: %v", p)
			}
		}()
		log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
		if m, err = firstprocess.Start(context.Background(), log); err != nil {
			return err
		}
		return serveMachine(m, log)
	}()
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "fc-agent: the machine ends:", err)
	}
	m.End()
}

func serveMachine(m *firstprocess.Machine, log *slog.Logger) error {
	prepare(log)
	ending, stop := signals(true, log)
	defer stop()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
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
	serveLocal(ctx, a, log)
	return work(ctx, a, m.Listeners, nil, ending, asked, machineGrace)
}
