package identity_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/certificate"
	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/seal"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/fleet"
	"github.com/aetherium/aetherium/services/core/pkg/fleet/identity"
	"github.com/aetherium/aetherium/services/core/pkg/nodelink"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/storage/sqlite"
	"github.com/aetherium/aetherium/services/core/pkg/storage/sqlitetest"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// installation is one that workers can join. It is their gateway as well.
type installation struct {
	*testing.T
	store     storage.Store
	authority *fleet.Authority
	service   *fleet.Service

	mu   sync.Mutex
	now  time.Time
	lose bool // answers
	// answers, if set, is what is answered in the place of what is true.
	answers  func(api.WorkerCertificate) api.WorkerCertificate
	renewals int // that were asked for
}

// emptyDatabase is made once: making its schema takes longer than most tests.
var emptyDatabase = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "aetherium-fleet-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	file := filepath.Join(dir, "a.db")
	store, err := sqlitetest.Open(context.Background(), file, sqlite.Options{Logger: slog.New(slog.DiscardHandler)})
	if err == nil {
		err = store.Close()
	}
	if err != nil {
		return nil, err
	}
	return os.ReadFile(file)
})

func newInstallation(t *testing.T) *installation {
	t.Helper()
	empty, err := emptyDatabase()
	must(t, err)
	file := filepath.Join(t.TempDir(), "a.db")
	must(t, os.WriteFile(file, empty, 0o600))
	store, err := sqlitetest.Open(t.Context(), file, sqlite.Options{Logger: slog.New(slog.DiscardHandler)})
	must(t, err)
	t.Cleanup(func() { _ = store.Close() })
	ring, err := seal.NewKeys(make([]byte, 32))
	must(t, err)
	in := &installation{T: t, store: store, now: time.Now()}
	in.authority, err = fleet.Open(t.Context(), store, seal.New(ring), in.clock)
	must(t, err)
	in.service = fleet.New(fleet.Deps{Store: store, Authority: in.authority, Now: in.clock})
	return in
}

func (in *installation) clock() time.Time {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.now
}

func (in *installation) pass(d time.Duration) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.now = in.now.Add(d)
}

var errLost = errors.New(errors.Unavailable, "the answer was lost")

func (in *installation) answer(c fleet.Certificate, err error) (api.WorkerCertificate, error) {
	if err == nil && in.lose {
		err = errLost
	}
	if err != nil {
		return api.WorkerCertificate{}, err
	}
	a := api.WorkerCertificate{WorkerID: c.Worker.String(), Certificate: string(c.PEM), Authority: string(c.Authority)}
	if in.answers != nil {
		a = in.answers(a)
	}
	return a, nil
}

func (in *installation) JoinWorker(ctx context.Context, r api.JoinWorker) (api.WorkerCertificate, error) {
	return in.answer(in.service.Join(ctx, fleet.JoinRequest{Token: r.Token, Signature: r.Signature, CSR: r.CSR, Name: r.Name, Address: r.Address}, nil))
}

func (in *installation) RenewWorker(ctx context.Context, id string, r api.RenewWorker) (api.WorkerCertificate, error) {
	in.renewals++
	return in.answer(in.service.Renew(ctx, domain.ID(id), fleet.RenewRequest{CSR: r.CSR, Certificate: r.Certificate, Signature: r.Signature}, nil))
}

var admin = vmm.Caller{Name: "root", Admin: true}

func (in *installation) token() string {
	in.Helper()
	t, err := in.service.CreateToken(in.Context(), admin, 0)
	must(in, err)
	return t.Text
}

func (in *installation) joining(name string) identity.Joining {
	return identity.Joining{Dir: filepath.Join(in.TempDir(), "data"), Gateway: in, Token: in.token(), Name: name, Address: name + ":7400", Now: in.clock}
}

func (in *installation) join(name string) *identity.Identity {
	in.Helper()
	id, err := identity.Join(in.Context(), in.joining(name))
	must(in, err)
	return id
}

func (in *installation) workers() (ws []*domain.Worker) {
	in.Helper()
	must(in, in.store.View(in.Context(), func(tx storage.Tx) (err error) { ws, err = tx.Workers().All(in.Context()); return err }))
	return ws
}

// node is a worker's node that does one thing.
type node struct{ service.Node }

func (node) StdinOffset(context.Context, domain.ID) (int64, error) { return 42, nil }

// serve has a worker's node served, and tells where.
func serve(t *testing.T, config *tls.Config) (address string) {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	server := httptest.NewUnstartedServer(nil)
	server.Config = nodelink.NewServer(nodelink.Handler(node{}, nil, log), config, log)
	// As with http.Server.ServeTLS: httptest would put a certificate of its own beside.
	server.Listener = tls.NewListener(server.Listener, nodelink.ServerTLS(config))
	server.Start()
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return server.Listener.Addr().String()
}

// call calls a worker's node over a connection of its own.
func call(t *testing.T, address string, config *tls.Config) error {
	t.Helper()
	c := nodelink.NewClient(address, config, slog.New(slog.DiscardHandler))
	defer c.Close()
	n, err := c.StdinOffset(t.Context(), domain.NewID())
	if err == nil && n != 42 {
		t.Errorf("the answer is %d", n)
	}
	return err
}

// A worker that has joined is in the store, and is called by gateways of its
// installation and by nobody else; they call the very worker that they mean.
func TestTrust(t *testing.T) {
	t.Parallel()
	in, other := newInstallation(t), newInstallation(t)
	a, b, stranger := in.join("a"), in.join("b"), other.join("a")
	for i, id := range []*identity.Identity{a, b} {
		w := in.workers()[i]
		if w.ID != id.WorkerID() || w.Address != w.Name+":7400" || w.State != domain.WorkerAway {
			t.Errorf("%+v", w)
		}
	}
	address := serve(t, a.ServerTLS())
	must(t, call(t, address, in.authority.ClientTLS(a.WorkerID())))

	with := func(change func(*tls.Config)) *tls.Config {
		c := in.authority.ClientTLS(a.WorkerID())
		change(c)
		return c
	}
	shows := func(id *identity.Identity) *tls.Config {
		return with(func(c *tls.Config) {
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				return id.ServerTLS().GetCertificate(nil)
			}
		})
	}
	elsewhere := other.authority.ClientTLS(a.WorkerID())
	for name, config := range map[string]*tls.Config{
		"who shows nothing":                   with(func(c *tls.Config) { c.GetClientCertificate = nil }),
		"another worker":                      shows(b),
		"the worker itself":                   shows(a),
		"a worker of elsewhere":               shows(stranger),
		"a gateway of elsewhere":              with(func(c *tls.Config) { c.GetClientCertificate = elsewhere.GetClientCertificate }),
		"who speaks TLS 1.2":                  with(func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 }), //nolint:gosec // it is refused
		"a gateway that means another worker": in.authority.ClientTLS(b.WorkerID()),
		"a gateway that trusts others":        with(func(c *tls.Config) { c.RootCAs = elsewhere.RootCAs }),
	} {
		if err := call(t, address, config); !errors.HasCode(err, errors.Unavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
	must(t, call(t, address, in.authority.ClientTLS(a.WorkerID())))
}

// An authority that was given may sign for others, who are no gateways for that.
func TestClientsOfGivenAuthority(t *testing.T) {
	t.Parallel()
	in := newInstallation(t)
	ca, key, err := certificate.Issue(&x509.Certificate{
		NotBefore: in.now.Add(-time.Hour), NotAfter: in.now.Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, nil, nil)
	must(t, err)
	text, err := certificate.KeyPEM(key)
	must(t, err)
	files := [2]string{filepath.Join(t.TempDir(), "ca.pem"), filepath.Join(t.TempDir(), "ca.key")}
	must(t, os.WriteFile(files[0], certificate.PEM(ca), 0o600))
	must(t, os.WriteFile(files[1], text, 0o600))
	in.authority, err = fleet.Load(files[0], files[1], in.clock)
	must(t, err)
	in.service = fleet.New(fleet.Deps{Store: in.store, Authority: in.authority, Now: in.clock})
	id := in.join("a")
	address := serve(t, id.ServerTLS())
	config := in.authority.ClientTLS(id.WorkerID())
	must(t, call(t, address, config))

	client, clientKey, err := certificate.Issue(&x509.Certificate{
		DNSNames: []string{"ci.example.com"}, NotBefore: in.now.Add(-time.Hour), NotAfter: in.now.Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, ca, key)
	must(t, err)
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return &tls.Certificate{Certificate: [][]byte{client.Raw}, PrivateKey: clientKey}, nil
	}
	if err := call(t, address, config); !errors.HasCode(err, errors.Unavailable) {
		t.Errorf("another client of the authority: %v", err)
	}
}

// A gateway's certificate ends soon and is made anew by itself.
func TestGatewayRenewsItself(t *testing.T) {
	t.Parallel()
	in := newInstallation(t)
	id := in.join("a")
	address, config := serve(t, id.ServerTLS()), in.authority.ClientTLS(id.WorkerID())
	must(t, call(t, address, config))
	first, err := config.GetClientCertificate(nil)
	must(t, err)
	in.pass(time.Hour)
	if again, err := config.GetClientCertificate(nil); err != nil || again != first {
		t.Errorf("it is another after an hour, %v", err)
	}
	in.pass(24 * time.Hour)
	must(t, call(t, address, config))
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return first, nil }
	if err := call(t, address, config); !errors.HasCode(err, errors.Unavailable) {
		t.Errorf("one that has ended: %v", err)
	}
}

// A token is for one worker. Who has lost the answer gets it again, as the same
// worker; everybody else is told what is wrong.
func TestTokens(t *testing.T) {
	t.Parallel()
	in, other := newInstallation(t), newInstallation(t)
	j := in.joining("a")
	in.lose = true
	if _, err := identity.Join(t.Context(), j); !errors.Is(err, errLost) {
		t.Fatal(err)
	}
	in.lose = false
	in.pass(2 * fleet.DefaultTokenTTL) // it was used in time
	thief := j
	thief.Dir, thief.Name = t.TempDir(), "thief"
	if _, err := identity.Join(t.Context(), thief); !errors.HasCode(err, errors.Conflict) {
		t.Errorf("used by another key: %v", err)
	}
	id, err := identity.Join(t.Context(), j)
	must(t, err)
	if ws := in.workers(); len(ws) != 1 || ws[0].ID != id.WorkerID() {
		t.Errorf("there are %v", ws)
	}

	namesake := in.joining("a")
	if _, err := identity.Join(t.Context(), namesake); !errors.HasCode(err, errors.AlreadyExists) {
		t.Errorf("the same name: %v", err)
	}
	namesake.Name = "b"
	if _, err := identity.Join(t.Context(), namesake); err != nil {
		t.Errorf("the token that came to nothing: %v", err)
	}

	refused := func(what string, code errors.Code, change func(*identity.Joining)) {
		t.Helper()
		j := in.joining("c")
		change(&j)
		if _, err := identity.Join(t.Context(), j); !errors.HasCode(err, code) {
			t.Errorf("%s: %v", what, err)
		} else if strings.Contains(err.Error(), j.Token) && j.Token != "" {
			t.Errorf("%s: the token is told: %v", what, err)
		}
	}
	refused("expired", errors.Gone, func(*identity.Joining) { in.pass(fleet.DefaultTokenTTL) })
	refused("revoked", errors.Unauthenticated, func(*identity.Joining) {
		l, err := in.service.ListTokens(t.Context(), admin, vmm.Page{Limit: 1})
		must(t, err)
		must(t, in.service.RevokeToken(t.Context(), admin, l.Items[0].ID))
	})
	refused("another installation's", errors.Unauthenticated, func(j *identity.Joining) { j.Token = other.token() })
	refused("none", errors.NotFound, func(j *identity.Joining) { j.Token = "" })
	refused("no token", errors.InvalidArgument, func(j *identity.Joining) { j.Token = fleet.TokenPrefix + "x" })
	refused("a key", errors.InvalidArgument, func(j *identity.Joining) { j.Token = "aeth_" + strings.Repeat("0", 40) })
	refused("half a token", errors.InvalidArgument, func(j *identity.Joining) { j.Token = j.Token[:len(j.Token)-2] })
	refused("no name", errors.InvalidArgument, func(j *identity.Joining) { j.Name = "" })
	refused("a bad name", errors.InvalidArgument, func(j *identity.Joining) { j.Name = "a/b" })
	refused("a bad address", errors.InvalidArgument, func(j *identity.Joining) { j.Address = "0.0.0.0:7400" })
	// Who answers is known, whoever it says that it is.
	for what, lie := range map[string]func(*api.WorkerCertificate, api.WorkerCertificate){
		"another authority":         func(a *api.WorkerCertificate, b api.WorkerCertificate) { a.Authority = b.Authority },
		"another's certificate":     func(a *api.WorkerCertificate, b api.WorkerCertificate) { a.Certificate = b.Certificate },
		"all of another":            func(a *api.WorkerCertificate, b api.WorkerCertificate) { *a = b },
		"another worker":            func(a *api.WorkerCertificate, _ api.WorkerCertificate) { a.WorkerID = domain.NewID().String() },
		"no certificate":            func(a *api.WorkerCertificate, _ api.WorkerCertificate) { a.Certificate = "" },
		"the authority's own twice": func(a *api.WorkerCertificate, _ api.WorkerCertificate) { a.Certificate = a.Authority },
	} {
		refused(what, errors.PermissionDenied, func(j *identity.Joining) {
			j.Name = strings.ReplaceAll(strings.ReplaceAll(what, " ", "-"), "'", "")
			var theirs api.WorkerCertificate
			other.answers = func(a api.WorkerCertificate) api.WorkerCertificate { theirs = a; return a }
			other.join(j.Name)
			in.answers = func(a api.WorkerCertificate) api.WorkerCertificate {
				lie(&a, theirs)
				return a
			}
		})
		in.answers = nil
	}
}

// All that a worker asks for was signed by who has the token.
func TestRequestsAreSigned(t *testing.T) {
	t.Parallel()
	in := newInstallation(t)
	for what, change := range map[string]func(*api.JoinWorker){
		"another name":      func(r *api.JoinWorker) { r.Name = "b" },
		"another address":   func(r *api.JoinWorker) { r.Address = "b:7400" },
		"moved between":     func(r *api.JoinWorker) { r.Name, r.Address = r.Name+r.Address[:1], r.Address[1:] },
		"another request":   func(r *api.JoinWorker) { r.CSR = append(bytes.Clone(r.CSR), 0) },
		"no signature":      func(r *api.JoinWorker) { r.Signature = nil },
		"another signature": func(r *api.JoinWorker) { r.Signature = bytes.Repeat([]byte{1}, 64) },
	} {
		j := in.joining("a")
		j.Gateway = tampered{in, change}
		if _, err := identity.Join(t.Context(), j); !errors.HasCode(err, errors.Unauthenticated) {
			t.Errorf("%s: %v", what, err)
		}
	}
	j := in.joining("a")
	j.Gateway = tampered{in, func(r *api.JoinWorker) { r.Token = r.Token[:16] }}
	if _, err := identity.Join(t.Context(), j); !errors.HasCode(err, errors.InvalidArgument) {
		t.Errorf("half a key: %v", err)
	}
	if ws := in.workers(); len(ws) != 0 {
		t.Errorf("there are %v", ws)
	}
}

// What is certified is a P-256 key that who asks has.
func TestKeysThatAreNotCertified(t *testing.T) {
	t.Parallel()
	in := newInstallation(t)
	token, err := fleet.ParseToken(in.token())
	must(t, err)
	csr := func(key crypto.Signer) []byte {
		out, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{fleet.GatewayName}}, key)
		must(t, err)
		return out
	}
	good, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	other, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	must(t, err)
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	forged := csr(good)
	forged[len(forged)-1] ^= 1
	for what, request := range map[string][]byte{"none": nil, "P-384": csr(other), "Ed25519": csr(edwards), "one that the sender does not have": forged, "behind it more": append(csr(good), 0)} {
		if _, err := in.service.Join(t.Context(), token.Sign(request, "a", "a:7400"), nil); !errors.HasCode(err, errors.InvalidArgument) {
			t.Errorf("%s: %v", what, err)
		}
	}
	// Nothing else of the request counts.
	c, err := in.service.Join(t.Context(), token.Sign(csr(good), "a", "a:7400"), nil)
	must(t, err)
	leaf, _, err := c.Check(in.authority.Hash(), good.Public(), in.now)
	if err != nil || len(leaf.DNSNames) != 1 || leaf.DNSNames[0] != fleet.WorkerName(c.Worker) || leaf.IsCA ||
		!slices.Equal(leaf.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}) {
		t.Errorf("%+v, %v", leaf, err)
	}
	if _, err := identity.NewGateway("ftp://example.com"); !errors.HasCode(err, errors.InvalidArgument) {
		t.Errorf("a URL that is none: %v", err)
	}
}

// tampered is a gateway behind somebody who changes what is asked for.
type tampered struct {
	identity.Gateway
	change func(*api.JoinWorker)
}

func (g tampered) JoinWorker(ctx context.Context, r api.JoinWorker) (api.WorkerCertificate, error) {
	g.change(&r)
	return g.Gateway.JoinWorker(ctx, r)
}

// Only administrators make, list and revoke tokens, within bounds.
func TestTokensAreForAdministrators(t *testing.T) {
	t.Parallel()
	in := newInstallation(t)
	made, err := in.service.CreateToken(t.Context(), admin, 2*time.Hour)
	must(t, err)
	if made.Token.CreatedBy != "root" || made.Token.ExpiresAt.Sub(made.Token.CreatedAt) != 2*time.Hour {
		t.Errorf("%+v", made.Token)
	}
	for _, ttl := range []time.Duration{-1, time.Second, fleet.MaxTokenTTL + 1} {
		if _, err := in.service.CreateToken(t.Context(), admin, ttl); !errors.HasCode(err, errors.InvalidArgument) {
			t.Errorf("%s: %v", ttl, err)
		}
	}
	nobody := vmm.Caller{Name: "x", Scopes: domain.Scopes{domain.ScopeManage}}
	_, create := in.service.CreateToken(t.Context(), nobody, 0)
	_, list := in.service.ListTokens(t.Context(), nobody, vmm.Page{})
	for _, err := range []error{create, list, in.service.RevokeToken(t.Context(), nobody, made.Token.ID)} {
		if !errors.HasCode(err, errors.PermissionDenied) {
			t.Error(err)
		}
	}
	in.pass(31*24*time.Hour + 2*time.Hour)
	fresh, err := in.service.CreateToken(t.Context(), admin, 0)
	must(t, err)
	l, err := in.service.ListTokens(t.Context(), admin, vmm.Page{})
	if err != nil || len(l.Items) != 1 || l.Items[0].ID != fresh.Token.ID {
		t.Errorf("there are %v, %v", l.Items, err)
	}
}

// A worker that starts again is who it was, also after it was killed at any
// point of joining, and its key is nobody else's to read.
func TestRestart(t *testing.T) {
	t.Parallel()
	in := newInstallation(t)
	j := in.joining("a")
	id, err := identity.Join(t.Context(), j)
	must(t, err)
	if entries, err := os.ReadDir(j.Dir); err != nil || len(entries) != 1 || entries[0].Name() != identity.File {
		t.Errorf("there are %v, %v", entries, err)
	}
	file := filepath.Join(j.Dir, identity.File)
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	for _, token := range []string{"", j.Token, in.token()} {
		j.Token = token
		again, err := identity.Join(t.Context(), j)
		if err != nil || again.WorkerID() != id.WorkerID() {
			t.Errorf("%v", err)
		}
	}
	again, err := identity.Open(j.Dir, in.clock)
	must(t, err)
	must(t, call(t, serve(t, again.ServerTLS()), in.authority.ClientTLS(id.WorkerID())))

	other := newInstallation(t)
	j.Token, j.Gateway = other.token(), other
	if _, err := identity.Join(t.Context(), j); !errors.HasCode(err, errors.Conflict) {
		t.Errorf("a token of another installation: %v", err)
	}
	must(t, os.Chmod(file, 0o644)) //nolint:gosec // that is what is refused
	if _, err := identity.Open(j.Dir, in.clock); !errors.HasCode(err, errors.PermissionDenied) {
		t.Errorf("a key that others can read: %v", err)
	}
	must(t, os.WriteFile(file, []byte("x"), 0o600))
	must(t, os.Chmod(file, 0o600))
	if _, err := identity.Open(j.Dir, in.clock); !errors.HasCode(err, errors.Internal) {
		t.Errorf("a damaged one: %v", err)
	}

	// Killed behind what was answered and before what was kept: the file that
	// is not in place yet does not count.
	j = in.joining("b")
	in.lose = true
	if _, err := identity.Join(t.Context(), j); !errors.Is(err, errLost) {
		t.Fatal(err)
	}
	in.lose = false
	must(t, os.WriteFile(filepath.Join(j.Dir, identity.File+".new"), []byte("half"), 0o600))
	b, err := identity.Join(t.Context(), j)
	must(t, err)
	if ws := in.workers(); len(ws) != 2 || ws[1].ID != b.WorkerID() {
		t.Errorf("there are %v", ws)
	}
}

// A certificate is renewed for a new key, by who has the old one, and the
// server shows it at once.
func TestRenewal(t *testing.T) {
	t.Parallel()
	in, other := newInstallation(t), newInstallation(t)
	j := in.joining("a")
	id, err := identity.Join(t.Context(), j)
	must(t, err)
	address := serve(t, id.ServerTLS())
	before, err := os.ReadFile(filepath.Join(j.Dir, identity.File))
	must(t, err)
	until := id.Until()
	stale, err := identity.Open(j.Dir, in.clock)
	must(t, err)

	in.lose = true
	if err := id.Renew(t.Context(), in); !errors.Is(err, errLost) {
		t.Error(err)
	}
	in.lose = false
	other.join("x")
	for name, g := range map[string]identity.Gateway{"another installation": other, "another worker": misled{in, in.join("b").WorkerID()}} {
		if err := id.Renew(t.Context(), g); !errors.HasCode(err, errors.Unauthenticated) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if after, err := os.ReadFile(filepath.Join(j.Dir, identity.File)); err != nil || !bytes.Equal(before, after) {
		t.Errorf("what failed has changed it, %v", err)
	}

	in.pass(fleet.WorkerLifetime - time.Hour)
	must(t, id.Renew(t.Context(), in))
	if !id.Until().After(until) {
		t.Errorf("it ends at %s", id.Until())
	}
	kept, err := identity.Open(j.Dir, in.clock)
	if err != nil || !kept.Until().Equal(id.Until()) {
		t.Errorf("kept: %v", err)
	}
	in.pass(2 * time.Hour) // the first has ended
	must(t, call(t, address, in.authority.ClientTLS(id.WorkerID())))
	if err := call(t, serve(t, stale.ServerTLS()), in.authority.ClientTLS(id.WorkerID())); !errors.HasCode(err, errors.Unavailable) {
		t.Errorf("one that has ended: %v", err)
	}
	if err := stale.Renew(t.Context(), in); !errors.HasCode(err, errors.Unauthenticated) {
		t.Errorf("renewed after its end: %v", err)
	}

	must(t, in.store.Update(t.Context(), func(tx storage.Tx) error { return tx.Workers().Delete(t.Context(), id.WorkerID()) }))
	if err := id.Renew(t.Context(), in); !errors.HasCode(err, errors.Gone) {
		t.Errorf("removed: %v", err)
	}
	in.pass(fleet.WorkerLifetime)
	j.Token = ""
	if _, err := identity.Join(t.Context(), j); !errors.HasCode(err, errors.Gone) {
		t.Errorf("expired: %v", err)
	}
}

// misled asks for a certificate of another worker.
type misled struct {
	identity.Gateway
	worker domain.ID
}

func (g misled) RenewWorker(ctx context.Context, _ string, r api.RenewWorker) (api.WorkerCertificate, error) {
	return g.Gateway.RenewWorker(ctx, g.worker.String(), r)
}

// What is kept valid is renewed when it is time, and not before.
func TestKeep(t *testing.T) {
	t.Parallel()
	in := newInstallation(t)
	id := in.join("a")
	over, end := context.WithCancel(t.Context())
	end()
	until := id.Until()
	id.Keep(over, in, slog.New(slog.DiscardHandler))
	if in.renewals != 0 || !id.Until().Equal(until) {
		t.Error("it was renewed at once")
	}
	in.pass(fleet.WorkerLifetime * 3 / 4)
	ctx, stop := context.WithCancel(t.Context())
	id.Keep(ctx, in, slog.New(ends{slog.DiscardHandler, stop}))
	if !id.Until().After(until) {
		t.Errorf("it ends at %s", id.Until())
	}
}

// ends is a log whose first line ends what is logged.
type ends struct {
	slog.Handler
	end func()
}

func (ends) Enabled(context.Context, slog.Level) bool { return true }

func (e ends) Handle(_ context.Context, r slog.Record) error {
	if r.Level == slog.LevelInfo {
		e.end()
	}
	return nil
}
