package envd

import (
	"context"
	"fmt"
	"io"
	"syscall"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/agent/execution"
	"github.com/aetherium/aetherium/services/core/internal/agent/wire"
	processpb "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/process"
)

// chunkBytes is the most data in one event.
const chunkBytes = 32 << 10

// follow sends an execution's events: its start at once, output as it comes,
// a sign of life after each interval without any, its end. A client that goes
// away ends only the stream.
func follow(ctx context.Context, ex *execution.Execution, reader *execution.Reader, interval time.Duration, send func(*processpb.ProcessEvent) error) error {
	err := send(&processpb.ProcessEvent{Event: &processpb.ProcessEvent_Start{
		Start: &processpb.ProcessEvent_StartEvent{Pid: uint32(ex.PID)},
	}})
	if err != nil {
		return err
	}
	silence := time.NewTicker(interval)
	defer silence.Stop()
	buf := make([]byte, chunkBytes)
	for {
		chunk, more, err := reader.Poll(buf)
		switch {
		case errors.Is(err, io.EOF):
			return send(endEvent(ex))
		case err != nil:
			return wire.Connect(err)
		case len(chunk.Data) > 0:
			if err := send(dataEvent(chunk)); err != nil {
				return err
			}
			silence.Reset(interval)
			continue
		}
		select {
		case <-more:
		case <-silence.C:
			err := send(&processpb.ProcessEvent{Event: &processpb.ProcessEvent_Keepalive{
				Keepalive: &processpb.ProcessEvent_KeepAlive{},
			}})
			if err != nil {
				return err
			}
		case <-ctx.Done():
			return wire.Connect(ctx.Err())
		}
	}
}

func dataEvent(c execution.Chunk) *processpb.ProcessEvent {
	data := &processpb.ProcessEvent_DataEvent{}
	switch c.Stream {
	case execution.Stdout:
		data.Output = &processpb.ProcessEvent_DataEvent_Stdout{Stdout: c.Data}
	case execution.Stderr:
		data.Output = &processpb.ProcessEvent_DataEvent_Stderr{Stderr: c.Data}
	case execution.Terminal:
		data.Output = &processpb.ProcessEvent_DataEvent_Pty{Pty: c.Data}
	}
	return &processpb.ProcessEvent{Event: &processpb.ProcessEvent_Data{Data: data}}
}

// endEvent words the end as os.ProcessState does, which clients know.
func endEvent(ex *execution.Execution) *processpb.ProcessEvent {
	end, _ := ex.End()
	event := &processpb.ProcessEvent_EndEvent{
		ExitCode: int32(end.ExitCode), Exited: end.Signal == 0, Status: fmt.Sprintf("exit status %d", end.ExitCode),
	}
	if end.Signal != 0 {
		event.ExitCode = -1
		event.Status = "signal: " + syscall.Signal(end.Signal).String()
		if end.CoreDumped {
			event.Status += " (core dumped)"
		}
	}
	if end.ExitCode != 0 || end.Signal != 0 {
		text := event.Status
		event.Error = &text
	}
	return &processpb.ProcessEvent{Event: &processpb.ProcessEvent_End{End: event}}
}
