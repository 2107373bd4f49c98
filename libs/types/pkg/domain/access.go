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
	Scopes     Scopes // empty: everything in its project
	CreatedAt  time.Time
	ExpiresAt  *time.Time // nil: never
	LastUsedAt *time.Time
	RevokedAt  *time.Time
}

// Allowed is what the key's holder may do.
func (k *APIKey) Allowed() Scopes {
	if len(k.Scopes) == 0 {
		return Scopes{ScopeManage}
	}
	return k.Scopes
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
