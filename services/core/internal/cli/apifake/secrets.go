package apifake

import (
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

type secret struct {
	api.Secret
	value string
}

// Secret gives a stored secret's value, for tests to look at.
func (s *Server) Secret(name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.secrets[name].value
}

func (s *Server) secretRoutes(handle register) {
	handle("GET /secrets", func(w http.ResponseWriter, _ *http.Request) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		items := []api.Secret{}
		for _, name := range slices.Sorted(maps.Keys(s.secrets)) {
			items = append(items, s.secrets[name].Secret)
		}
		writeJSON(w, http.StatusOK, api.List[api.Secret]{Items: items})
		return nil
	})
	handle("PUT /secrets/{name}", func(w http.ResponseWriter, r *http.Request) error {
		var req api.SetSecret
		name := r.PathValue("name")
		if err := readJSON(r, &req); err != nil {
			return err
		}
		if err := domain.ValidateSecretValue("value", req.Value); err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		v := secret{api.Secret{Name: name, CreatedAt: time.Now(), UpdatedAt: time.Now()}, req.Value}
		s.secrets[name] = v
		writeJSON(w, http.StatusOK, v.Secret)
		return nil
	})
	handle("DELETE /secrets/{name}", func(w http.ResponseWriter, r *http.Request) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		name := r.PathValue("name")
		if _, ok := s.secrets[name]; !ok {
			return errors.New(errors.NotFound, "no secret is named %q", name)
		}
		delete(s.secrets, name)
		w.WriteHeader(http.StatusNoContent)
		return nil
	})
}
