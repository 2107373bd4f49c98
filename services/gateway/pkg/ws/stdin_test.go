package ws

import (
	"context"
	"strings"
	"testing"

	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
)

func TestInputQueueJoinsWhatFollows(t *testing.T) {
	t.Parallel()
	q := newInputQueue()
	push := func(offset int64, data string) {
		if !q.push(t.Context(), input{offset: offset, data: []byte(data)}) {
			t.Fatal("no room")
		}
	}
	push(0, "ab")
	push(2, "cd")
	push(9, "gap")
	push(wire.AppendOffset, "x")
	push(wire.AppendOffset, "y")
	q.push(t.Context(), input{close: true})
	var got []string
	for {
		in, ok := q.pop(t.Context())
		if !ok {
			t.Fatal("ended early")
		}
		if in.close {
			break
		}
		got = append(got, string(in.data))
	}
	if strings.Join(got, "|") != "abcd|gap|xy" {
		t.Fatalf("%q", got)
	}
}

func TestInputQueueIsBounded(t *testing.T) {
	t.Parallel()
	full, cancel := context.WithCancel(t.Context())
	cancel()
	q := newInputQueue()
	piece := make([]byte, wire.MaxStdinFrameBytes)
	n := 0
	for q.push(full, input{offset: int64(n * len(piece)), data: piece}) {
		n++
	}
	if n*len(piece) != wire.StdinWindowBytes {
		t.Fatalf("it took %d bytes", n*len(piece))
	}
	// Small pieces cost more than their bytes.
	q, n = newInputQueue(), 0
	for q.push(full, input{offset: int64(2 * n), data: []byte("z")}) {
		n++
	}
	if n != maxInputs {
		t.Fatalf("it took %d pieces", n)
	}
	// Taking makes room for one that waits.
	done := make(chan bool)
	go func() { done <- q.push(t.Context(), input{offset: 1 << 40, data: []byte("z")}) }()
	if _, ok := q.pop(t.Context()); !ok || !<-done {
		t.Fatal("the waiting writer was not let in")
	}
	// Once the stream has ended nothing more comes out, though it be there.
	if _, ok := q.pop(full); ok {
		t.Fatal("input came out after the end")
	}
	// A command that takes no input lets everything through, into nothing.
	q.refuse()
	for range 10 {
		if !q.push(t.Context(), input{offset: 0, data: piece}) {
			t.Fatal("refused input holds up its sender")
		}
	}
	if len(q.items) != 0 {
		t.Fatal("refused input is kept")
	}
}
