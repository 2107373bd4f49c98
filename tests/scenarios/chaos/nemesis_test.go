package chaos

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"time"
)

// longestPause is how long a process is paused: past every lease and sign of life.
const longestPause = awayAfter + 3*time.Second

// fault is something that goes wrong, and is put right again.
type fault struct {
	name   string
	hold   time.Duration
	begin  func() error
	mended func() error
}

// part is a process of the fleet, which can be killed and paused.
type part struct {
	name string
	kill func() error
	run  func() error
	pid  func() (int, error)
}

func (f *field) parts() []part {
	parts := []part{
		{"the database", f.backing.Database.Kill, func() error { return f.backing.Database.Run(f.ctx) }, func() (int, error) { return f.backing.Database.PID(), nil }},
		{"the queue", func() error { f.backing.Queue.Kill(f.t); return nil }, func() error { f.backing.Queue.Restart(f.t); return nil }, func() (int, error) { return f.backing.Queue.PID(), nil }},
	}
	for _, s := range f.servers() {
		parts = append(parts, part{nameOf(s), s.Kill, func() error { return s.Run(f.ctx) }, s.PID})
	}
	return parts
}

func killed(p part, hold time.Duration) fault {
	return fault{p.name + " is killed", hold, p.kill, p.run}
}

// both kills two; the one that others need is there first again.
func both(a, b part, hold time.Duration) fault {
	two := killed(a, hold).while(killed(b, hold))
	two.name = a.name + " and " + b.name + " are killed"
	return two
}

// within kills the database while somebody is in a transaction, and starts it
// again at once.
func (f *field) within() fault {
	begin := func() error {
		ctx, cancel := context.WithTimeout(f.ctx, 5*time.Second)
		defer cancel()
		return f.backing.Database.KillWithin(ctx, "vms")
	}
	return fault{"the database restarts in a transaction", 0, begin, func() error { return f.backing.Database.Run(f.ctx) }}
}

// while makes two faults at once. What the first lacks is there again when the
// second is mended.
func (a fault) while(b fault) fault {
	return fault{a.name + " while " + b.name, max(a.hold, b.hold),
		func() error {
			if err := a.begin(); err != nil {
				return err
			}
			return b.begin()
		},
		func() error {
			if err := a.mended(); err != nil {
				return err
			}
			return b.mended()
		}}
}

// around makes another fault a moment after the first, and mends that before it.
func (a fault) around(b fault) fault {
	return fault{a.name + " and " + b.name, b.hold,
		func() error {
			if err := a.begin(); err != nil {
				return err
			}
			time.Sleep(a.hold - b.hold) // until the first has begun to show
			return b.begin()
		},
		func() error {
			if err := b.mended(); err != nil {
				return err
			}
			return a.mended()
		}}
}

func paused(p part, hold time.Duration) fault {
	signal := func(sig syscall.Signal) func() error {
		return func() error {
			pid, err := p.pid()
			if err != nil {
				return err
			}
			return signalTree(pid, sig)
		}
	}
	return fault{p.name + " is paused", hold, signal(syscall.SIGSTOP), signal(syscall.SIGCONT)}
}

func cut(w *wire, hold time.Duration) fault {
	return fault{w.name + " is cut", hold, func() error { w.Stop(); return nil }, w.Start}
}

// toxic spoils what passes in one direction.
func toxic(ctx context.Context, w *wire, hold time.Duration, what, json string) fault {
	return fault{w.name + " " + what, hold,
		func() error { _, err := w.Toxics.AddToxicJson(strings.NewReader(json)); return err },
		func() error { w.Toxics.ResetToxics(ctx); return nil }}
}

// full has the queue take nothing more.
func (f *field) full(hold time.Duration) fault {
	set := func(bytes string) func() error {
		return func() error {
			return f.backing.Queue.Client(f.t).ConfigSet(f.ctx, "maxmemory", bytes).Err()
		}
	}
	return fault{"the queue is full", hold, set("1mb"), set("0")}
}

// jumped sets a process's clock, and back.
func jumped(c *clock, r *rand.Rand, hold time.Duration) fault {
	by := []time.Duration{2 * time.Hour, -2 * time.Hour, 50 * time.Hour, -50 * time.Hour}[r.IntN(4)]
	set := func(by time.Duration) func() error { return func() error { return c.Set(by) } }
	return fault{fmt.Sprintf("%s's clock jumps by %s", c.name, by), hold, set(by), set(0)}
}

// drained has all VMs of a worker stopped, and leave it for the storage, in some
// seconds after it has heard of that by its next sign of life.
func (f *field) drained(worker string, hold time.Duration) fault {
	return fault{worker + " is drained", 6*time.Second + hold,
		func() error { return f.ask("worker", "drain", worker, "--within", "0s", "--move", "--no-wait") },
		func() error { return f.ask("worker", "uncordon", worker) }}
}

// pair is of parts, by their numbers, the one that others need first.
type pair struct{ one, other int }

// pairs are dealt one after the other until each was, in an order of the seed's.
type pairs struct {
	dealt int
	left  []pair
}

// What a deck has of them: six, which 30 minutes are, have all 21. The first has
// as many as of other things.
const (
	firstPairs = 3
	laterPairs = 4
)

// inDeck is how many the next deck has.
func (p *pairs) inDeck() int {
	if p.dealt == 0 {
		return firstPairs
	}
	return laterPairs
}

// deal gives the next pair of n parts.
func (p *pairs) deal(r *rand.Rand, n int) pair {
	if len(p.left) == 0 {
		p.left = allPairs(n)
	}
	p.dealt++
	var next pair
	if p.dealt <= firstPairs { // drawn so that a seed has the first deck that it always had
		i, j := r.IntN(n), r.IntN(n-1)
		if j >= i {
			j++
		}
		next = pair{min(i, j), max(i, j)}
	} else {
		next = p.left[r.IntN(len(p.left))]
	}
	p.left = slices.DeleteFunc(p.left, func(q pair) bool { return q == next })
	return next
}

// allPairs are those of n parts.
func allPairs(n int) (all []pair) {
	for i := range n {
		for j := i + 1; j < n; j++ {
			all = append(all, pair{i, j})
		}
	}
	return all
}

// deck is one of each kind of fault for each part, and some of the many for
// pairs and wires, in an order of the seed's.
func (f *field) deck(r *rand.Rand) []fault {
	parts := f.parts()
	hold := func() time.Duration { return time.Second + time.Duration(r.Int64N(int64(2*time.Second))) }
	var deck []fault
	for _, p := range parts {
		deck = append(deck, killed(p, hold()))
	}
	for range f.pairs.inDeck() {
		p := f.pairs.deal(r, len(parts))
		deck = append(deck, both(parts[p.one], parts[p.other], hold()))
	}
	for _, i := range r.Perm(len(parts))[:3] {
		deck = append(deck, paused(parts[i], longestPause))
	}
	wires := func(n int) []*wire {
		var some []*wire
		for _, i := range r.Perm(len(f.wires))[:n] {
			some = append(some, f.wires[i])
		}
		return some
	}
	for _, w := range wires(4) {
		deck = append(deck, cut(w, hold()))
	}
	for _, w := range wires(3) {
		deck = append(deck, toxic(f.ctx, w, 2*hold(), "is slow", `{"name":"slow","type":"latency","stream":"downstream","attributes":{"latency":300,"jitter":200}}`))
	}
	for _, w := range wires(3) {
		deck = append(deck, toxic(f.ctx, w, 2*hold(), "loses all answers", `{"name":"hole","type":"timeout","stream":"downstream","attributes":{"timeout":0}}`))
	}
	deck = append(deck, f.full(2*hold()), f.within(), f.small.full(2*hold()))
	for _, c := range f.clocks {
		deck = append(deck, jumped(c, r, 2*hold()))
	}
	for _, i := range r.Perm(workers)[:2] {
		worker := nameOf(f.workers[i])
		own := parts[len(parts)-workers+i]
		deck = append(deck, f.drained(worker, hold()), f.drained(worker, hold()).around(killed(own, hold())),
			f.drained(worker, hold()).around(killed(parts[r.IntN(len(parts))], hold())))
	}
	for range 4 {
		of := []fault{f.full(2 * hold()), f.small.full(2 * hold()), cut(wires(1)[0], hold())}
		for _, c := range f.clocks {
			of = append(of, jumped(c, r, 2*hold()))
		}
		deck = append(deck, of[r.IntN(len(of))].while(killed(parts[r.IntN(len(parts))], hold())))
	}
	r.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
	return deck
}

// spoil makes faults, those with the text in their name, one after the other,
// until ctx ends. Everything works again when it returns.
func (f *field) spoil(ctx context.Context, only string, r *rand.Rand) error {
	for began := time.Now(); ; {
		for _, fault := range f.deck(r) {
			if ctx.Err() != nil {
				return nil //nolint:nilerr // it has lasted as long as it was to
			}
			if !strings.Contains(fault.name, only) {
				continue
			}
			f.t.Logf("%6.1fs %s, for %s", time.Since(began).Seconds(), fault.name, fault.hold.Round(100*time.Millisecond))
			if err := fault.begin(); err != nil {
				return fmt.Errorf("%s: %w", fault.name, err)
			}
			f.made[fault.name]++
			wait(ctx, fault.hold)
			if err := fault.mended(); err != nil {
				return fmt.Errorf("%s, and is not mended: %w", fault.name, err)
			}
			wait(ctx, time.Second+time.Duration(r.Int64N(int64(2*time.Second))))
		}
	}
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// tellFaults says how often which fault was made, and which pairs were not killed.
func (f *field) tellFaults() {
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(f.made)) {
		fmt.Fprintf(&text, "\n\t%d × %s", f.made[name], name)
	}
	parts, seen := f.parts(), 0
	var missed []string
	all := allPairs(len(parts))
	for _, p := range all {
		name := both(parts[p.one], parts[p.other], 0).name
		if f.made[name] > 0 {
			seen++
		} else {
			missed = append(missed, name)
		}
	}
	f.t.Logf("faults:%s\n%d of %d pairs; not made: %q", text.String(), seen, len(all), missed)
}
