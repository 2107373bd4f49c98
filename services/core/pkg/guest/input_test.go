package guest

import (
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// Input that the command had is no failure, though it ended of that; what it
// never had is.
func TestInputThatACommandEndsOf(t *testing.T) {
	t.Parallel()
	for range 300 {
		in := newInput(note{PTY: true})
		if err := in.attached(0); err != nil {
			t.Fatal(err)
		}
		sent := make(chan struct{}, 2)
		wrote := make(chan error, 1)
		go func() { wrote <- in.write(t.Context(), -1, []byte{3}, func() { sent <- struct{}{} }) }()
		<-sent
		if _, data, _ := in.next(); len(data) != 1 {
			t.Fatalf("%q is to be sent", data)
		}
		if _, err := in.acked(1); err != nil {
			t.Fatal(err)
		}
		in.stop(errEnded)
		if err := <-wrote; err != nil {
			t.Fatalf("what it had: %v", err)
		}
		if err := in.write(t.Context(), -1, []byte{3}, func() {}); !errors.Is(err, errEnded) {
			t.Fatalf("what comes later: %v", err)
		}
	}
	in := newInput(note{PTY: true})
	if err := in.attached(0); err != nil {
		t.Fatal(err)
	}
	sent, wrote := make(chan struct{}, 2), make(chan error, 1)
	go func() { wrote <- in.write(t.Context(), -1, []byte{3}, func() { sent <- struct{}{} }) }()
	<-sent
	in.stop(errEnded)
	if err := <-wrote; !errors.Is(err, errEnded) {
		t.Errorf("what it never had: %v", err)
	}
}
