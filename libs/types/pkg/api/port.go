package api

import "time"

// Port tells how a TCP port in a VM is reached from outside.
type Port struct {
	Port  int    `json:"port"`
	URL   string `json:"url" doc:"Preview URL; shows itself to bearers of the token in X-Aetherium-Token, or after a one-time link"`
	Token string `json:"token" doc:"The VM's preview token"`
}

// CreateLink asks for a one-time link to a preview. The body may be left out.
type CreateLink struct {
	TTLMS int64 `json:"ttl_ms,omitempty" minimum:"1000" maximum:"86400000" doc:"How long it may wait to be used; absent: five minutes"`
}

// Link is a one-time link: the first browser that opens it gets a cookie for
// that preview.
type Link struct {
	URL       string    `json:"url"`
	ExpiresAt time.Time `json:"expires_at"`
}
