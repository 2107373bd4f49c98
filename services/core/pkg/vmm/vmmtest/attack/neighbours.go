package attack

import (
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// neighbourAttacks take all there is of something and keep it. A neighbour and
// the host then still get theirs.
var neighbourAttacks = map[string]func(*testing.T, *bed, *machine){
	// What a kernel counts for users, and for owners of user namespaces.
	"inotify":        stock("inotify"),
	"message queues": stock("message queues"),
	"shared memory":  stock("shared memory"),
	"epolls":         stock("epolls"),
	"pipes":          stock("pipes"),
	// What it has one stock of for everybody: a driver says how much one may take.
	"terminals":        bounded("terminals", 64),
	"asynchronous I/O": bounded("asynchronous I/O", 0),
	// What a machine has of its own.
	"descriptors": greed("descriptors"),
	"files":       greed("files"),
}

// ownNeighbourAttacks are those of machines with a kernel of their own: what a
// kernel counts is nobody else's there, and what can be taken from others is
// memory and room on disks. Emulated machines take their time to take it.
var ownNeighbourAttacks = map[string]func(*testing.T, *bed, *machine){
	"a kernel's stocks": attackStocks,
	"memory":            greed("memory"),
	"files":             greed("files"),
}

// attackStocks takes much of everything that a kernel has a stock of, and keeps
// it. A neighbour gets as much.
func attackStocks(t *testing.T, b *bed, m *machine) {
	neighbour := b.boot(t)
	for _, what := range []string{"inotify", "message queues", "shared memory", "epolls", "pipes", "terminals", "asynchronous I/O", "descriptors"} {
		got := m.begin(t, "exhaust", what, "256").untilFull()
		if theirs := neighbour.begin(t, "exhaust", what, "256").untilFull(); theirs < got {
			t.Errorf("%s: the neighbour got %d, the greedy one has %d", what, theirs, got)
		}
	}
	b.others(t)
}

func greed(what string) func(*testing.T, *bed, *machine) {
	return func(t *testing.T, b *bed, m *machine) {
		greedy := m.begin(t, "exhaust", what)
		greedy.untilFull()
		b.others(t)
		greedy.end()
	}
}

func stock(what string) func(*testing.T, *bed, *machine) { return bounded(what, 1<<20) }

func bounded(what string, atMost int) func(*testing.T, *bed, *machine) {
	return func(t *testing.T, b *bed, m *machine) {
		neighbour := b.boot(t)
		greedy := m.begin(t, "exhaust", what)
		got := greedy.untilFull()
		if got > atMost && b.Shared {
			t.Errorf("one machine took %d of what all share, more than %d", got, atMost)
		}
		// While it holds on to them.
		modest := neighbour.begin(t, "exhaust", what)
		if theirs := modest.untilFull(); theirs < got/2 {
			t.Errorf("the neighbour got %d, the greedy one has %d", theirs, got)
		}
		b.others(t)
		greedy.end()
		modest.end()
	}
}

// others checks that the host still gets something of everything, and a new machine.
func (b *bed) others(t *testing.T) {
	t.Helper()
	for what, open := range map[string]func() (int, error){
		"inotify":      func() (int, error) { return unix.InotifyInit1(unix.IN_CLOEXEC) },
		"a terminal":   func() (int, error) { return unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0) },
		"a descriptor": func() (int, error) { return unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0) },
	} {
		fd, err := open()
		if err != nil {
			t.Errorf("the host gets no %s any more: %v", what, err)
			continue
		}
		_ = unix.Close(fd)
	}
	b.boot(t).alive(t, "a machine made meanwhile")
}

// untilFull waits until the intruder has all it gets, or was killed for it, and
// tells how much that is.
func (x *run) untilFull() int {
	x.t.Helper()
	for ctx := limited(x.t); ; {
		if _, rest, ok := strings.Cut(x.text.String(), "full "); ok {
			if line, _, whole := strings.Cut(rest, "\n"); whole {
				x.t.Log(line)
				count, _, _ := strings.Cut(line, ":")
				n, err := strconv.Atoi(count)
				if err != nil {
					x.t.Fatal(err)
				}
				return n
			}
		}
		e, err := x.r.Next(ctx)
		if err != nil {
			x.t.Fatalf("the greedy one: %v", err)
		}
		if e.End != nil {
			x.t.Logf("it was ended: %+v", *e.End)
			return 0
		}
		x.text.Write(e.Data)
	}
}
