package api

import "time"

// Secret is a stored secret. Its value is written and given to VMs, but never
// read back.
type Secret struct {
	Name      string    `json:"name" example:"GITHUB_TOKEN"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at" doc:"When the value was last set"`
}

// SetSecret stores a secret's value.
type SetSecret struct {
	Value string `json:"value" minLength:"1" maxLength:"65536" doc:"At most 65536 bytes, no NUL"`
}
