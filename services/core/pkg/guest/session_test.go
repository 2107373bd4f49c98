package guest_test

import (
	"testing"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/guest"
)

func TestExec(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	h := newHost(t, m.dial, newJournals(t), domain.NewID())
	if a, err := h.client.Handshake(t.Context()); err != nil || a.Protocol != 1 || a.BootID == "" {
		t.Fatalf("handshake: %+v, %v", a, err)
	}
	id := h.start(t, sh("echo out; echo err >&2; exit 3"))
	got := h.output(t, id)
	if got.stdout.String() != "out\n" || got.stderr.String() != "err\n" || got.end != (domain.ExecutionEnd{ExitCode: 3}) {
		t.Errorf("%+v", got)
	}
	if end, err := h.Wait(t.Context(), id); err != nil || end.ExitCode != 3 {
		t.Errorf("wait: %+v, %v", end, err)
	}
	if st := <-h.started; st.ID != id || st.PID < 1 || st.Found {
		t.Errorf("started: %+v", st)
	}
	if e := <-h.ended; e.ID != id || e.OutputBytes != 8 || e.End.ExitCode != 3 {
		t.Errorf("ended: %+v", e)
	}
}

func BenchmarkExecTrue(b *testing.B) {
	m := newMachine(b)
	h := newHost(b, m.dial, newJournals(b), domain.NewID())
	for b.Loop() {
		id := domain.NewID()
		if _, err := h.Start(b.Context(), guest.StartRequest{ID: id, Command: domain.Command{Args: []string{"/bin/true"}}}); err != nil {
			b.Fatal(err)
		}
		if _, err := h.Wait(b.Context(), id); err != nil {
			b.Fatal(err)
		}
	}
}
