package oidc

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

const (
	fetchTimeout = 10 * time.Second
	maxDocument  = 1 << 20
	maxKeys      = 100
	// keepKeys is how long keys count without being looked at again: a key that
	// the provider has withdrawn counts no longer.
	keepKeys = time.Hour
	// retryAfter is how often keys are asked for at most, whoever asks.
	retryAfter = 10 * time.Second
)

// keys are a provider's public keys.
type keys struct {
	issuer     string
	algorithms []jose.SignatureAlgorithm
	client     *http.Client
	now        func() time.Time

	asking  chan struct{} // held by who asks the provider, and has the next three
	jwksURL string
	tried   time.Time // when it was last asked
	failure error     // of that

	mu      sync.Mutex
	known   []jose.JSONWebKey
	fetched time.Time // when known was
}

func newKeys(issuer string, algorithms []jose.SignatureAlgorithm, now func() time.Time) *keys {
	return &keys{
		issuer: issuer, algorithms: algorithms, now: now, asking: make(chan struct{}, 1),
		client: &http.Client{
			Timeout:   fetchTimeout,
			Transport: bounded{http.DefaultTransport},
			// The configuration says where the provider is, and it says so itself.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// errUnknown is for tokens whose signature no key of the provider made.
var errUnknown = errors.New(errors.Unauthenticated, "no key of the provider made the signature")

// verify gives the payload of a token that the provider has signed. Returns
// Unauthenticated, and Unavailable when the provider's keys cannot be had.
func (k *keys) verify(ctx context.Context, token string) ([]byte, error) {
	jws, err := jose.ParseSignedCompact(token, k.algorithms)
	if err != nil || len(jws.Signatures) != 1 {
		return nil, errors.Wrap(err, errors.Unauthenticated, "the token is not signed as the provider signs")
	}
	if bringsKeys(token) {
		return nil, errUnknown
	}
	candidates, err := k.candidates(ctx, jws.Signatures[0].Header.KeyID)
	if err != nil {
		return nil, err
	}
	for _, key := range candidates {
		if payload, err := jws.Verify(key); err == nil {
			return payload, nil
		}
	}
	return nil, errUnknown
}

// bringsKeys reports whether a token's header holds a key, or leads to one, or
// wants to be understood otherwise than we do.
func bringsKeys(token string) bool {
	head, _, _ := strings.Cut(token, ".")
	raw, err := base64.RawURLEncoding.DecodeString(head)
	if err != nil {
		return true
	}
	var header map[string]json.RawMessage
	if json.Unmarshal(raw, &header) != nil {
		return true
	}
	for _, name := range []string{"jwk", "jku", "x5u", "x5c", "crit"} {
		if _, has := header[name]; has {
			return true
		}
	}
	return false
}

// candidates are the keys with an ID, or all where a token names none. Who
// asks for one that is known does not wait for who asks for one that is not.
func (k *keys) candidates(ctx context.Context, id string) ([]jose.JSONWebKey, error) {
	if found, _ := k.named(id); len(found) > 0 {
		return found, nil
	}
	select {
	case k.asking <- struct{}{}:
		defer func() { <-k.asking }()
	case <-ctx.Done():
		return nil, errors.Public(ctx.Err())
	}
	found, fresh := k.named(id) // somebody else may have asked meanwhile
	if now := k.now(); len(found) == 0 && now.Sub(k.tried) >= retryAfter {
		k.tried = now
		// Others wait for these keys too: they are got whoever goes away.
		fctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*fetchTimeout)
		defer cancel()
		k.failure = k.fetch(fctx)
		found, fresh = k.named(id)
	}
	switch {
	case len(found) > 0:
		return found, nil
	case fresh && k.failure == nil:
		return nil, errUnknown
	}
	return nil, errors.Wrap(k.failure, errors.Unavailable, "the keys of the identity provider cannot be had").WithRetryAfter(retryAfter)
}

// named gives the keys with an ID, unless they are too old to count.
func (k *keys) named(id string) (found []jose.JSONWebKey, fresh bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.now().Sub(k.fetched) >= keepKeys {
		return nil, false
	}
	for _, key := range k.known {
		if id == "" || key.KeyID == id {
			found = append(found, key)
		}
	}
	return found, true
}

// fetch asks the provider where its keys are, once, and for the keys.
func (k *keys) fetch(ctx context.Context) error {
	if k.jwksURL == "" {
		p, err := oidc.NewProvider(oidc.ClientContext(ctx, k.client), k.issuer)
		if err != nil {
			return errors.Wrap(err, errors.Unavailable, "the identity provider %s cannot be discovered", k.issuer)
		}
		var says struct {
			JWKS string `json:"jwks_uri"`
		}
		if err := p.Claims(&says); err != nil {
			return errors.Wrap(err, errors.Unavailable, "the identity provider's document cannot be read")
		}
		if err := checkURL(says.JWKS); err != nil {
			return err
		}
		k.jwksURL = says.JWKS
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, k.jwksURL, nil)
	if err != nil {
		return errors.Wrap(err, errors.Unavailable, "the identity provider's keys cannot be asked for")
	}
	resp, err := k.client.Do(req)
	if err != nil {
		return errors.Wrap(err, errors.Unavailable, "the identity provider's keys cannot be had")
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return errors.New(errors.Unavailable, "the identity provider answers %s where its keys are", resp.Status)
	}
	var set jose.JSONWebKeySet
	if err := json.NewDecoder(resp.Body).Decode(&set); err != nil {
		return errors.Wrap(err, errors.Unavailable, "the identity provider's keys cannot be read")
	}
	known := make([]jose.JSONWebKey, 0, len(set.Keys))
	for _, key := range set.Keys {
		// A secret among them would make everybody a signer.
		if key.Valid() && key.IsPublic() && (key.Use == "" || key.Use == "sig") && len(known) < maxKeys {
			known = append(known, key)
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.known, k.fetched = known, k.now()
	return nil
}

// checkURL wants TLS, but on this host itself.
func checkURL(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil || u.Fragment != "" {
		return errors.New(errors.InvalidArgument, "%q is not an identity provider's address", text)
	}
	ip := net.ParseIP(u.Hostname())
	if u.Scheme == "https" || u.Scheme == "http" && (u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()) {
		return nil
	}
	return errors.New(errors.InvalidArgument, "an identity provider is reached over https, not by %q", text)
}

// bounded cuts answers off.
type bounded struct{ http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := b.RoundTripper.RoundTrip(r)
	if err == nil {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, maxDocument), resp.Body}
	}
	return resp, err
}
