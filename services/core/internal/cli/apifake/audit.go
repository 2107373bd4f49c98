package apifake

import (
	"net/http"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
)

func (s *Server) auditRoutes(handle register) {
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	records := []api.AuditRecord{
		{ID: "auditbbbbbbbbbbbbbbb", At: at.Add(time.Minute), Operation: "create-vm", Client: "203.0.113.9", Result: "refused", Status: 401, Code: "unauthenticated"},
		{ID: "auditaaaaaaaaaaaaaaa", At: at, Actor: "agent\x1b[31m", Operation: "delete-vm", SubjectKind: "vm", SubjectID: "web", Client: "192.0.2.1", Result: "done", Status: 200},
	}
	handle("GET /audit", func(w http.ResponseWriter, r *http.Request) error {
		q := r.URL.Query()
		out := api.List[api.AuditRecord]{Items: []api.AuditRecord{}}
		for _, rec := range records {
			since, _ := time.Parse(time.RFC3339, q.Get("since"))
			if (q.Get("result") == "" || q.Get("result") == rec.Result) && (q.Get("subject") == "" || q.Get("subject") == rec.SubjectID) && !rec.At.Before(since) {
				out.Items = append(out.Items, rec)
			}
		}
		writeJSON(w, http.StatusOK, out)
		return nil
	})
}
