package guest

import (
	"fmt"
	"io"
	"os"
	"slices"
	"testing"

	"github.com/aetherium/aetherium/services/core/internal/agent/execution"
	"github.com/aetherium/aetherium/services/core/internal/agent/osuser"
	"github.com/aetherium/aetherium/services/core/internal/agent/reap"
	"github.com/aetherium/aetherium/services/core/internal/agent/settings"
	"github.com/aetherium/aetherium/services/core/internal/agent/spawn"
	guestv1 "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1"
)

// host is the other end of an attachment. before is called each time that the
// agent looks for output.
type host struct {
	first  chan *guestv1.AttachRequest
	before func()
	heard  []string
}

func (h *host) Receive() (*guestv1.AttachRequest, error) {
	if m, ok := <-h.first; ok {
		return m, nil
	}
	return nil, io.EOF
}

func (h *host) Send(m *guestv1.AttachResponse) error {
	switch m.GetResponse().(type) {
	case *guestv1.AttachResponse_StdinAck_:
		h.heard = append(h.heard, fmt.Sprintf("ack %d", m.GetStdinAck().GetOffset()))
	case *guestv1.AttachResponse_End:
		h.heard = append(h.heard, "end")
	}
	return nil
}

func (h *host) room() []byte {
	h.before()
	return make([]byte, chunkBytes)
}

func (h *host) sendOutput(execution.Chunk) error { return nil }

// Who told a command what it ended by hears that it was told, before the end.
func TestInputIsAcknowledgedBeforeTheEnd(t *testing.T) {
	t.Parallel()
	etc := t.TempDir()
	passwd := fmt.Sprintf("user:x:%d:%d::/:/bin/sh\n", os.Geteuid(), os.Getegid())
	if err := os.WriteFile(etc+"/passwd", []byte(passwd), 0o644); err != nil { //nolint:gosec // as the real one
		t.Fatal(err)
	}
	registry := &execution.Registry{Starter: &spawn.Starter{Reaper: reap.Start(false)}, Users: osuser.NewDB(etc), Settings: &settings.Store{}, Max: 1}
	t.Cleanup(registry.Starter.Reaper.Close)
	const id = "00000000000000000001"
	h := &host{first: make(chan *guestv1.AttachRequest, 1)}
	h.first <- &guestv1.AttachRequest{Request: &guestv1.AttachRequest_Start_{Start: &guestv1.AttachRequest_Start{
		ExecutionId: id, Command: &guestv1.Command{Args: []string{"sh", "-c", "read line"}, Stdin: true},
	}}}
	close(h.first)
	told := false
	h.before = func() { // the agent has just looked how much was written
		if told {
			return
		}
		told = true
		ex, err := registry.Get(id)
		if err == nil {
			err = ex.PutInput(0, []byte("go\n"))
		}
		if err != nil {
			t.Error(err)
			return
		}
		<-ex.Ended()
	}
	if err := (&Executions{Registry: registry}).attach(t.Context(), h); err != nil {
		t.Fatal(err)
	}
	if want := []string{"ack 3", "end"}; !slices.Equal(h.heard, want) {
		t.Errorf("the host heard %v, want %v", h.heard, want)
	}
}
