package domain

import "time"

// APIKey gives a caller access to a project. The secret itself is never
// stored: only its SHA-256 and a prefix for people to tell keys apart.
type APIKey struct {
	ID         ID
	ProjectID  ID
	Name       string
	Prefix     string
	Hash       [32]byte
	Scopes     []string // empty: everything in its project
	CreatedAt  time.Time
	ExpiresAt  *time.Time // nil: never
	LastUsedAt *time.Time
	RevokedAt  *time.Time
}

// Usable reports whether the key opens anything at a time.
func (k *APIKey) Usable(now time.Time) bool {
	return k.RevokedAt == nil && (k.ExpiresAt == nil || now.Before(*k.ExpiresAt))
}

// Secret is a value that VMs of a project can be given by name.
type Secret struct {
	ID        ID
	ProjectID ID
	Name      string // unique in the project
	Sealed    []byte // envelope-encrypted value
	CreatedAt time.Time
	UpdatedAt time.Time
}
