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
	maxStoredBytes = 256 << 10
	// IdempotencyTTL is how long an IdempotencyStore keeps an answer at least.
	IdempotencyTTL = 24 * time.Hour
	// detachedTimeout bounds work that goes on after its client went away.
	detachedTimeout = 15 * time.Minute
	// finishTimeout bounds storing an answer.
	finishTimeout = 10 * time.Second
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
	// Begin claims a key for a request with a digest. It gives the stored answer
	// where the request was answered before; neither that nor a claim where it is
	// being answered now. Returns IdempotencyMismatch when the key was used for
	// another digest. A claim ends with the process that made it, or soon after.
	Begin(ctx context.Context, project domain.ID, key, digest string) (*StoredResponse, Claim, error)
}

// Claim is a key whose request is being answered.
type Claim interface {
	// Finish stores the answer; nil gives the claim up, so that a repeated request
	// runs again.
	Finish(ctx context.Context, response *StoredResponse) error
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
	stored, claim, err := a.Idempotency.Begin(r.Context(), project, key, digest)
	switch {
	case err != nil:
		writeProblem(w, err)
		return
	case stored != nil:
		replay(w, stored)
		return
	case claim == nil:
		writeProblem(w, errors.New(errors.Conflict, "a request with this Idempotency-Key is being answered").WithRetryAfter(time.Second))
		return
	}
	// The client may go away; the answer is then still there when it asks again.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), detachedTimeout)
	defer cancel()
	rec := &answer{ResponseWriter: w}
	defer func() { // also when the handler panics: the claim must not stay
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishTimeout)
		defer cancel()
		if err := claim.Finish(ctx, rec.keep()); err != nil {
			a.Logger.WarnContext(ctx, "an idempotent answer was not stored", "error", err)
		}
		rec.pass() // once it is stored: who has the answer may ask again at once
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

// answer holds an answer back until it is stored, unless it is too large for that.
type answer struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
	passed bool
}

// Unwrap lets others find the writer below.
func (w *answer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *answer) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
}

func (w *answer) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	if w.body.Len()+len(p) > maxStoredBytes {
		w.pass()
	}
	if !w.passed {
		return w.body.Write(p)
	}
	// That the client is gone must not end the work: the answer is kept for it.
	_, _ = w.ResponseWriter.Write(p)
	return len(p), nil
}

// pass gives the client what was held back.
func (w *answer) pass() {
	if w.passed || w.status == 0 {
		return
	}
	w.passed = true
	w.ResponseWriter.WriteHeader(w.status)
	_, _ = w.ResponseWriter.Write(w.body.Bytes())
}

// keep gives what to store: nothing of answers that a repetition may improve on.
func (w *answer) keep() *StoredResponse {
	retry := w.status == 0 || w.status >= 500 || w.status == http.StatusConflict || w.status == http.StatusTooManyRequests || w.status == 499
	if retry || w.passed {
		return nil
	}
	header := http.Header{}
	for _, name := range []string{"Content-Type", "Location", "Cache-Control", "Preference-Applied"} {
		if v := w.Header().Values(name); len(v) > 0 {
			header[name] = v
		}
	}
	return &StoredResponse{Status: w.status, Header: header, Body: w.body.Bytes()}
}
