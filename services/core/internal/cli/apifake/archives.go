package apifake

import (
	"io"
	"net/http"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
)

// archives by ID, the newest first.
var archives = []struct{ id, records string }{
	{"archivebbbbbbbbbbbbb", `{"kind":"task","task":{"id":"t","vm_id":"vmbbbbbbbbbbbbbbbbbb"}}` + "\n"},
	{"archiveaaaaaaaaaaaaa", `{"kind":"vm","vm":{"id":"vmaaaaaaaaaaaaaaaaaa"}}` + "\n" + `{"kind":"execution","execution":{"id":"x","vm_id":"vmaaaaaaaaaaaaaaaaaa","new":"field"}}` + "\n"},
}

func (s *Server) archiveRoutes(handle register) {
	handle("GET /archives", func(w http.ResponseWriter, r *http.Request) error {
		var list []api.Archive
		for _, a := range archives {
			list = append(list, api.Archive{
				ID: a.id, VMs: 1, Executions: 2, Tasks: 3, SizeBytes: 1 << 20,
				FirstEndedAt: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC), LastEndedAt: time.Date(2026, 3, 5, 6, 7, 8, 0, time.UTC),
			})
		}
		return page(w, r, list)
	})
	handle("GET /archives/{id}", func(w http.ResponseWriter, r *http.Request) error {
		for _, a := range archives {
			if a.id == r.PathValue("id") {
				w.Header().Set("Content-Type", "application/x-ndjson")
				_, err := io.WriteString(w, a.records)
				return err
			}
		}
		return errors.New(errors.NotFound, "archive %s does not exist", r.PathValue("id"))
	})
}
