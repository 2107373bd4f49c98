package access_test

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/agent/access"
	"github.com/aetherium/aetherium/services/core/internal/agent/osuser"
	"github.com/aetherium/aetherium/services/core/internal/agent/settings"
	"github.com/aetherium/aetherium/services/core/pkg/guest/signature"
)

const token = "the-token"

func guard(t testing.TB) *access.Guard {
	t.Helper()
	etc := t.TempDir()
	if err := os.WriteFile(filepath.Join(etc, "passwd"), []byte("root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	store := &settings.Store{}
	if err := store.Update(func(s *settings.Settings) error { s.AccessToken = token; return nil }); err != nil {
		t.Fatal(err)
	}
	return &access.Guard{Settings: store, Users: osuser.NewDB(etc)}
}

// A signature that an SDK of the field made: the form is fixed.
func TestSignForm(t *testing.T) {
	t.Parallel()
	got := signature.Make("/home/user/a b.txt", signature.Read, "user", token, "1700000000")
	if !strings.HasPrefix(got, "v1_") || strings.Contains(got, "=") || len(got) != 3+43 {
		t.Errorf("signature %q", got)
	}
	if _, err := base64.RawStdEncoding.DecodeString(got[3:]); err != nil {
		t.Errorf("signature %q: %v", got, err)
	}
}

func TestUser(t *testing.T) {
	t.Parallel()
	g := guard(t)
	encode := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	for header, want := range map[string]string{
		"": "user", "Basic " + encode("root:"): "root", "basic " + encode("user:password"): "user",
		"Basic " + encode(":"): "user", "Basic " + encode("root"): "root", "Bearer abc": "user",
	} {
		u, err := g.User(http.Header{"Authorization": {header}})
		if err != nil || u.Name != want {
			t.Errorf("%q: %v %v", header, u, err)
		}
	}
	for _, header := range []string{"Basic !!!", "Basic " + encode("nobody:"), "Basic " + encode("a/b:"), "Basic " + encode("a\nb:")} {
		if _, err := g.User(http.Header{"Authorization": {header}}); !errors.HasCode(err, errors.Unauthenticated) {
			t.Errorf("%q: %v", header, err)
		}
	}
}

// FuzzFile: no signature but the right one opens a file, whatever the query holds.
func FuzzFile(f *testing.F) {
	g := guard(f)
	now := time.Unix(1_700_000_000, 0)
	f.Add("/p", "user", signature.Make("/p", signature.Read, "user", token, ""), "", "")
	f.Add("/p", "", signature.Make("/p", signature.Read, "", token, "1800000000"), "1800000000", "")
	f.Add("/p", "", signature.Make("/p", signature.Read, "", token, "1600000000"), "1600000000", "")
	f.Add("/p:read:", "", "v1_", "x", "wrong")
	f.Fuzz(func(t *testing.T, path, user, signed, expiration, shown string) {
		query := url.Values{"path": {path}, "username": {user}, "signature": {signed}, "signature_expiration": {expiration}}
		err := g.File(http.Header{access.TokenHeader: {shown}}, query, signature.Read, now)
		if err != nil {
			if !errors.HasCode(err, errors.Unauthenticated) {
				t.Errorf("refused with %v", err)
			}
			return
		}
		if shown != token && (shown != "" || signed != signature.Make(path, signature.Read, user, token, expiration)) {
			t.Errorf("let in with token %q and signature %q", shown, signed)
		}
	})
}

// FuzzBasic: credentials from outside name a known user or are refused.
func FuzzBasic(f *testing.F) {
	g := guard(f)
	f.Add("Basic dXNlcjo=")
	f.Add("Basic =")
	f.Add("")
	f.Fuzz(func(t *testing.T, header string) {
		u, err := g.User(http.Header{"Authorization": {header}})
		if err == nil && u == nil || err != nil && !errors.HasCode(err, errors.Unauthenticated) {
			t.Errorf("%v %v", u, err)
		}
	})
}
