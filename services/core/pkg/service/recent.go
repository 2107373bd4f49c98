package service

import (
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// Executions that were started by this process a moment ago. Their rows may not
// be written yet, and whoever started one asks for its output next: neither the
// database nor all the other workers need to be asked where it is.
const (
	recentFor  = 5 * time.Second // then the row is there, and tells where a VM is that moved or is away
	maxRecents = 4096
)

type recent struct {
	execution domain.Execution // as it was when it was started, without its command
	worker    domain.ID
	until     time.Time
}

type recents struct {
	mu   sync.Mutex
	byID map[domain.ID]recent
	ring []domain.ID // the oldest is at next once it is full
	next int
}

// add notes an execution that a worker began to run at a time.
func (r *recents) add(x *domain.Execution, worker domain.ID, now time.Time) {
	e := recent{execution: *x, worker: worker, until: now.Add(recentFor)}
	e.execution.Command, e.execution.CommandSealed = domain.Command{}, nil
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byID == nil {
		r.byID = make(map[domain.ID]recent)
	}
	if _, known := r.byID[x.ID]; !known {
		if len(r.ring) < maxRecents {
			r.ring = append(r.ring, x.ID)
		} else {
			delete(r.byID, r.ring[r.next])
			r.ring[r.next] = x.ID
			r.next = (r.next + 1) % maxRecents
		}
	}
	r.byID[x.ID] = e
}

// find gives an execution of a project.
func (r *recents) find(project, id domain.ID, now time.Time) (*domain.Execution, domain.ID, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, ok := r.byID[id]
	if !ok || now.After(e.until) || !of(&e.execution, project) {
		return nil, "", false
	}
	x := e.execution
	return &x, e.worker, true
}
