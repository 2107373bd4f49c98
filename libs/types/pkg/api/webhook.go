package api

import (
	"encoding/json"
	"time"
)

// The headers of what webhooks are told, as Standard Webhooks names them.
const (
	HeaderWebhookID        = "webhook-id"        // the same at every attempt
	HeaderWebhookTimestamp = "webhook-timestamp" // of the attempt, in seconds
	HeaderWebhookSignature = "webhook-signature"
)

// CreateWebhook has events told to a URL.
type CreateWebhook struct {
	URL   string   `json:"url" minLength:"1" maxLength:"2048" example:"https://example.com/hooks/aetherium" doc:"https, at a public address, unless the operator allows others"`
	Types []string `json:"types,omitempty" maxItems:"64" maxLength:"64" example:"[\"task.succeeded\",\"task.failed\"]" doc:"Of events; absent or empty: all of the project's"`
}

// Webhook is where a project has its events told.
type Webhook struct {
	ID             string     `json:"id"`
	URL            string     `json:"url"`
	Types          []string   `json:"types" nullable:"false" doc:"Of events; empty: all of the project's"`
	State          string     `json:"state" enum:"active,failing,disabled" doc:"failing: its last attempt failed; disabled: it is told nothing"`
	FailingSince   *time.Time `json:"failing_since,omitempty" doc:"All attempts since then have failed"`
	DisabledAt     *time.Time `json:"disabled_at,omitempty"`
	DisabledReason string     `json:"disabled_reason,omitempty" enum:"gone,failing,asked" doc:"gone: the receiver answered 410; failing: for too long; asked: by you"`
	CreatedAt      time.Time  `json:"created_at"`
}

// NewWebhook is a webhook together with its secret.
type NewWebhook struct {
	Webhook
	Secret string `json:"secret" example:"whsec_…" doc:"Its messages are signed with it. It is told this once"`
}

// RotateWebhookSecret makes a webhook another secret.
type RotateWebhookSecret struct {
	OverlapMS *int64 `json:"overlap_ms,omitempty" minimum:"0" maximum:"604800000" example:"86400000" doc:"For so long messages are signed with the secret before as well; a day unless said otherwise, a week at most. 0: it counts no longer"`
}

// WebhookDelivery is one event on its way to a webhook.
type WebhookDelivery struct {
	ID            string     `json:"id" doc:"The header webhook-id, the same at every attempt"`
	Seq           int64      `json:"seq" doc:"Of the event"`
	Type          string     `json:"type" example:"task.succeeded"`
	State         string     `json:"state" enum:"pending,delivered,failed"`
	Attempts      int        `json:"attempts" doc:"Begun so far"`
	NextAttemptAt *time.Time `json:"next_attempt_at,omitempty" doc:"Of one that is pending"`
	AttemptedAt   *time.Time `json:"attempted_at,omitempty" doc:"Last"`
	Status        int        `json:"status,omitempty" doc:"Of the last answer"`
	Error         string     `json:"error,omitempty" example:"timeout" doc:"What went wrong at last: status, redirect, gone, timeout, unknown_host, address_not_allowed, tls_failed, connection_failed, interrupted, secret_unavailable, webhook_disabled"`
	CreatedAt     time.Time  `json:"created_at"`
}

// WebhookMessage is the body of what a webhook is told.
type WebhookMessage struct {
	Type      string          `json:"type"`
	Timestamp time.Time       `json:"timestamp"`
	Seq       int64           `json:"seq"`
	Subject   string          `json:"subject"`
	VMID      string          `json:"vm_id,omitempty"`
	Data      json.RawMessage `json:"data,omitempty"`
}
