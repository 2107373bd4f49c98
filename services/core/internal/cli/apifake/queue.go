package apifake

import (
	"net/http"
	"slices"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
)

// someJobs are what a fake begins with.
func someJobs() []api.Job {
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	return []api.Job{
		{ID: "jobaaaaaaaaaaaaaaaaa", Kind: "vm.converge", Subject: "vmaaaaaaaaaaaaaaaaaa", ProjectID: "project0000000000000", State: "running", Attempt: 1, At: at},
		{ID: "jobbbbbbbbbbbbbbbbbb", Kind: "task.run", Subject: "task0000000000000000", State: "dead", Attempt: 3, At: at, Error: "the arguments are \x1b[31mdamaged"},
		{ID: "jobccccccccccccccccc", Kind: "task.run", State: "dead", Attempt: 1, At: at.Add(-time.Minute), Error: "no"},
	}
}

func (s *Server) queueRoutes(handle register) {
	handle("GET /queue", func(w http.ResponseWriter, _ *http.Request) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		var q api.Queue
		for _, j := range s.jobs {
			switch j.State {
			case "scheduled":
				q.Scheduled++
			case "waiting":
				q.Waiting++
			case "running":
				q.Running++
			default:
				q.Dead++
			}
		}
		writeJSON(w, http.StatusOK, q)
		return nil
	})
	handle("GET /queue/jobs", func(w http.ResponseWriter, r *http.Request) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		state := r.URL.Query().Get("state")
		return page(w, r, slices.DeleteFunc(slices.Clone(s.jobs), func(j api.Job) bool { return state != "" && j.State != state }))
	})
	change := func(do func(i int)) func(http.ResponseWriter, *http.Request) error {
		return func(w http.ResponseWriter, r *http.Request) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			id := r.PathValue("job")
			i := slices.IndexFunc(s.jobs, func(j api.Job) bool { return j.ID == id && j.State == "dead" })
			if i < 0 {
				return errors.New(errors.NotFound, "there is no dead job %s", id)
			}
			do(i)
			w.WriteHeader(http.StatusNoContent)
			return nil
		}
	}
	handle("POST /queue/jobs/{job}/retry", change(func(i int) { s.jobs[i].State, s.jobs[i].Attempt, s.jobs[i].Error = "waiting", 1, "" }))
	handle("DELETE /queue/jobs/{job}", change(func(i int) { s.jobs = slices.Delete(s.jobs, i, i+1) }))
}
