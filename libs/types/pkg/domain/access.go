package domain

import (
	"crypto/subtle"
	"regexp"
	"time"
)

// APIKey gives a caller access to a project. The secret itself is never
// stored: only its SHA-256 and a prefix for people to tell keys apart.
type APIKey struct {
	ID         ID
	ProjectID  ID
	UserID     ID // whose it is: it gives no more than that user has; empty: nobody's in particular
	Name       string
	Prefix     string
	Hash       [32]byte
	OldHash    [32]byte   // of the secret before the last rotation; counts until OldUntil
	OldUntil   *time.Time // nil: there is no such secret
	Scopes     Scopes     // empty: everything in its project
	CreatedBy  string     // name of the key or user that made it
	CreatedAt  time.Time
	RotatedAt  *time.Time
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

// Opens reports whether a secret with a hash is the key's at a time.
func (k *APIKey) Opens(hash [32]byte, now time.Time) bool {
	// Hashes of random secrets: how long comparing takes tells nobody anything,
	// but it costs nothing to be sure.
	current := subtle.ConstantTimeCompare(k.Hash[:], hash[:])
	old := subtle.ConstantTimeCompare(k.OldHash[:], hash[:])
	return k.Usable(now) && (current == 1 || old == 1 && k.OldUntil != nil && now.Before(*k.OldUntil))
}

// Role is what a user is in a project.
type Role string

// The roles, each with the scope of its name's work.
const (
	RoleViewer     Role = "viewer"
	RoleDeveloper  Role = "developer"
	RoleMaintainer Role = "maintainer"
)

// Scope is the widest scope that a role gives in its project; empty for what
// is no role.
func (r Role) Scope() Scope {
	switch r {
	case RoleViewer:
		return ScopeRead
	case RoleDeveloper:
		return ScopeRun
	case RoleMaintainer:
		return ScopeManage
	}
	return ""
}

// Validate checks a role. Returns InvalidArgument.
func (r Role) Validate(field string) error {
	if r.Scope() == "" {
		return invalid(field, "%q is not a role", clip(string(r), 64)).WithHint("viewer, developer or maintainer")
	}
	return nil
}

// User is a person, or a program that stands for itself, across projects.
type User struct {
	ID   ID
	Name string // unique in the installation: a name or an email address
	// Issuer and Subject say who the user is to an identity provider; empty:
	// to none yet.
	Issuer  string
	Subject string
	// Admin users may do everything, in every project.
	Admin bool
	// AdminBy is the issuer whose claim made the user one; empty: an administrator did.
	AdminBy    string
	DisabledAt *time.Time // nil: in force
	CreatedAt  time.Time
	UpdatedAt  time.Time
}

// MaxUserName bounds a user's name: an email address (RFC 5321 §4.5.3.1).
const MaxUserName = 254

var userNameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._%+@-]*$`)

// ValidateUserName checks a user's name. Returns InvalidArgument.
func ValidateUserName(field, name string) error {
	if len(name) > MaxUserName || !userNameForm.MatchString(name) || IsID(name) {
		return invalid(field, "%q is not a user's name", clip(name, 64)).
			WithHint("a name or an email address, at most %d characters of a-z, 0-9 and ._%%+@-", MaxUserName)
	}
	return nil
}

// Member is a user in a project.
type Member struct {
	ProjectID ID
	UserID    ID
	Role      Role
	// Source is the issuer whose claim says so; empty: somebody gave it.
	Source    string
	CreatedAt time.Time
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
