package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/gateway/pkg/auth"
	"github.com/aetherium/aetherium/services/gateway/pkg/ws"
)

const (
	maxKeyBytes = 255
	// maxStoredBytes bounds a kept answer. A larger one is not kept: what such
	// requests start is found again by its own ID.
	maxStoredBytes = 1 << 20
	// IdempotencyTTL is how long an IdempotencyStore keeps an answer at least.
	IdempotencyTTL = 24 * time.Hour
	// detachedTimeout bounds work that goes on after its client went away.
	detachedTimeout = 15 * time.Minute
)

// StoredResponse is an answer as it is kept for a repeated request.
type StoredResponse struct {
	Status int         `json:"status"`
	Header http.Header `json:"header"` // Content-Type, Location and the like
	Body   []byte      `json:"body"`
}

// IdempotencyStore remembers the answers to requests with an Idempotency-Key,
// per project, for IdempotencyTTL.
type IdempotencyStore interface {
	// Begin claims a key for a request with a digest. It gives the stored
	// answer where the request was answered before, or inFlight where it is
	// being answered now; with neither, the caller answers and then calls
	// Finish. Returns IdempotencyMismatch when the key was used for another
	// digest. A claim that was never finished (a crash) is given up after a while.
	Begin(ctx context.Context, project domain.ID, key, digest string) (stored *StoredResponse, inFlight bool, err error)
	// Finish stores the answer; nil gives the claim up, so that a repeated
	// request runs again.
	Finish(ctx context.Context, project domain.ID, key, digest string, response *StoredResponse) error
}

// idempotent answers a request once per key. Where the handler recognises
// repeats itself, only an answer to respond-async, which makes a task, is kept.
func (a *API) idempotent(w http.ResponseWriter, r *http.Request, body []byte, recognised bool, run func(http.ResponseWriter, *http.Request)) {
	key := r.Header.Get(wire.HeaderIdempotencyKey)
	if key == "" {
		run(w, r)
		return
	}
	if err := checkKey(r); err != nil {
		writeProblem(w, err)
		return
	}
	// A streamed answer is not kept: its execution is found again by the ID
	// that is derived from the key.
	if recognised && !respondAsync(r.Header) || ws.WantsSSE(r) {
		run(w, r)
		return
	}
	project, digest := auth.CallerFrom(r.Context()).ProjectID, requestDigest(r, body)
	stored, inFlight, err := a.Idempotency.Begin(r.Context(), project, key, digest)
	switch {
	case err != nil:
		writeProblem(w, err)
		return
	case inFlight:
		writeProblem(w, errors.New(errors.Conflict, "a request with this Idempotency-Key is being answered").WithRetryAfter(time.Second))
		return
	case stored != nil:
		replay(w, stored)
		return
	}
	// The client may go away; the answer is then still there when it asks again.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), detachedTimeout)
	defer cancel()
	rec := &answer{ResponseWriter: w}
	defer func() { // also when the handler panics: the claim must not stay
		if err := a.Idempotency.Finish(ctx, project, key, digest, rec.keep()); err != nil {
			a.Logger.WarnContext(ctx, "an idempotent answer was not stored", "error", err)
		}
	}()
	run(rec, r.WithContext(ctx))
}

func checkKey(r *http.Request) error {
	keys := r.Header.Values(wire.HeaderIdempotencyKey)
	bad := len(keys) != 1 || len(keys[0]) > maxKeyBytes
	for i := 0; !bad && i < len(keys[0]); i++ {
		bad = keys[0][i] < 0x21 || keys[0][i] > 0x7e
	}
	if bad {
		return errors.New(errors.InvalidArgument, "the Idempotency-Key is not one of 1 to %d printable ASCII characters", maxKeyBytes).
			WithField("header." + wire.HeaderIdempotencyKey)
	}
	return nil
}

// requestDigest tells requests apart that must not share a key.
func requestDigest(r *http.Request, body []byte) string {
	h := sha256.New()
	fmt.Fprintf(h, "%s\n%s\n%s\n%t\n", r.Method, r.URL.EscapedPath(), r.URL.Query().Encode(), respondAsync(r.Header))
	h.Write(body)
	return hex.EncodeToString(h.Sum(nil))
}

func replay(w http.ResponseWriter, s *StoredResponse) {
	for k, v := range s.Header {
		w.Header()[k] = v
	}
	w.Header().Set(wire.HeaderReplayed, "true")
	w.WriteHeader(s.Status)
	_, _ = w.Write(s.Body)
}

// answer passes an answer on and keeps a copy.
type answer struct {
	http.ResponseWriter
	status   int
	body     bytes.Buffer
	tooLarge bool
}

// Unwrap lets others find the writer below.
func (w *answer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *answer) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *answer) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	if w.tooLarge = w.tooLarge || w.body.Len()+len(p) > maxStoredBytes; !w.tooLarge {
		w.body.Write(p)
	}
	// That the client is gone must not end the work: the answer is kept for it.
	_, _ = w.ResponseWriter.Write(p)
	return len(p), nil
}

// keep gives what to store: nothing of answers that a repetition may improve on.
func (w *answer) keep() *StoredResponse {
	retry := w.status == 0 || w.status >= 500 || w.status == http.StatusConflict || w.status == http.StatusTooManyRequests || w.status == 499
	if retry || w.tooLarge {
		return nil
	}
	header := http.Header{}
	for _, name := range []string{"Content-Type", "Location", "Cache-Control", "Preference-Applied"} {
		if v := w.Header().Values(name); len(v) > 0 {
			header[name] = v
		}
	}
	return &StoredResponse{Status: w.status, Header: header, Body: bytes.Clone(w.body.Bytes())}
}
