package e2e

import (
	"errors"
	"io"
	"testing"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/pkg/client"
)

// A command waits for a reader that is slower than it is, and has nothing
// dropped, although it writes three times what is kept.
func TestASlowReaderGetsEverything(t *testing.T) {
	t.Parallel()
	ctx, c := limited(t), connect(t)
	vm, err := c.CreateVM(ctx, api.CreateVM{Network: "none"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = c.DeleteVM(ctx, vm.ID) }()
	const size = 200 << 20
	s, err := c.Start(ctx, vm.ID, api.StartExecution{Command: api.Command{Args: []string{"head", "-c", "209715200", "/dev/zero"}}}, client.StreamOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var got int64
	for {
		ev, err := s.Next(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if ev.Gap != nil {
			t.Fatalf("a gap from %d to %d", ev.Gap.From, ev.Gap.To)
		}
		got += int64(len(ev.Data))
		// Something else to do with each piece, which takes longer than to write it.
		if _, err := c.VM(ctx, vm.ID); err != nil {
			t.Fatal(err)
		}
	}
	if got != size {
		t.Errorf("%d bytes came, want %d", got, size)
	}
}
