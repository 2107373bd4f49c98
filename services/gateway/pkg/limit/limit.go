package limit

import (
	"cmp"
	"context"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/gateway/pkg/auth"
	"github.com/aetherium/aetherium/services/gateway/pkg/middleware"
	"github.com/aetherium/aetherium/services/gateway/pkg/problem"
)

// Config is the limits. Zero rates are without bound.
type Config struct {
	Key      Rate // of a key, or of a user's keys and tokens together
	Address  Rate // of everything that comes from an address
	Failures Rate // of credentials from an address that are not valid
	// Streams bounds those that a key or user has open at a time; 0: without bound.
	Streams int
}

// Validate checks the limits' form. Returns InvalidArgument.
func (c Config) Validate(field string) error {
	if c.Streams < 0 {
		return errors.New(errors.InvalidArgument, "%d streams are out of range", c.Streams).WithField(field + ".streams")
	}
	return errors.Join(c.Key.Validate(field+".key"), c.Address.Validate(field+".address"), c.Failures.Validate(field+".failures"))
}

// Limits is what the requests of a server are measured by.
type Limits struct {
	config    Config
	callers   *buckets[who]
	addresses *buckets[netip.Prefix]
	failures  *buckets[netip.Prefix]
	streams   streams
	now       func() time.Time
}

// New makes limits. now is the clock; nil is time.Now.
func New(c Config, now func() time.Time) *Limits {
	if now == nil {
		now = time.Now
	}
	return &Limits{
		config: c, now: now, callers: newBuckets[who](c.Key), addresses: newBuckets[netip.Prefix](c.Address),
		failures: newBuckets[netip.Prefix](c.Failures), streams: streams{open: map[who]int{}},
	}
}

// who is a caller as limits tell them apart: by user, so that many keys are no
// way around them.
type who struct {
	kind byte
	id   domain.ID
}

func whoIs(by vmm.Caller) who {
	switch {
	case by.UserID != "":
		return who{'u', by.UserID}
	case by.KeyID != "":
		return who{'k', by.KeyID}
	}
	return who{'p', by.ProjectID}
}

// The headers in the form that net/http keeps them in.
const (
	headerLimit     = "Ratelimit-Limit"
	headerRemaining = "Ratelimit-Remaining"
	headerReset     = "Ratelimit-Reset"
)

// Callers lets a caller's requests through while there are tokens, and says how
// many are left. It stands behind authentication.
func (l *Limits) Callers(next http.Handler) http.Handler {
	if !l.config.Key.limits() {
		return next
	}
	burst := []string{strconv.Itoa(l.config.Key.Burst)}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := l.callers.take(whoIs(auth.CallerFrom(r.Context())), l.now())
		h := w.Header()
		h[headerLimit] = burst
		h[headerRemaining] = []string{strconv.Itoa(int(s.tokens))}
		h[headerReset] = []string{strconv.FormatInt(s.reset(), 10)}
		if !s.ok {
			problem.Write(w, tooFast(s, "the key or its user"))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// Take takes a token for something that is no request of its own, such as a
// message on a stream. Returns RateLimited.
func (l *Limits) Take(by vmm.Caller) error {
	if !l.config.Key.limits() {
		return nil
	}
	if s := l.callers.take(whoIs(by), l.now()); !s.ok {
		return tooFast(s, "the key or its user")
	}
	return nil
}

// Addresses lets an address's requests through while there are tokens.
func (l *Limits) Addresses(next http.Handler) http.Handler {
	if !l.config.Address.limits() {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		client := middleware.ClientOf(r.Context())
		if !client.IsLoopback() {
			if s := l.addresses.take(network(client), l.now()); !s.ok {
				problem.Write(w, tooFast(s, "this address"))
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

func tooFast(s state, who string) error {
	return errors.New(errors.RateLimited, "%s makes too many requests: more than %v in a second, and %d at once", who, s.rate.PerSecond, s.rate.Burst).
		WithRetryAfter(s.wait()).WithHint("wait as long as Retry-After says")
}

// network is what an address counts as: itself, or the 64 bits that whoever
// has one of its network has all of.
func network(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := a.BitLen()
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits) // no address is the zero prefix: those share a bucket
	return p
}

// Refused says what to answer to credentials that were refused with an error:
// RateLimited in the place of Unauthenticated to an address that has shown too
// many that are not valid, and to a caller who is known and asks too much.
func (l *Limits) Refused(ctx context.Context, by vmm.Caller, err error) error {
	if whoIs(by).id != "" {
		return cmp.Or(l.Take(by), err)
	}
	client := middleware.ClientOf(ctx)
	if !l.config.Failures.limits() || !errors.HasCode(err, errors.Unauthenticated) || !client.IsValid() {
		return err
	}
	if s := l.failures.take(network(client), l.now()); !s.ok {
		return errors.New(errors.RateLimited, "too many keys or tokens from this address are not valid").
			WithRetryAfter(s.wait()).WithHint("this one is not, either; valid ones are let through all the time")
	}
	return err
}
