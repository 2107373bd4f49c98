package gateway_test

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/pkg/fleet"
	"github.com/aetherium/aetherium/services/core/pkg/fleet/identity"
	"github.com/aetherium/aetherium/services/gateway/pkg/gateway"
	"github.com/aetherium/aetherium/services/gateway/pkg/limit"
)

// newFleetLab is a lab that workers can join.
func newFleetLab(t *testing.T, change ...func(*gateway.Config, *gateway.Deps)) *lab {
	t.Helper()
	ring := newKeyRing(t, slog.New(slog.DiscardHandler))
	authority, err := fleet.Open(t.Context(), ring.store, ring.sealer, nil)
	if err != nil {
		t.Fatal(err)
	}
	return newLab(t, append(change, func(_ *gateway.Config, d *gateway.Deps) {
		d.Fleet = fleet.New(fleet.Deps{Store: ring.store, Authority: authority})
	})...)
}

// joining is a worker on its way into a lab.
func (l *lab) joining(url, name string) identity.Joining {
	l.t.Helper()
	g, err := identity.NewGateway(url)
	if err != nil {
		l.t.Fatal(err)
	}
	token := get[wire.NewJoinToken](l, 201, req{method: "POST", path: "/workers/tokens"})
	return identity.Joining{Dir: filepath.Join(l.t.TempDir(), "data"), Gateway: g, Token: token.Token, Name: name, Address: name + ":7400"}
}

func (l *lab) tokens() []wire.JoinToken {
	l.t.Helper()
	return get[wire.List[wire.JoinToken]](l, 200, req{method: "GET", path: "/workers/tokens"}).Items
}

// A worker joins and renews over the API, with no key but its token, whoever's
// certificate the gateway shows; who did is seen in the tokens and in the audit log.
func TestWorkersJoin(t *testing.T) {
	t.Parallel()
	l := newFleetLab(t, recorded(t))
	proxy := httptest.NewTLSServer(l.gateway) // nobody has told the workers to trust it
	t.Cleanup(proxy.Close)
	for name, url := range map[string]string{"a": "http://" + l.addr, "b": proxy.URL} {
		j := l.joining(url, name)
		id, err := identity.Join(t.Context(), j)
		if err != nil {
			t.Fatal(err)
		}
		used := l.tokens()[0]
		if used.State != "used" || used.WorkerID != id.WorkerID().String() || used.UsedAt == nil || len(used.KeySHA256) != 64 || used.CreatedBy != "root" {
			t.Errorf("%+v", used)
		}
		until := id.Until()
		if err := id.Renew(t.Context(), j.Gateway); err != nil || id.Until().Before(until) {
			t.Errorf("%s, %v", id.Until(), err)
		}
		j.Dir = t.TempDir()
		if _, err := identity.Join(t.Context(), j); !errors.HasCode(err, errors.Conflict) {
			t.Errorf("again with another key: %v", err)
		}
		var operations []string
		for _, r := range l.records("subject=" + id.WorkerID().String()) {
			if r.SubjectKind != "worker" || r.Actor != "" || r.Result != "done" {
				t.Errorf("%+v", r)
			}
			operations = append(operations, r.Operation)
		}
		if strings.Join(operations, " ") != "join-worker renew-worker" {
			t.Errorf("recorded are %v", operations)
		}
		if made := l.records("subject=" + used.ID); len(made) != 1 || made[0].Operation != "create-join-token" || made[0].SubjectKind != "token" {
			t.Errorf("%+v", made)
		}
	}
	j := l.joining("http://"+l.addr, "c")
	l.want(204, req{method: "DELETE", path: "/workers/tokens/" + l.tokens()[0].ID})
	if _, err := identity.Join(t.Context(), j); !errors.HasCode(err, errors.Unauthenticated) {
		t.Errorf("revoked: %v", err)
	}
	l.problem(404, errors.NotFound, req{method: "DELETE", path: "/workers/tokens/aaaaaaaaaaaaaaaaaaaa"})
	l.problem(400, errors.InvalidArgument, req{method: "POST", path: "/workers/tokens", body: wire.CreateJoinToken{TTLMS: 1}})
	ttl := get[wire.NewJoinToken](l, 201, req{method: "POST", path: "/workers/tokens", body: wire.CreateJoinToken{TTLMS: 120_000}})
	if ttl.State != "usable" || ttl.ExpiresAt.Sub(ttl.CreatedAt) != 2*time.Minute {
		t.Errorf("%+v", ttl)
	}
}

// Who has no token is let guess as rarely as who has no key, cannot fill the audit
// log, and has little read of what it sends.
func TestStrangersDoNotJoin(t *testing.T) {
	t.Parallel()
	l := newFleetLab(t, recorded(t), limited(limit.Config{Failures: limit.Rate{PerSecond: never, Burst: 3}}))
	stranger := newFleetLab(t)
	j := l.joining("http://"+l.addr, "a")
	mine := j.Token
	j.Token = stranger.joining("http://"+l.addr, "a").Token
	for range 3 {
		if _, err := identity.Join(t.Context(), j); !errors.HasCode(err, errors.Unauthenticated) {
			t.Fatal(err)
		}
	}
	l.problem(401, errors.Unauthenticated, req{method: "GET", path: "/vms", key: "none"}) // shows nothing, and is no guess
	body := wire.JoinWorker{Token: make([]byte, 32), Signature: []byte{1}, CSR: []byte{1}, Name: "a", Address: "a:1"}
	p := l.problem(429, errors.RateLimited, req{method: "POST", path: "/workers/join", key: "none", body: body})
	if p.Hint == "" {
		t.Errorf("%+v", p)
	}
	j.Token = mine
	if _, err := identity.Join(t.Context(), j); err != nil {
		t.Errorf("who has a token: %v", err)
	}
	for range 40 {
		l.do(req{method: "POST", path: "/workers/join", key: "none", body: body})
	}
	if n := len(l.records("operation=join-worker")); n > 25 {
		t.Errorf("%d attempts were recorded", n)
	}
	body.CSR = make([]byte, 64<<10)
	l.problem(413, errors.TooLarge, req{method: "POST", path: "/workers/join", key: "none", body: body})
	l.problem(400, errors.InvalidArgument, req{method: "POST", path: "/workers/join", key: "none", body: "{}"})
}

// A server that is its own worker says why it takes in no others.
func TestNoFleet(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	for _, q := range []req{
		{method: http.MethodPost, path: "/workers/tokens"}, {method: http.MethodGet, path: "/workers/tokens"},
		{method: http.MethodDelete, path: "/workers/tokens/aaaaaaaaaaaaaaaaaaaa"},
		{method: http.MethodPost, path: "/workers/join", key: "none", body: wire.JoinWorker{Token: []byte{1}, Signature: []byte{1}, CSR: []byte{1}, Name: "a", Address: "a:1"}},
		{method: http.MethodPost, path: "/workers/aaaaaaaaaaaaaaaaaaaa/certificate", key: "none", body: wire.RenewWorker{CSR: []byte{1}, Certificate: []byte{1}, Signature: []byte{1}}},
	} {
		if p := l.problem(422, errors.Unsupported, q); !strings.Contains(p.Hint, "PostgreSQL") {
			t.Errorf("%+v", p)
		}
	}
}

// A worker is found by ID and by name, as it is listed, by administrators.
func TestWorkerIsFound(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	want := get[wire.List[wire.Worker]](l, 200, req{method: "GET", path: "/workers"}).Items[0]
	for _, name := range []string{want.ID, want.Name} {
		if w := get[wire.Worker](l, 200, req{method: "GET", path: "/workers/" + name}); !reflect.DeepEqual(w, want) {
			t.Errorf("%s is %+v, not %+v", name, w, want)
		}
	}
	for _, name := range []string{"nobody", "aaaaaaaaaaaaaaaaaaaa"} {
		l.problem(404, errors.NotFound, req{method: "GET", path: "/workers/" + name})
	}
	l.problem(400, errors.InvalidArgument, req{method: "GET", path: "/workers/-x"})
	l.problem(403, errors.PermissionDenied, req{method: "GET", path: "/workers/" + want.ID, key: l.user})
	// What is beside workers is no worker.
	for path, allow := range map[string]string{"/workers/join": "POST", "/workers/tokens": "GET, HEAD, POST", "/workers/" + want.ID: "GET, HEAD, DELETE"} {
		resp, _ := l.do(req{method: "OPTIONS", path: path})
		if got := strings.Join(resp.Header.Values("Allow"), ", "); resp.StatusCode != http.StatusMethodNotAllowed || got != allow {
			t.Errorf("%s allows %q, not %q: %d", path, got, allow, resp.StatusCode)
		}
	}
}
