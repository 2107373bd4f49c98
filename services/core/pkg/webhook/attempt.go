package webhook

import (
	"context"
	"crypto/tls"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/retryafter"
	"github.com/aetherium/aetherium/libs/common/pkg/version"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

// What goes wrong with attempts. Receivers' answers and errors of networks are
// told as no more than that: whoever chooses a URL learns little of what is there.
const (
	codeStatus      = "status"
	codeRedirect    = "redirect"
	codeGone        = domain.DeliveryGone
	codeTimeout     = "timeout"
	codeUnknownHost = "unknown_host"
	codeNotAllowed  = "address_not_allowed"
	codeTLS         = "tls_failed"
	codeConnection  = "connection_failed"
	codeInterrupted = "interrupted" // the server stopped
	codeUnsigned    = "secret_unavailable"
)

const (
	maxAnswerBytes = 16 << 10 // are read, so that a connection can be used again
	maxRetryAfter  = 24 * time.Hour
	// soon is up to when a process looks by itself at what it attempts again.
	soon = time.Minute
)

// answer is what came of an attempt.
type answer struct {
	status int
	code   string        // empty: delivered
	wait   time.Duration // as the receiver wishes
}

// receivers reports whether it was the receiver that failed.
func (a answer) receivers() bool {
	return a.code != "" && a.code != codeInterrupted && a.code != codeUnsigned
}

// attempt tells a webhook an event once, and notes what came of it.
func (d *Deliverer) attempt(w *domain.Webhook, one *domain.Delivery) {
	begun := time.Now()
	got := d.send(d.attempts, w, one)
	d.metrics.attempted(got.code, time.Since(begun))
	next := d.next(one, got)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(d.attempts), writeLimit)
	defer cancel()
	disabled := domain.DisabledReason("")
	err := d.store.Update(ctx, func(tx storage.Tx) error {
		disabled = ""
		hooks := tx.Webhooks()
		if ours, err := hooks.Attempted(ctx, one, next); err != nil || !ours {
			return err
		}
		if got.code == "" {
			return hooks.Succeeded(ctx, w.ID)
		}
		if !got.receivers() {
			return nil
		}
		since, err := hooks.Failed(ctx, w.ID)
		if err != nil {
			return err
		}
		switch {
		case got.code == codeGone:
			disabled = domain.DisabledGone
		case since >= d.config.DisableAfter:
			disabled = domain.DisabledFailing
		default:
			return nil
		}
		was, err := hooks.Disable(ctx, w.ID, disabled)
		if !was {
			disabled = ""
		}
		return err
	})
	if err != nil {
		d.log.Error("what came of an attempt is not noted; it is attempted again", "webhook", w.ID, "delivery", one.ID, "error", err)
		return
	}
	if disabled != "" {
		d.metrics.disabled.WithLabelValues(string(disabled)).Inc()
		d.log.Warn("a webhook is told nothing more", "webhook", w.ID, "project", w.ProjectID, "reason", disabled)
	} else if next.State == domain.DeliveryPending && next.Next <= soon {
		time.AfterFunc(next.Next, func() { d.wake(w.ID) })
	}
}

// next is how a delivery goes on after an attempt.
func (d *Deliverer) next(one *domain.Delivery, got answer) storage.WebhookAttempt {
	a := storage.WebhookAttempt{State: domain.DeliveryPending, Status: got.status, Error: got.code}
	switch {
	case got.code == "":
		a.State = domain.DeliveryDelivered
	case got.code == codeInterrupted: // whoever is there looks again at once
	case got.code == codeGone || one.Attempts > len(d.config.Schedule):
		a.State = domain.DeliveryFailed
	default:
		a.Next = later(max(d.config.Schedule[one.Attempts-1], got.wait))
	}
	return a
}

// later adds up to a fifth, so that what failed together is not tried again together.
func later(d time.Duration) time.Duration {
	return d + time.Duration(rand.Int64N(int64(d)/5+1)) //nolint:gosec // no secret
}

func (d *Deliverer) send(ctx context.Context, w *domain.Webhook, one *domain.Delivery) answer {
	ctx, cancel := context.WithTimeout(ctx, d.config.Timeout)
	defer cancel()
	with, err := openSecrets(ctx, d.sealer, w)
	if err != nil {
		d.log.Warn("a webhook's secret cannot be opened", "webhook", w.ID, "error", err)
		return answer{code: codeUnsigned}
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, w.URL, strings.NewReader(one.Body))
	if err != nil {
		return answer{code: codeConnection}
	}
	at := time.Now()
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "Aetherium/"+version.Version)
	r.Header.Set(api.HeaderWebhookID, one.ID.String())
	r.Header.Set(api.HeaderWebhookTimestamp, strconv.FormatInt(at.Unix(), 10))
	r.Header.Set(api.HeaderWebhookSignature, with.sign(one.ID.String(), at, one.Body))
	through := d.plain
	if r.URL.Scheme == "https" {
		through = d.secure
	}
	resp, err := through.RoundTrip(r) // follows no redirect
	if err != nil {
		return answer{code: d.failure(err)}
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxAnswerBytes))
	_ = resp.Body.Close()
	got := answer{status: resp.StatusCode}
	switch s := resp.StatusCode; {
	case s >= 200 && s < 300:
	case s >= 300 && s < 400:
		got.code = codeRedirect
	case s == http.StatusGone:
		got.code = codeGone
	default:
		got.code = codeStatus
		if s == http.StatusTooManyRequests || s == http.StatusServiceUnavailable {
			got.wait = retryafter.Read(resp.Header, time.Now(), maxRetryAfter)
		}
	}
	return got
}

// failure gives a code to what went wrong before there was an answer.
func (d *Deliverer) failure(err error) string {
	var (
		unknown     *net.DNSError
		certificate *tls.CertificateVerificationError
		record      tls.RecordHeaderError
		timeout     interface{ Timeout() bool }
	)
	switch {
	case d.attempts.Err() != nil:
		return codeInterrupted
	case errors.Is(err, notAllowed):
		return codeNotAllowed
	case errors.As(err, &certificate), errors.As(err, &record):
		return codeTLS
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return codeTimeout
	case errors.As(err, &unknown):
		return codeUnknownHost
	}
	return codeConnection
}
