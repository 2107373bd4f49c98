package domain

import (
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Webhook is where a project has its events told.
type Webhook struct {
	ID        ID
	ProjectID ID
	URL       string
	Types     []string // of events; empty: all of a project's
	// SecretSealed is, envelope-encrypted, what messages are signed with.
	SecretSealed []byte
	// AfterSeq is the newest event that was looked at for it.
	AfterSeq int64
	// FailingSince is when the first of those attempts was that have all failed.
	FailingSince   *time.Time
	DisabledAt     *time.Time // it is told nothing since
	DisabledReason DisabledReason
	CreatedAt      time.Time
}

// Wants reports whether events of a type are told.
func (w *Webhook) Wants(kind string) bool { return len(w.Types) == 0 || slices.Contains(w.Types, kind) }

// DisabledReason is why a webhook is told nothing any more.
type DisabledReason string

// The reasons.
const (
	DisabledGone    DisabledReason = "gone"    // the receiver said so (410)
	DisabledFailing DisabledReason = "failing" // for too long
	DisabledAsked   DisabledReason = "asked"   // by who manages the project
)

// DeliveryState is how far a delivery is.
type DeliveryState string

// The states.
const (
	DeliveryPending   DeliveryState = "pending"
	DeliveryDelivered DeliveryState = "delivered"
	DeliveryFailed    DeliveryState = "failed" // it is not attempted again
)

// Why deliveries were given up with their webhook. When it is enabled they go on.
const (
	DeliveryDisabled = "webhook_disabled"
	DeliveryGone     = "gone" // it was the one that 410 came for
)

// Delivery is one event on its way to one webhook. Its ID is the message's: the
// same at every attempt.
type Delivery struct {
	ID          ID
	ProjectID   ID
	WebhookID   ID
	Seq         int64  // of the event
	Type        string // of the event
	Body        string
	State       DeliveryState
	Attempts    int        // begun so far
	NextAt      time.Time  // when it is attempted, of one that is pending
	AttemptedAt *time.Time // last
	Status      int        // of the last answer; 0: there was none
	Error       string     // code of what went wrong at last
	CreatedAt   time.Time
}

const (
	// MaxWebhooks bounds the webhooks of a project.
	MaxWebhooks = 20
	// MaxSecretOverlap bounds for how long a secret goes on after a new one was made.
	MaxSecretOverlap = 7 * 24 * time.Hour
	// MaxWebhookURL bounds a webhook's URL, in bytes.
	MaxWebhookURL = 2048
)

// ValidateWebhookURL checks where a webhook's events shall be told: an absolute
// URL of https, or of http, without credentials and fragment. Returns
// InvalidArgument.
func ValidateWebhookURL(field, text string) error {
	if len(text) > MaxWebhookURL {
		return invalid(field, "the URL has %d bytes, at most %d are allowed", len(text), MaxWebhookURL)
	}
	if strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return invalid(field, "the URL holds blanks, or characters that are not ASCII").WithHint("encode them")
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Opaque != "" || u.Hostname() == "":
		return invalid(field, "it is not an absolute URL").WithHint("such as https://example.com/hooks/aetherium")
	case u.Scheme != "https" && u.Scheme != "http":
		return invalid(field, "the URL's scheme is not https")
	case u.User != nil:
		return invalid(field, "the URL holds credentials").WithHint("messages are signed: the receiver need not know who sends by anything else")
	case u.Fragment != "" || strings.HasSuffix(text, "#"):
		return invalid(field, "the URL has a fragment, which no server would see")
	}
	if ip, err := netip.ParseAddr(u.Hostname()); err == nil && ip.Zone() != "" {
		return invalid(field, "the URL's address has a zone")
	}
	return nil
}
