package apifake

import (
	"net/http"
	"strings"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
)

// runIDs begins the IDs of the runs that a fake makes; they end in a, b, …
const runIDs = "run0000000000000000"

// handleRuns has commands run at once: each has written what it was asked for,
// and failed where it is called false.
func (s *Server) handleRuns(handle register) {
	make := func(req api.CreateTask, group string) api.Task {
		t := api.Task{
			ID: runIDs + string(rune('a'+len(s.runs))), Kind: "run", Name: req.Name, GroupID: group, State: "succeeded", Step: "done",
			Attempts: 1, MaxAttempts: max(1, req.MaxAttempts),
		}
		if len(req.Args) > 0 && req.Args[0] == "false" {
			t.State, t.Error = "failed", &api.TaskError{Code: "command_failed", Message: "the command exited with 1"}
		}
		text := strings.Join(req.Args, " ") + "\n"
		for k, v := range req.VM.Env {
			text += k + "=" + v + "\n"
		}
		for _, f := range req.Files {
			text += f.Path + ": " + string(f.Content)
		}
		s.runs[t.ID] = text + req.Stdin
		s.tasks = append(s.tasks, t)
		return t
	}
	handle("POST /tasks", func(w http.ResponseWriter, r *http.Request) error {
		var req api.CreateTask
		if err := readJSON(r, &req); err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		writeJSON(w, 201, make(req, ""))
		return nil
	})
	handle("POST /task-groups", func(w http.ResponseWriter, r *http.Request) error {
		var req api.CreateTaskGroup
		if err := readJSON(r, &req); err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, t := range req.Tasks {
			if t.VM == nil {
				t.VM = new(api.CreateVM)
			}
			make(t, "group000000000000000")
		}
		writeJSON(w, 201, s.group())
		return nil
	})
	of := func(w http.ResponseWriter, r *http.Request) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		g := s.group()
		if g.ID != r.PathValue("id") || g.Total == 0 {
			return errors.New(errors.NotFound, "there is no group of tasks %q", r.PathValue("id"))
		}
		writeJSON(w, 200, g)
		return nil
	}
	handle("GET /task-groups/{id}", of)
	handle("POST /task-groups/{id}/cancel", of)
	handle("GET /tasks/{id}/output", func(w http.ResponseWriter, r *http.Request) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		text, ok := s.runs[r.PathValue("id")]
		if !ok {
			return errors.New(errors.NotFound, "there is no task %q", r.PathValue("id"))
		}
		_, err := w.Write([]byte(text))
		return err
	})
	handle("POST /tasks/{id}/retry", func(w http.ResponseWriter, r *http.Request) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		for i := range s.tasks {
			if s.tasks[i].ID == r.PathValue("id") && s.tasks[i].State == "failed" {
				s.tasks[i].State, s.tasks[i].Error = "succeeded", nil
				writeJSON(w, 200, s.tasks[i])
				return nil
			}
		}
		return errors.New(errors.Conflict, "the task has not failed")
	})
}

func (s *Server) group() api.TaskGroup {
	g := api.TaskGroup{ID: "group000000000000000", Ended: true, States: map[string]int{}}
	for _, t := range s.tasks {
		if t.GroupID != "" {
			g.Total++
			g.States[t.State]++
		}
	}
	return g
}
