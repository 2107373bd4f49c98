package ws

import (
	"context"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/gateway/pkg/limit"
)

// controlled checks what reaches an execution; everything else panics.
type controlled struct {
	vmm.Orchestrator
	t *testing.T
}

func (c controlled) ResizePTY(_ context.Context, _ vmm.Caller, _ domain.ID, size domain.PTYSize) error {
	if size.Cols == 0 || size.Rows == 0 {
		c.t.Errorf("a terminal of %+v", size)
	}
	return nil
}

func (c controlled) SignalExecution(_ context.Context, _ vmm.Caller, _ domain.ID, n int) error {
	if n < 1 || n > 64 {
		c.t.Errorf("signal %d", n)
	}
	return nil
}

// Whatever a client sends is input, a control message, or refused as its fault.
func FuzzFrames(f *testing.F) {
	for _, text := range []string{
		`{"type":"close_stdin"}`, `{"type":"resize","cols":80,"rows":24}`, `{"type":"resize","cols":0}`, `{"type":"signal","signal":"TERM"}`,
		`{"type":"signal","signal":"99"}`, `{"type":"start","x":1}`, `{"type":"resize","cols":-1}`, `[`, ``, `{}{}`, `null`,
	} {
		f.Add([]byte(text))
	}
	f.Add(wire.AppendFrame(nil, wire.FrameStdin, wire.AppendOffset, []byte("input")))
	f.Add(wire.AppendFrame(nil, wire.FrameStdin, 1<<62, []byte("far")))
	f.Add(wire.AppendFrame(nil, wire.FrameStdin, -2, nil))
	f.Add(wire.AppendFrame(nil, wire.FrameStdout, 0, []byte("not theirs")))
	f.Fuzz(func(t *testing.T, frame []byte) {
		sn := &session{vms: controlled{t: t}, lim: limit.New(limit.Config{}, nil), in: newInputQueue()}
		for name, take := range map[string]func(context.Context, []byte) error{"binary": sn.takeInput, "text": sn.control} {
			err := take(t.Context(), frame)
			if err != nil && !errors.HasCode(err, errors.InvalidArgument) && !errors.HasCode(err, errors.TooLarge) {
				t.Errorf("%s frame %q: %v", name, frame, err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for {
			in, ok := sn.in.pop(ctx)
			if !ok {
				break
			}
			if in.offset < wire.AppendOffset || len(in.data) > wire.MaxStdinFrameBytes {
				t.Errorf("input %+v", in)
			}
		}
	})
}
