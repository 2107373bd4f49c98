package serverlog

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

const (
	// askLimit bounds how long servers are waited for: who has not answered by then
	// is told of.
	askLimit = 5 * time.Second
	// maxPeers bounds the workers that are asked, and with them cursors.
	maxPeers = 128
	// minShare is how many bytes of lines each worker may answer with at least; together
	// they have maxPage.
	minShare = 64 << 10
	// workerProgram is whose lines workers have.
	workerProgram = "aetherium-worker"
)

// Peer is a worker whose lines are read.
type Peer struct {
	ID, Name string
	From     Remote // nil: it is not asked, for the reason
	Reason   Reason
	Detail   string
}

// Remote is a server's files, there or elsewhere. A worker that does not know how
// to be asked is Unsupported, one that has no file NotFound.
type Remote interface {
	ReadLogs(ctx context.Context, f Filter, p Page) (List, error)
	FollowLogs(ctx context.Context, f Filter, after string, tell func(Entry) error) error
}

// Peers lists the workers that there are.
type Peers interface {
	LogPeers(ctx context.Context) ([]Peer, error)
}

// Fleet reads the files of this process, and asks all workers for those of theirs.
type Fleet struct {
	own   *peer // nil: this process has none
	peers Peers
}

// peer is a server by the key that places are noted under.
type peer struct {
	Peer
	key string
}

// NewFleet reads a process's own files, nil where there are none, and those of workers.
func NewFleet(own *Files, workers Peers) *Fleet {
	s := &Fleet{peers: workers}
	if own != nil {
		// Gateways that share a host have files of their own.
		sum := sha256.Sum256([]byte(own.host + "\x00" + own.path))
		s.own = &peer{Peer{Name: own.service, From: local{own}}, base64.RawURLEncoding.EncodeToString(sum[:6])}
	}
	return s
}

// local is files as a Remote.
type local struct{ *Files }

func (l local) ReadLogs(ctx context.Context, f Filter, p Page) (List, error) {
	return l.Read(ctx, f, p)
}

func (l local) FollowLogs(ctx context.Context, f Filter, after string, tell func(Entry) error) error {
	return l.Follow(ctx, f, after, Listener{Line: tell})
}

// Kind implements Source.
func (s *Fleet) Kind() string { return "fleet" }

// turn is how far one server's lines were read.
type turn struct {
	peer
	place string
	since time.Time // where there is no place
	done  bool      // there were no more
	lost  bool      // it has not answered
}

// all lists who has lines that can be meant. Whoever is not asked is among the missing.
func (s *Fleet) all(ctx context.Context, f Filter) (all []*turn, missing []Missing, err error) {
	switch {
	case s.own != nil:
		all = append(all, &turn{peer: *s.own})
	case f.Service != workerProgram:
		missing = append(missing, Missing{Name: "this gateway", Reason: NoFile, Detail: "log.file is not set"})
	}
	if f.Service != "" && f.Service != workerProgram {
		return all, missing, nil
	}
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	workers, err := s.peers.LogPeers(ctx)
	if err != nil {
		return nil, nil, err
	}
	slices.SortFunc(workers, func(a, b Peer) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
	asked := 0
	for _, w := range workers {
		switch {
		case w.From == nil:
			missing = append(missing, Missing{w.ID, w.Name, w.Reason, w.Detail})
		case asked == maxPeers:
			missing = append(missing, Missing{w.ID, w.Name, TooMany, fmt.Sprintf("no more than %d workers are asked: use log.loki", maxPeers)})
		default:
			asked++
			all = append(all, &turn{peer: peer{w, w.ID}})
		}
	}
	return all, missing, nil
}

// missed is why a server's lines are not there.
func (t *turn) missed(err error) Missing {
	m := Missing{t.ID, t.Name, Failed, errors.Public(err).Message}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		m.Reason, m.Detail = Slow, fmt.Sprintf("it has not answered within %s", askLimit)
	case errors.HasCode(err, errors.Unsupported):
		m.Reason = OldVersion
	case errors.HasCode(err, errors.NotFound):
		m.Reason = NoFile
	case errors.HasCode(err, errors.Unavailable):
		m.Reason = Unreachable
	}
	return m
}

// line is a line with the server that it is of.
type line struct {
	Entry
	of *turn
}

// page reads lines of several servers, merged by their time, and notes how far it
// read each of them. One that fails is read no more. until, unless zero, is before
// what those give that were not read yet.
func page(ctx context.Context, f Filter, p Page, turns []*turn, until time.Time) (lines []line, missing []Missing, err error) {
	p.Bytes = max(minShare, maxPage/max(1, len(turns)))
	answers, failed := make([]List, len(turns)), make([]error, len(turns))
	asking, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	var each sync.WaitGroup
	for i, t := range turns {
		if t.done {
			continue
		}
		f, p := f, p
		if p.Cursor = t.place; p.Cursor == "" {
			f.Since = later(f.Since, t.since)
			if !until.IsZero() && (f.Until.IsZero() || until.Before(f.Until)) {
				f.Until = until
			}
		}
		each.Go(func() { answers[i], failed[i] = t.From.ReadLogs(asking, f, p) })
	}
	each.Wait()
	if ctx.Err() != nil {
		return nil, nil, context.Cause(ctx)
	}
	for i, t := range turns {
		switch err := failed[i]; {
		case errors.HasCode(err, errors.InvalidArgument):
			return nil, nil, err // a place that nobody gave
		case err == nil && len(answers[i].Entries) > p.Limit:
			err = errors.New(errors.Internal, "it has answered with more lines than it was asked for")
			fallthrough
		case err != nil:
			missing = append(missing, t.missed(err))
			t.done, t.lost, answers[i] = true, true, List{}
		}
	}
	told := make([]int, len(turns))
	for len(lines) < p.Limit {
		next := -1
		for i, a := range answers {
			if told[i] == len(a.Entries) {
				if a.Next != "" { // what it has next may belong before all others'
					next = -1
					break
				}
				continue
			}
			if next < 0 || before(p.Oldest, a.Entries[told[i]].At, answers[next].Entries[told[next]].At) {
				next = i
			}
		}
		if next < 0 {
			break
		}
		e := answers[next].Entries[told[next]]
		e.Worker = turns[next].ID
		lines = append(lines, line{e, turns[next]})
		told[next]++
	}
	for i, t := range turns {
		a := answers[i]
		if told[i] > 0 {
			t.place = a.Entries[told[i]-1].Behind
		}
		if told[i] == len(a.Entries) {
			if a.Next != "" {
				t.place = a.Next
			}
			t.done = a.Next == ""
		}
	}
	return lines, missing, nil
}

func before(oldest bool, a, b time.Time) bool {
	if oldest {
		return a.Before(b)
	}
	return a.After(b)
}

// Read implements Source. A listing goes on with the servers that it began with: one
// that fails is told of once, and the rest of its lines is not in the listing.
func (s *Fleet) Read(ctx context.Context, f Filter, p Page) (List, error) {
	turns, missing, err := s.all(ctx, f)
	if err != nil {
		return List{}, err
	}
	var until time.Time
	if p.Cursor != "" {
		at, err := unpack(p.Cursor, cursorField)
		switch {
		case err != nil:
			return List{}, err
		case !at.Page:
			return List{}, noPlace(cursorField)
		case at.Down == p.Oldest:
			return List{}, errors.New(errors.InvalidArgument, "the cursor is of the other order").WithField(cursorField)
		}
		until = at.time()
		turns, missing = s.resume(at, turns, missing)
	}
	lines, failed, err := page(ctx, f, p, turns, until)
	if err != nil {
		return List{}, err
	}
	out := List{Missing: append(missing, failed...)}
	var k packer
	for _, l := range lines {
		at := fleetPlace{At: l.At.UnixNano()}
		at.set(l.of.key, l.ID)
		l.ID = k.pack(&at)
		out.Entries = append(out.Entries, l.Entry)
	}
	next := fleetPlace{Page: true, Down: !p.Oldest}
	for _, t := range turns {
		if !t.done {
			next.set(t.key, t.place)
		}
	}
	if len(next.Of) > 0 {
		if next.Down {
			if next.At = nanoseconds(until); len(lines) > 0 {
				next.At = lines[len(lines)-1].At.UnixNano() + 1
			}
		}
		out.Next = k.pack(&next)
	}
	return out, nil
}

func nanoseconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

// resume is the servers that a listing goes on with. The missing that it does not
// go on with anyhow were told of before.
func (s *Fleet) resume(at fleetPlace, all []*turn, missing []Missing) (turns []*turn, still []Missing) {
	for _, t := range all {
		place, known := at.get(t.key)
		if !known {
			continue
		}
		t.place = place
		turns = append(turns, t)
		delete(at.Of, t.key)
	}
	for _, m := range missing {
		if _, asked := at.Of[m.Worker]; asked {
			still = append(still, m)
			delete(at.Of, m.Worker)
		}
	}
	if n := len(at.Of); n > 0 {
		still = append(still, Missing{
			Reason: Unknown, Name: fmt.Sprintf("%d of the servers that were read before", n),
			Detail: "they are no more, or another gateway was asked before",
		})
	}
	return turns, still
}
