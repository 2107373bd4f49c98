package apifake

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
)

// someJoinTokens are what a fake begins with.
func someJoinTokens() []api.JoinToken {
	now := time.Now()
	used := now.Add(-time.Hour)
	return []api.JoinToken{{
		ID: "tokenaaaaaaaaaaaaaaa", State: "used", CreatedBy: "first key", CreatedAt: now.Add(-2 * time.Hour), ExpiresAt: now.Add(-time.Hour),
		UsedAt: &used, WorkerID: "workeraaaaaaaaaaaaaa", KeySHA256: strings.Repeat("0", 64),
	}}
}

// someWorkers are what a fake begins with.
func someWorkers() []api.Worker {
	seen := time.Now().Add(-time.Minute)
	all := api.Resources{MilliCPU: 4000, MemoryBytes: 8 << 30, DiskBytes: 64 << 30, PIDs: 1000}
	return []api.Worker{
		{ID: "workeraaaaaaaaaaaaaa", Name: "node-1", Address: "node-1:7400", State: "ready", Capacity: all, Reserved: api.Resources{MilliCPU: 1500, MemoryBytes: 1 << 30}, VMs: 3, Active: 2, Tasks: 1, SeenAt: seen},
		{ID: "workerbbbbbbbbbbbbbb", Name: "node-2", State: "away", Cordoned: true, Capacity: all, SeenAt: seen},
	}
}

func (s *Server) workerRoutes(handle register) {
	handle("GET /workers", func(w http.ResponseWriter, r *http.Request) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		return page(w, r, s.workers)
	})
	change := func(do func(*api.Worker, *http.Request) error) func(http.ResponseWriter, *http.Request) error {
		return func(w http.ResponseWriter, r *http.Request) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			id := r.PathValue("id")
			i := slices.IndexFunc(s.workers, func(x api.Worker) bool { return x.ID == id || x.Name == id })
			if i < 0 {
				return errors.New(errors.NotFound, "no worker is named %q", id)
			}
			x := &s.workers[i]
			if err := do(x, r); err != nil {
				return err
			}
			if x.State != "away" {
				x.State = map[bool]string{true: "cordoned", false: "ready"}[x.Cordoned]
			}
			writeJSON(w, http.StatusOK, *x)
			return nil
		}
	}
	handle("GET /workers/{id}", change(func(x *api.Worker, _ *http.Request) error {
		if x.DrainAt != nil {
			x.Active-- // one ends while it is looked, VMs first
			if x.Active < 0 {
				x.Active, x.Tasks = 0, max(0, x.Tasks-1)
				if x.Moving && x.Staying == 0 {
					x.VMs, x.Staying = 1, 1 // it has a volume
				}
			}
		}
		return nil
	}))
	handle("POST /workers/{id}/cordon", change(func(x *api.Worker, _ *http.Request) error {
		x.Cordoned = true
		return nil
	}))
	handle("POST /workers/{id}/uncordon", change(func(x *api.Worker, _ *http.Request) error {
		x.Cordoned, x.DrainAt, x.Moving, x.Staying = false, nil, false, 0
		return nil
	}))
	handle("POST /workers/{id}/drain", change(func(x *api.Worker, r *http.Request) error {
		var req api.DrainWorker
		if err := readJSON(r, &req); err != nil {
			return err
		}
		at := time.Now().Add(time.Duration(*req.WithinMS) * time.Millisecond)
		x.Cordoned, x.DrainAt, x.Moving = true, &at, x.Moving || req.Move
		return nil
	}))
	handle("DELETE /workers/{id}", func(w http.ResponseWriter, r *http.Request) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		id := r.PathValue("id")
		i := slices.IndexFunc(s.workers, func(x api.Worker) bool { return x.ID == id || x.Name == id })
		switch {
		case i < 0:
			return errors.New(errors.NotFound, "no worker is named %q", id)
		case s.workers[i].State != "away":
			return errors.New(errors.Conflict, "the worker %s is %s: only one that is away can be removed", s.workers[i].Name, s.workers[i].State)
		case r.URL.Query().Get("fenced") != "true":
			return errors.New(errors.Conflict, "the worker %s is away, and still has volumes", s.workers[i].Name)
		}
		s.workers = slices.Delete(s.workers, i, i+1)
		w.WriteHeader(http.StatusNoContent)
		return nil
	})
	handle("POST /workers/tokens", func(w http.ResponseWriter, r *http.Request) error {
		var req api.CreateJoinToken
		if err := readJSON(r, &req); err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		now := time.Now()
		ttl := time.Duration(req.TTLMS) * time.Millisecond
		if ttl == 0 {
			ttl = time.Hour
		}
		t := api.JoinToken{ID: "tokenbbbbbbbbbbbbbbb", State: "usable", CreatedBy: "first key", CreatedAt: now, ExpiresAt: now.Add(ttl)}
		s.joinTokens = append([]api.JoinToken{t}, s.joinTokens...)
		writeJSON(w, http.StatusCreated, api.NewJoinToken{JoinToken: t, Token: "aethjoin_" + strings.Repeat("A", 86)})
		return nil
	})
	handle("GET /workers/tokens", func(w http.ResponseWriter, r *http.Request) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		return page(w, r, s.joinTokens)
	})
	handle("DELETE /workers/tokens/{id}", func(w http.ResponseWriter, r *http.Request) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		id := r.PathValue("id")
		i := slices.IndexFunc(s.joinTokens, func(t api.JoinToken) bool { return t.ID == id })
		if i < 0 {
			return errors.New(errors.NotFound, "join token %s does not exist", id)
		}
		s.joinTokens = slices.Delete(s.joinTokens, i, i+1)
		w.WriteHeader(http.StatusNoContent)
		return nil
	})
}
