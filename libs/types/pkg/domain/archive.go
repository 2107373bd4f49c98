package domain

import "time"

// The bounds on archives.
const (
	// MaxArchive bounds an archive's content, packed: none that is longer is added to.
	MaxArchive = 128 << 10
	// MaxArchivedResult bounds the result of a task that is archived; a longer one is left out.
	MaxArchivedResult = 16 << 10
)

// Archive is what is kept of a project's ended VMs, executions and tasks once they
// are not looked up any more: many records together, packed and encrypted.
type Archive struct {
	ID         ID
	ProjectID  ID
	WorkerID   ID // the worker that makes it
	VMs        int
	Executions int
	Tasks      int
	FirstAt    time.Time // when the first of them ended
	LastAt     time.Time // when the last of them ended
	CreatedAt  time.Time
	KeySealed  []byte // envelope-encrypted, of Content; changes with it
	Bytes      int64  // of Content
	Content    []byte // not in lists
}

// Records is how many records are in the archive.
func (a *Archive) Records() int { return a.VMs + a.Executions + a.Tasks }
