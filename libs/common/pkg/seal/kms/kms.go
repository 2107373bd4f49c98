package kms

import (
	"bytes"
	"context"
	"crypto/subtle"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/seal"
)

// Bounds of the protocol.
const (
	keyBytes       = 32
	maxKeyID       = 128
	maxWrapped     = 1024
	maxAnswer      = 16 << 10
	attempts       = 3
	firstPause     = 100 * time.Millisecond
	defaultTimeout = 5 * time.Second
	parallel       = 8 // questions at once
)

// prefix marks the IDs of keys in records as the service's, whatever it calls them.
const prefix = "kms:"

// Config says where the service is: URL or Command.
type Config struct {
	// URL is unix:///path/of/socket, https://host/path, or http:// with a
	// loopback address.
	URL string
	// TokenFile holds what is sent as bearer token, read for every question.
	TokenFile string
	// CAFile holds the certificates (PEM) that a server's must be signed by;
	// empty: the host's.
	CAFile string

	// Command is a program and its arguments.
	Command []string
	// Env is the program's environment.
	Env []string

	// Timeout bounds an attempt; 0: 5 s.
	Timeout time.Duration
}

// Ring is a keyring behind a service. It is safe for concurrent use.
type Ring struct {
	ask     asker
	timeout time.Duration
	slots   chan struct{}
}

var _ seal.Source = (*Ring)(nil)

type question struct {
	KeyID   string `json:"key_id,omitempty"`
	Wrapped []byte `json:"wrapped,omitempty"`
	DataKey []byte `json:"data_key,omitempty"`
}

type answer = question

// asker brings one question to the service, once. Errors are outcomes.
type asker interface {
	ask(ctx context.Context, what string, q question) (answer, error)
}

// outcome is why there is no answer.
type outcome struct {
	unknown   bool // the key or what it wrapped; for good
	temporary bool
	err       error
}

func (o *outcome) Error() string { return o.err.Error() }

func (o *outcome) Unwrap() error { return o.err }

// Open makes the keyring; the service is not asked yet.
// Returns InvalidArgument with the field.
func Open(c Config) (*Ring, error) {
	r := &Ring{timeout: c.Timeout, slots: make(chan struct{}, parallel)}
	if r.timeout <= 0 {
		r.timeout = defaultTimeout
	}
	var err error
	switch {
	case c.URL != "" && len(c.Command) > 0:
		err = errors.New(errors.InvalidArgument, "a key management service is a URL or a command, not both").WithField("url")
	case c.URL != "":
		r.ask, err = newHTTP(c)
	case len(c.Command) > 0:
		r.ask, err = newCommand(c)
	default:
		err = errors.New(errors.InvalidArgument, "a key management service needs a URL or a command").WithField("url")
	}
	if err != nil {
		return nil, err
	}
	return r, nil
}

// Owns implements seal.Source.
func (r *Ring) Owns(keyID string) bool { return strings.HasPrefix(keyID, prefix) }

// Wrap implements seal.Keyring.
func (r *Ring) Wrap(ctx context.Context, dataKey []byte) (string, []byte, error) {
	a, err := r.question(ctx, "wrap", question{DataKey: dataKey})
	if err != nil {
		return "", nil, err
	}
	if !isKeyID(a.KeyID) || len(a.Wrapped) == 0 || len(a.Wrapped) > maxWrapped {
		return "", nil, odd("its answer to wrap is out of bounds")
	}
	if bytes.Contains(a.Wrapped, dataKey) {
		return "", nil, odd("it gives the key back in clear")
	}
	again, err := r.Unwrap(ctx, prefix+a.KeyID, a.Wrapped)
	switch {
	case errors.HasCode(err, errors.Internal):
		return "", nil, errors.Join(odd("it does not know the key that it wrapped"), err)
	case err != nil:
		return "", nil, err
	case subtle.ConstantTimeCompare(again, dataKey) != 1:
		return "", nil, odd("it unwraps to another key than it wrapped")
	}
	return prefix + a.KeyID, a.Wrapped, nil
}

// Unwrap implements seal.Keyring.
func (r *Ring) Unwrap(ctx context.Context, keyID string, wrapped []byte) ([]byte, error) {
	id, ours := strings.CutPrefix(keyID, prefix)
	if !ours || !isKeyID(id) {
		return nil, errors.New(errors.Internal, "the key %q is not the key management service's", keyID)
	}
	a, err := r.question(ctx, "unwrap", question{KeyID: id, Wrapped: wrapped})
	if err != nil {
		return nil, err
	}
	if len(a.DataKey) != keyBytes {
		return nil, odd("its answer to unwrap is out of bounds")
	}
	return a.DataKey, nil
}

// question asks until there is an answer, or none is to be had.
func (r *Ring) question(ctx context.Context, what string, q question) (answer, error) {
	select {
	case r.slots <- struct{}{}:
		defer func() { <-r.slots }()
	case <-ctx.Done():
		return answer{}, errors.Public(ctx.Err())
	}
	pause := firstPause
	for n := 1; ; n++ {
		a, err := r.once(ctx, what, q)
		if err == nil {
			return a, nil
		}
		if ctx.Err() != nil {
			return answer{}, errors.Public(ctx.Err())
		}
		var o *outcome
		switch {
		case errors.As(err, &o) && o.unknown:
			return answer{}, errors.Wrap(err, errors.Internal, "the key management service does not know a record's key").
				WithHint("give the installation the service it was made with")
		case !errors.As(err, &o) || !o.temporary || n == attempts:
			return answer{}, errors.Wrap(err, errors.Unavailable, "the key management service does not answer").
				WithHint("try again; the server's log says what is wrong").WithRetryAfter(time.Second)
		}
		select {
		case <-time.After(pause + rand.N(pause)):
			pause *= 4
		case <-ctx.Done():
			return answer{}, errors.Public(ctx.Err())
		}
	}
}

func (r *Ring) once(ctx context.Context, what string, q question) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	return r.ask.ask(ctx, what, q)
}

func isKeyID(s string) bool {
	if s == "" || len(s) > maxKeyID {
		return false
	}
	return strings.IndexFunc(s, func(c rune) bool { return c <= ' ' || c > '~' }) < 0
}

// odd is a service that breaks the protocol. Nothing is sealed by it.
func odd(what string) error {
	return errors.New(errors.Unavailable, "the key management service cannot be trusted: %s", what)
}
