package domain

import "time"

// Upload is a file that was sent to build templates from: an archive, in a worker's
// data directory.
type Upload struct {
	ID, ProjectID, WorkerID ID
	Name                    string // by which whoever sent it finds it again; empty: by its ID alone
	SizeBytes               int64  // so far
	SHA256                  string // in hexadecimal digits; empty: it is not whole
	CreatedAt, ExpiresAt    time.Time
}
