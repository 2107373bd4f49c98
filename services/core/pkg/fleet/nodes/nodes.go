// Package nodes is the workers of an installation as a gateway has them: found by
// their rows, and spoken to over connections that stay.
package nodes

import (
	"context"
	"crypto/tls"
	"log/slog"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/nodelink"
	"github.com/aetherium/aetherium/services/core/pkg/serverlog"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

const (
	// every is how soon a worker that has come back elsewhere is found there.
	every = 2 * time.Second
	// soon is how often it is looked for one that cannot be reached.
	soon = 100 * time.Millisecond
	// lookLimit bounds a look at the rows.
	lookLimit = 5 * time.Second
)

// Config of Nodes.
type Config struct {
	Store storage.Store
	// TLS is who a worker has to be, and who speaks to it.
	TLS     func(worker domain.ID) *tls.Config
	Metrics *nodelink.Metrics // of calls; nil: none
	Logger  *slog.Logger
}

// Nodes implements service.Nodes where no worker is in the process.
type Nodes struct {
	c Config

	looking sync.Mutex // one look at a time
	looked  time.Time  // the last
	mu      sync.RWMutex
	at      map[domain.ID]*node
}

// node is a worker at an address.
type node struct {
	name    string
	address string // empty: it has none
	state   domain.WorkerState
	client  *nodelink.Client
}

var _ service.Nodes = (*Nodes)(nil)

// New makes it. Nothing is connected yet.
func New(c Config) *Nodes { return &Nodes{c: c, at: map[domain.ID]*node{}} }

// Here implements service.Nodes.
func (n *Nodes) Here() service.Node { return nil }

// Node implements service.Nodes.
func (n *Nodes) Node(id domain.ID) (service.Node, error) {
	w := n.known(id)
	if w == nil || w.address == "" || w.state == domain.WorkerAway { // it may just have joined, or come back
		ctx, cancel := context.WithTimeout(context.Background(), lookLimit)
		defer cancel()
		within := soon
		if w == nil {
			within = 0
		}
		if err := n.look(ctx, within); err != nil {
			return nil, errors.Wrap(err, errors.Unavailable, "the workers are not known").WithRetryAfter(time.Second)
		}
		w = n.known(id)
	}
	switch {
	case w == nil:
		return nil, errors.New(errors.Unavailable, "the worker %s is none of this installation", id)
	case w.address == "":
		return nil, errors.New(errors.Unavailable, "the worker %s cannot be reached from other processes", id).
			WithHint("it is in a server of its own: aetherium-standalone")
	case w.state == domain.WorkerAway:
		return nil, errors.New(errors.Unavailable, "the worker that has this is away").WithRetryAfter(every)
	}
	return w.client, nil
}

func (n *Nodes) known(id domain.ID) *node {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.at[id]
}

// Run keeps up with the rows until ctx ends.
func (n *Nodes) Run(ctx context.Context) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if err := n.look(ctx, 0); err != nil && ctx.Err() == nil {
			n.c.Logger.Warn("what workers there are is not known; going on with those of before", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// look takes up what the rows say, unless that was done within a while.
func (n *Nodes) look(ctx context.Context, within time.Duration) error {
	n.looking.Lock()
	defer n.looking.Unlock()
	if within > 0 && time.Since(n.looked) < within {
		return nil
	}
	var rows []*domain.Worker
	err := n.c.Store.View(ctx, func(tx storage.Tx) (err error) {
		rows, err = tx.Workers().All(ctx)
		return err
	})
	if err != nil {
		return err
	}
	n.looked = time.Now()
	n.mu.Lock()
	defer n.mu.Unlock()
	before := n.at
	n.at = make(map[domain.ID]*node, len(rows))
	for _, w := range rows {
		old := before[w.ID]
		fresh := &node{name: w.Name, address: w.Address, state: w.State}
		switch {
		case old != nil && old.address == w.Address:
			fresh.client = old.client
			delete(before, w.ID)
		case w.Address != "":
			fresh.client = nodelink.NewClient(w.Address, n.c.TLS(w.ID), n.c.Logger).Measured(n.c.Metrics)
		}
		n.at[w.ID] = fresh
	}
	drop(before)
	return nil
}

// Close ends the connections that nobody uses.
func (n *Nodes) Close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	drop(n.at)
	n.at = map[domain.ID]*node{}
}

func drop(all map[domain.ID]*node) {
	for _, w := range all {
		if w.client != nil {
			w.client.Close()
		}
	}
}

// LogPeers implements [serverlog.Peers].
func (n *Nodes) LogPeers(ctx context.Context) ([]serverlog.Peer, error) {
	if err := n.look(ctx, 0); err != nil { // one that has just joined may be what is looked for
		return nil, errors.Wrap(err, errors.Unavailable, "the workers are not known").WithRetryAfter(time.Second)
	}
	n.mu.RLock()
	defer n.mu.RUnlock()
	all := make([]serverlog.Peer, 0, len(n.at))
	for id, w := range n.at {
		p := serverlog.Peer{ID: id.String(), Name: w.name}
		switch {
		case w.address == "":
			p.Reason, p.Detail = serverlog.Unreachable, "it is in a server of its own: aetherium-standalone"
		case w.state == domain.WorkerAway:
			p.Reason, p.Detail = serverlog.Away, "nothing is heard of it"
		default:
			p.From = w.client
		}
		all = append(all, p)
	}
	return all, nil
}
