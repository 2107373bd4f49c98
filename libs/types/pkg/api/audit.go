package api

import "time"

// AuditRecord is one change that somebody made or asked for.
type AuditRecord struct {
	ID          string    `json:"id"`
	At          time.Time `json:"at" doc:"When it was answered"`
	ProjectID   string    `json:"project_id,omitempty" doc:"In which project; absent where the credentials were not valid"`
	Actor       string    `json:"actor,omitempty" doc:"Name of the key or user"`
	KeyID       string    `json:"key_id,omitempty"`
	UserID      string    `json:"user_id,omitempty"`
	Admin       bool      `json:"admin,omitempty" doc:"An administrator"`
	Entered     bool      `json:"entered,omitempty" doc:"The request named the project, which need not be the actor's own"`
	Operation   string    `json:"operation" doc:"The operation's ID in this document" example:"create-vm"`
	SubjectKind string    `json:"subject_kind,omitempty" example:"vm"`
	SubjectID   string    `json:"subject_id,omitempty" doc:"ID of what was made, else ID or name of what the path names"`
	VMID        string    `json:"vm_id,omitempty" doc:"The VM that it was done to or in"`
	Client      string    `json:"client,omitempty" doc:"Address that it came from" example:"192.0.2.1"`
	Agent       string    `json:"agent,omitempty" doc:"The client program, as it calls itself"`
	Result      string    `json:"result" enum:"done,refused,failed"`
	Status      int       `json:"status" doc:"HTTP status of the answer"`
	Code        string    `json:"code,omitempty" doc:"Of the error" example:"quota_exceeded"`
	RequestID   string    `json:"request_id,omitempty"`
	Unrecorded  int64     `json:"unrecorded,omitempty" doc:"Refusals of this client, or requests to this VM's agent, before this one that were too many to be recorded each"`
}
