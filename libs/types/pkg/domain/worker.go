package domain

import "time"

// JoinToken lets one worker join an installation, once. What is secret of it is
// never stored.
type JoinToken struct {
	ID        ID
	Hash      [32]byte // SHA-256 of the public key that belongs to its secret
	CreatedBy string   // name of the key or user that made it
	CreatedAt time.Time
	ExpiresAt time.Time
	UsedAt    *time.Time // nil: nobody did
	WorkerID  ID         // who joined by it
	KeyHash   [32]byte   // SHA-256 of that worker's public key at the time
}
