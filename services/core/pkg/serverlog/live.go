package serverlog

import (
	"context"
	"sync"
	"time"
)

const (
	// relistEvery is how soon lines of a worker that has joined are followed.
	relistEvery = 5 * time.Second
	// Between attempts to follow a server.
	minPause = 500 * time.Millisecond
	maxPause = 15 * time.Second
)

// Check implements Source.
func (s *Fleet) Check(after string) error {
	_, err := s.after(after)
	return err
}

// after reads where a stream is gone on with.
func (s *Fleet) after(after string) (at fleetPlace, err error) {
	if after == "" {
		return at, nil
	}
	at, err = unpack(after, resumeField)
	if err == nil && (at.Page || at.At <= 0) {
		err = noPlace(resumeField)
	}
	return at, err
}

// Follow implements Source. What there is of lines comes by their time, those to
// come as they come. The ID of a line says how far each server was told: of one
// that has told nothing yet, lines since the stream began.
func (s *Fleet) Follow(ctx context.Context, f Filter, after string, to Listener) error {
	at, err := s.after(after)
	if err != nil {
		return err
	}
	live := after == "" && f.Since.IsZero()
	switch {
	case after != "":
	case live:
		at.At = time.Now().UnixNano()
	default:
		at.At = f.Since.UnixNano()
	}
	turns, missing, err := s.all(ctx, f)
	if err != nil {
		return err
	}
	l := &liveFleet{Fleet: s, filter: f, at: at, to: to, from: map[string]Remote{}}
	for _, m := range missing {
		if err := l.missing(m); err != nil {
			return err
		}
	}
	if !live {
		for _, t := range turns {
			if t.place, _ = at.get(t.key); t.place == "" {
				t.since = at.time()
			}
		}
		if err := l.past(ctx, turns); err != nil {
			return err
		}
	}
	return l.run(ctx, turns, live)
}

// liveFleet is a stream of several servers' lines.
type liveFleet struct {
	*Fleet
	filter Filter
	at     fleetPlace
	to     Listener
	packer packer

	lines chan event
	each  sync.WaitGroup
	mu    sync.Mutex
	from  map[string]Remote // where the servers that are followed are, by their keys
}

// event is what a server's stream has given: a line, or why there is none.
type event struct {
	key   string
	entry Entry
	lost  *Missing
}

func (l *liveFleet) line(key string, e Entry) error {
	l.at.set(key, e.ID)
	e.ID = l.packer.pack(&l.at)
	return l.to.Line(e)
}

func (l *liveFleet) missing(m Missing) error { return l.to.Missing(m, l.packer.pack(&l.at)) }

// past tells the lines that there are, by their time.
func (l *liveFleet) past(ctx context.Context, turns []*turn) error {
	for again := true; again; {
		lines, missing, err := page(ctx, l.filter, Page{Limit: MaxLimit, Oldest: true}, turns, time.Time{})
		if err != nil {
			return err
		}
		for _, m := range missing {
			if err := l.missing(m); err != nil {
				return err
			}
		}
		for _, one := range lines {
			if err := l.line(one.of.key, one.Entry); err != nil {
				return err
			}
		}
		again = false
		for _, t := range turns {
			again = again || !t.done
		}
	}
	return nil
}

// run tells the lines to come.
func (l *liveFleet) run(ctx context.Context, turns []*turn, live bool) error {
	l.lines = make(chan event)
	ctx, cancel := context.WithCancel(ctx)
	defer l.each.Wait()
	defer cancel()
	for _, t := range turns {
		l.follow(ctx, t, live)
	}
	relist := time.NewTicker(relistEvery)
	defer relist.Stop()
	for {
		select {
		case e := <-l.lines:
			var err error
			if e.lost != nil {
				err = l.missing(*e.lost)
			} else {
				err = l.line(e.key, e.entry)
			}
			if err != nil {
				return err
			}
		case <-relist.C:
			turns, _, err := l.all(ctx, l.filter)
			if err != nil {
				continue // there is another look
			}
			for _, t := range turns {
				if t.place, _ = l.at.get(t.key); t.place == "" {
					t.since = l.at.time()
				}
				l.follow(ctx, t, false)
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// found is where a server is by now.
func (l *liveFleet) found(key string) Remote {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.from[key]
}

// follow has a server followed, unless it is. now: from its last line on.
func (l *liveFleet) follow(ctx context.Context, t *turn, now bool) {
	l.mu.Lock()
	_, is := l.from[t.key]
	l.from[t.key] = t.From
	l.mu.Unlock()
	if is {
		return
	}
	began := l.at.time()
	l.each.Go(func() {
		send := func(e event) error {
			select {
			case l.lines <- e:
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		told := t.lost // that its lines are missing
		for pause := minPause; ; pause = min(2*pause, maxPause) {
			f := l.filter
			if t.place == "" {
				f.Since = later(f.Since, t.since)
			}
			err := l.found(t.key).FollowLogs(ctx, f, t.place, func(e Entry) error {
				e.Worker = t.ID
				err := send(event{key: t.key, entry: e})
				if err == nil {
					t.place, told, pause = e.ID, false, minPause
				}
				return err
			})
			if ctx.Err() != nil {
				return
			}
			if now { // from then on, as it may have had lines that were not told
				now, t.since = false, began
			}
			m := t.missed(err)
			if m.Reason == OldVersion || m.Reason == NoFile {
				pause = maxPause
			}
			if !told {
				if send(event{key: t.key, lost: &m}) != nil {
					return
				}
				told = true
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
		}
	})
}
