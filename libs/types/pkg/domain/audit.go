package domain

import "time"

// AuditRecord is one change that somebody made or asked for. It tells who, what
// and when, never what was in it: no bodies, no commands, no values.
type AuditRecord struct {
	ID        ID
	ProjectID ID // in which; empty: the credentials were not valid
	At        time.Time
	Actor     string // name of the key or user, or what was shown in their place
	KeyID     ID     // empty: it was no key
	UserID    ID     // empty: nobody in particular
	Admin     bool   // the actor may do everything
	Entered   bool   // the request named the project, which need not be the actor's own
	Operation string // its ID in the API
	// SubjectKind and SubjectID say what it was done to: what was made, else
	// what the path names, by ID where that is known.
	SubjectKind string
	SubjectID   string
	VMID        ID // the VM that it was done to or in; may be empty
	Client      string
	Agent       string // the client program, as it calls itself
	Status      int    // of the answer, as over HTTP
	Code        string // of the error; empty: it was done
	RequestID   string
	// Unrecorded counts refusals of the same client like this one, or requests to
	// the same VM's agent, that came before it and were too many to be recorded each.
	Unrecorded int64
}

// AuditResult is how something went.
type AuditResult string

// The results.
const (
	AuditDone    AuditResult = "done"
	AuditRefused AuditResult = "refused" // for who asked, or how often
	AuditFailed  AuditResult = "failed"
)

// Result is how it went.
func (r *AuditRecord) Result() AuditResult {
	switch {
	case r.Status < 400:
		return AuditDone
	case r.Status == 401 || r.Status == 403 || r.Status == 429:
		return AuditRefused
	}
	return AuditFailed
}
