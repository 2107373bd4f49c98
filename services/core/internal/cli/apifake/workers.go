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

func (s *Server) workerRoutes(handle register) {
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
