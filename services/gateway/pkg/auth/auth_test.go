package auth_test

import (
	"context"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/gateway/pkg/auth"
)

type store struct {
	mu      sync.Mutex
	keys    map[auth.Hash]auth.Key
	touched []map[domain.ID]time.Time
	fail    error
}

func (s *store) LookupKey(_ context.Context, h auth.Hash) (auth.Key, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return auth.Key{}, s.fail
	}
	if k, ok := s.keys[h]; ok {
		return k, nil
	}
	return auth.Key{}, errors.New(errors.NotFound, "no such key")
}

func (s *store) TouchKeys(_ context.Context, m map[domain.ID]time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return s.fail
	}
	s.touched = append(s.touched, m)
	return nil
}

func TestKeys(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	clock := func() time.Time { return now }
	text, hash := auth.MintKey()
	if !auth.LooksLikeKey(text) || auth.HashKey(text) != hash || strings.Contains(string(hash[:]), text) {
		t.Fatalf("minted %q", text)
	}
	good := auth.Key{ID: domain.NewID(), ProjectID: domain.NewID(), Name: "ci", Hash: hash, Scopes: domain.Scopes{domain.ScopeAdmin}}
	at := func(d time.Duration) *time.Time { x := now.Add(d); return &x }
	wrongHash := good
	wrongHash.Hash[0] ^= 1
	with := func(f func(*auth.Key)) auth.Key { k := good; f(&k); return k }
	for _, tc := range []struct {
		name string
		key  auth.Key
		text string
		code errors.Code
	}{
		{"good", good, text, ""},
		{"expires later", with(func(k *auth.Key) { k.ExpiresAt = at(time.Second) }), text, ""},
		{"expires now", with(func(k *auth.Key) { k.ExpiresAt = at(0) }), text, errors.Unauthenticated},
		{"revoked", with(func(k *auth.Key) { k.RevokedAt = at(-time.Hour) }), text, errors.Unauthenticated},
		{"a store that finds another key", wrongHash, text, errors.Unauthenticated},
		{"another text", good, text[:len(text)-1] + "0", errors.Unauthenticated},
		{"upper case", good, strings.ToUpper(text), errors.Unauthenticated},
		{"short", good, "aeth_", errors.Unauthenticated},
		{"empty", good, "", errors.Unauthenticated},
	} {
		if tc.name == "another text" && strings.HasSuffix(text, "0") {
			tc.text = text[:len(text)-1] + "1"
		}
		keys := auth.NewKeys(&store{keys: map[auth.Hash]auth.Key{hash: tc.key}}, slog.New(slog.DiscardHandler), clock)
		caller, err := keys.Authenticate(t.Context(), tc.text)
		if errors.CodeOf(err) != tc.code {
			t.Errorf("%s: %v, want %s", tc.name, err, tc.code)
		}
		if tc.code == "" && (caller.ProjectID != good.ProjectID || caller.Name != "ci" || !caller.Admin || !caller.Scopes.Allows(domain.ScopeAdmin)) {
			t.Errorf("%s: %+v", tc.name, caller)
		}
		if err != nil && tc.text != "" && strings.Contains(err.Error(), tc.text) {
			t.Errorf("%s: the error tells the key: %v", tc.name, err)
		}
	}
	broken := auth.NewKeys(&store{fail: errors.Plain("disk on fire")}, slog.New(slog.DiscardHandler), clock)
	if _, err := broken.Authenticate(t.Context(), text); !errors.HasCode(err, errors.Unavailable) {
		t.Errorf("a store that fails: %v", err)
	}
}

func TestLastUseIsBatchedAndSurvivesFailure(t *testing.T) {
	t.Parallel()
	now := time.Now()
	text, hash := auth.MintKey()
	key := auth.Key{ID: domain.NewID(), Hash: hash}
	s := &store{keys: map[auth.Hash]auth.Key{hash: key}}
	keys := auth.NewKeys(s, slog.New(slog.DiscardHandler), func() time.Time { return now })
	for range 100 {
		if _, err := keys.Authenticate(t.Context(), text); err != nil {
			t.Fatal(err)
		}
	}
	s.mu.Lock()
	s.fail = errors.Plain("busy")
	s.mu.Unlock()
	if keys.Flush(t.Context()) == nil {
		t.Fatal("the failure is not told")
	}
	s.mu.Lock()
	s.fail = nil
	s.mu.Unlock()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := keys.Run(ctx); err != nil { // writes what is left
		t.Fatal(err)
	}
	if len(s.touched) != 1 || !s.touched[0][key.ID].Equal(now) {
		t.Fatalf("touched %v", s.touched)
	}
	if err := keys.Flush(t.Context()); err != nil || len(s.touched) != 1 {
		t.Fatalf("nothing new, and still written: %v", s.touched)
	}
}

func TestKeyFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "key")
	first, minted, err := auth.EnsureKeyFile(path)
	if err != nil || !minted || !auth.LooksLikeKey(first) {
		t.Fatal(first, minted, err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatal(info.Mode(), err)
	}
	again, minted, err := auth.EnsureKeyFile(path)
	if err != nil || minted || again != first {
		t.Fatal(again, minted, err)
	}
	left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".key-*"))
	if len(left) != 0 {
		t.Fatalf("left behind: %v", left)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, err := auth.EnsureKeyFile(path); !errors.HasCode(err, errors.PermissionDenied) {
		t.Fatalf("a key that others can read: %v", err)
	}
	if err := errors.Join(os.Chmod(path, 0o600), os.WriteFile(path, []byte("junk"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := auth.EnsureKeyFile(path); !errors.HasCode(err, errors.InvalidArgument) {
		t.Fatalf("junk: %v", err)
	}
	if _, _, err := auth.EnsureKeyFile(filepath.Join(t.TempDir(), "none", "key")); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("no directory: %v", err)
	}
}

func TestKeyFileRace(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "key")
	var wg sync.WaitGroup
	got := make([]string, 16)
	mints := make(chan struct{}, len(got))
	for i := range got {
		wg.Go(func() {
			text, minted, err := auth.EnsureKeyFile(path)
			if err != nil {
				t.Error(err)
			}
			if minted {
				mints <- struct{}{}
			}
			got[i] = text
		})
	}
	wg.Wait()
	for _, k := range got {
		if k != got[0] {
			t.Fatalf("two keys: %q", got)
		}
	}
	if len(mints) != 1 {
		t.Fatalf("%d mints", len(mints))
	}
}

func TestToken(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		header http.Header
		token  string
		code   errors.Code
	}{
		{"bearer", http.Header{"Authorization": {"Bearer k"}}, "k", ""},
		{"bearer in any case", http.Header{"Authorization": {"bEARER k"}}, "k", ""},
		{"header", http.Header{"X-Api-Key": {"k"}}, "k", ""},
		{"twice the same", http.Header{"X-Api-Key": {"k"}, "Authorization": {"Bearer k"}}, "k", ""},
		{"two that differ", http.Header{"X-Api-Key": {"k"}, "Authorization": {"Bearer l"}}, "", errors.InvalidArgument},
		{"basic beside a key", http.Header{"X-Api-Key": {"k"}, "Authorization": {"Basic eDp5"}}, "k", ""},
		{"subprotocol", http.Header{"Upgrade": {"websocket"}, "Sec-Websocket-Protocol": {"aetherium.v1, bearer.k"}}, "k", ""},
		{"subprotocol without an upgrade", http.Header{"Sec-Websocket-Protocol": {"bearer.k"}}, "", errors.Unauthenticated},
		{"nothing", http.Header{}, "", errors.Unauthenticated},
		{"cookie", http.Header{"Cookie": {"key=k"}}, "", errors.Unauthenticated},
	} {
		token, err := auth.Token(&http.Request{Header: tc.header})
		if token != tc.token || errors.CodeOf(err) != tc.code {
			t.Errorf("%s: %q, %v", tc.name, token, err)
		}
	}
}

func TestHosts(t *testing.T) {
	t.Parallel()
	h := auth.NewHosts("API.Example.com:443", "")
	for host, want := range map[string]bool{
		"localhost": true, "localhost:80": true, "LocalHost.": true, "api.example.com": true, "api.example.com:9": true,
		"127.0.0.1": true, "[::1]": true, "[::1]:80": true, "10.0.0.1:80": true, "::1": true,
		"": false, ":80": false, "example.com": false, "0x7f.1": false, "127.1": false, "localhost.example.com": false, "localhost..": false,
	} {
		if got := h.Allowed(host); got != want {
			t.Errorf("%q: %t", host, got)
		}
	}
}
