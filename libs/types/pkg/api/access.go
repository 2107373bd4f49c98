package api

import "time"

// Key is an API key. Its text was told once, when it was made or rotated.
type Key struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	Prefix    string    `json:"prefix" example:"aeth_1f3a" doc:"How its text begins"`
	State     string    `json:"state" enum:"active,expired,revoked"`
	Scopes    []string  `json:"scopes" nullable:"false" doc:"read, run, manage or admin; each includes those before it"`
	UserID    string    `json:"user_id,omitempty" doc:"Whose it is: it gives no more than that user has"`
	CreatedBy string    `json:"created_by,omitempty" doc:"Name of the key or user that made it"`
	CreatedAt time.Time `json:"created_at"`
	// OldSecretUntil is set while the secret before the last rotation counts.
	OldSecretUntil *time.Time `json:"old_secret_until,omitempty" doc:"Until when the secret before the last rotation counts as well"`
	RotatedAt      *time.Time `json:"rotated_at,omitempty"`
	ExpiresAt      *time.Time `json:"expires_at,omitempty"`
	LastUsedAt     *time.Time `json:"last_used_at,omitempty" doc:"To about half a minute"`
	RevokedAt      *time.Time `json:"revoked_at,omitempty"`
}

// CreateKey makes an API key.
type CreateKey struct {
	Name      string     `json:"name" minLength:"1" maxLength:"63" example:"ci"`
	Scopes    []string   `json:"scopes,omitempty" maxItems:"4" enum:"read,run,manage,admin" doc:"No wider than the caller's; default: run"`
	ExpiresAt *time.Time `json:"expires_at,omitempty" doc:"No later than the caller's key; default: as that one, or never"`
	TTLMS     int64      `json:"ttl_ms,omitempty" minimum:"1" maximum:"315360000000" doc:"Instead of expires_at: from now"`
	Format    string     `json:"format,omitempty" enum:"aetherium,e2b" doc:"e2b: as E2B's clients want keys to look"`
	User      string     `json:"user,omitempty" maxLength:"254" doc:"ID or name of the user whose it shall be, for administrators; default: the caller"`
}

// NewKey is a key together with its text.
type NewKey struct {
	Key
	Secret string `json:"secret" doc:"The key itself, told this once"`
}

// RotateKey gives a key another secret.
type RotateKey struct {
	OverlapMS int64 `json:"overlap_ms,omitempty" minimum:"0" maximum:"604800000" doc:"How long the old secret counts still; 0: it ends at once"`
}

// Project owns VMs, templates, snapshots, tasks, secrets and keys.
type Project struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	CreatedAt time.Time `json:"created_at"`
}

// CreateProject makes a project.
type CreateProject struct {
	Name string `json:"name" minLength:"1" maxLength:"63"`
}

// PatchProject changes a project.
type PatchProject struct {
	Name string `json:"name" minLength:"1" maxLength:"63"`
}

// User is a person, or a program that stands for itself, across projects.
type User struct {
	ID         string     `json:"id"`
	Name       string     `json:"name" doc:"A name or an email address, in lower case"`
	Issuer     string     `json:"issuer,omitempty" doc:"Identity provider"`
	Subject    string     `json:"subject,omitempty" doc:"Who the user is there"`
	Admin      bool       `json:"admin" doc:"May do everything, in every project"`
	AdminBy    string     `json:"admin_by,omitempty" doc:"The identity provider that says so"`
	DisabledAt *time.Time `json:"disabled_at,omitempty"`
	CreatedAt  time.Time  `json:"created_at"`
	UpdatedAt  time.Time  `json:"updated_at"`
}

// CreateUser makes a user.
type CreateUser struct {
	Name    string `json:"name" minLength:"1" maxLength:"254" example:"alice@example.com"`
	Issuer  string `json:"issuer,omitempty" maxLength:"255" doc:"With subject: who the user is to an identity provider"`
	Subject string `json:"subject,omitempty" maxLength:"255"`
	Admin   bool   `json:"admin,omitempty"`
}

// PatchUser changes a user. Absent fields stay as they are.
type PatchUser struct {
	Name     *string `json:"name,omitempty" minLength:"1" maxLength:"254"`
	Issuer   *string `json:"issuer,omitempty" maxLength:"255" doc:"With subject; both empty: no identity provider's"`
	Subject  *string `json:"subject,omitempty" maxLength:"255"`
	Admin    *bool   `json:"admin,omitempty"`
	Disabled *bool   `json:"disabled,omitempty" doc:"Ends at once what the user, the user's keys and tokens may do"`
}

// Member is a user in a project.
type Member struct {
	UserID    string    `json:"user_id"`
	Name      string    `json:"name"`
	Role      string    `json:"role" enum:"viewer,developer,maintainer"`
	Source    string    `json:"source,omitempty" doc:"The identity provider that says so; empty: somebody gave it"`
	Disabled  bool      `json:"disabled,omitempty"`
	CreatedAt time.Time `json:"created_at"`
}

// SetMember gives a user a role.
type SetMember struct {
	Role string `json:"role" enum:"viewer,developer,maintainer" doc:"viewer reads, developer runs, maintainer manages"`
}

// Me is who asks.
type Me struct {
	ProjectID string     `json:"project_id"`
	Project   string     `json:"project"`
	Name      string     `json:"name" doc:"Of the key or user"`
	KeyID     string     `json:"key_id,omitempty"`
	UserID    string     `json:"user_id,omitempty"`
	TokenID   string     `json:"token_id,omitempty"`
	Scopes    []string   `json:"scopes" nullable:"false"`
	ExpiresAt *time.Time `json:"expires_at,omitempty" doc:"When the credentials end by themselves"`
}

// CreateToken asks for an access token.
type CreateToken struct {
	Scopes []string `json:"scopes,omitempty" maxItems:"4" enum:"read,run,manage,admin" doc:"No wider than the caller's; default: those"`
	TTLMS  int64    `json:"ttl_ms,omitempty" minimum:"1000" maximum:"3600000" doc:"Default: 15 minutes"`
}

// Token is a short-lived access token for one project.
type Token struct {
	Token     string    `json:"token" doc:"For Authorization: Bearer"`
	ID        string    `json:"id"`
	ProjectID string    `json:"project_id"`
	Scopes    []string  `json:"scopes" nullable:"false"`
	ExpiresAt time.Time `json:"expires_at"`
}

// RotateTokenKey makes another key sign access tokens.
type RotateTokenKey struct {
	Forget bool `json:"forget,omitempty" doc:"Every token that was signed so far ends at once; else they end in their time"`
}
