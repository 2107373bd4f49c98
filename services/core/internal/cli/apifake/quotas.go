package apifake

import (
	"encoding/json"
	"net/http"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
)

// project is the fake's only one.
const project = "projectaaaaaaaaaaaaa"

func (s *Server) quotaRoutes(handle register) {
	limits := api.QuotaLimits{VMs: 10, MemoryBytes: 64 << 30}
	show := func(w http.ResponseWriter) error {
		s.mu.Lock()
		q := api.Quota{ProjectID: project, Limits: limits, Override: s.quota, Use: api.QuotaLimits{VMs: int64(len(s.vms)), MilliCPU: 1500, MemoryBytes: 1 << 30}}
		s.mu.Unlock()
		if n := q.Override.VMs; n != nil {
			q.Limits.VMs = *n
		}
		if n := q.Override.MilliCPU; n != nil {
			q.Limits.MilliCPU = *n
		}
		writeJSON(w, http.StatusOK, q)
		return nil
	}
	handle("GET /quota", func(w http.ResponseWriter, _ *http.Request) error { return show(w) })
	handle("GET /projects/{project}/quota", func(w http.ResponseWriter, r *http.Request) error {
		if r.PathValue("project") != "web" {
			return errors.New(errors.NotFound, "there is no project %q", r.PathValue("project"))
		}
		return show(w)
	})
	handle("PUT /projects/{project}/quota", func(w http.ResponseWriter, r *http.Request) error {
		var q api.SetQuota
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
			return errors.Wrap(err, errors.InvalidArgument, "no JSON")
		}
		s.mu.Lock()
		s.quota = q
		s.mu.Unlock()
		return show(w)
	})
}
