package api

import "time"

// Queue is how many jobs there are.
type Queue struct {
	Scheduled int `json:"scheduled" doc:"Wait for their time"`
	Waiting   int `json:"waiting" doc:"May run now, or when their like has run"`
	Running   int `json:"running"`
	Dead      int `json:"dead" doc:"Given up, and kept to be looked at"`
}

// Job is a piece of work that the server gives itself.
type Job struct {
	ID          string    `json:"id"`
	Kind        string    `json:"kind" example:"vm.converge"`
	Subject     string    `json:"subject,omitempty" doc:"ID of what it works on"`
	ProjectID   string    `json:"project_id,omitempty" doc:"On whose behalf it runs"`
	State       string    `json:"state" enum:"scheduled,waiting,running,dead"`
	Priority    int       `json:"priority"`
	Attempt     int       `json:"attempt"`
	MaxAttempts int       `json:"max_attempts,omitempty" doc:"Absent: without end"`
	At          time.Time `json:"at" doc:"Since when it is due, runs or is dead, or when it is due"`
	Error       string    `json:"error,omitempty" doc:"Of its last attempt"`
}
