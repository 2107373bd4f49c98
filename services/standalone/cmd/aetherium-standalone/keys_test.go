package main

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/seal"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/daemon"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	core "github.com/aetherium/aetherium/services/core/pkg/settings"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/storage/pgtest"
	"github.com/aetherium/aetherium/services/core/pkg/storage/postgres"
	"github.com/aetherium/aetherium/services/core/pkg/storage/sqlite"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/standalone/internal/app"
	"github.com/aetherium/aetherium/services/standalone/internal/settings"
)

// installation is a data directory with a secret that was sealed with its keys.
type installation struct {
	t       *testing.T
	dir     string
	project domain.ID
	env     []string
	open    func() (storage.Store, error)
}

func newInstallation(t *testing.T, env ...string) *installation {
	t.Helper()
	dir := t.TempDir()
	return newInstallationIn(t, dir, func() (storage.Store, error) {
		return sqlite.Open(t.Context(), filepath.Join(dir, "aetherium.db"), sqlite.Options{Logger: slog.New(slog.DiscardHandler)})
	}, env...)
}

func newInstallationIn(t *testing.T, dir string, open func() (storage.Store, error), env ...string) *installation {
	t.Helper()
	i := &installation{t: t, dir: dir, project: domain.NewID(), env: append(env, "AETHERIUM_DATA_DIR="+dir), open: open}
	i.with(func(s storage.Store) {
		check(t, s.Update(t.Context(), func(tx storage.Tx) error {
			return tx.Projects().Insert(t.Context(), &domain.Project{ID: i.project, Name: "p", CreatedAt: time.Unix(1, 0)})
		}))
	})
	return i
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (i *installation) with(f func(storage.Store)) {
	i.t.Helper()
	s, err := i.open()
	check(i.t, err)
	f(s)
	check(i.t, s.Close())
}

func (i *installation) put(ring seal.Keyring, name string) {
	i.t.Helper()
	i.with(func(s storage.Store) {
		svc := service.New(service.Config{}, service.Deps{Store: s, Sealer: seal.New(ring)})
		_, err := svc.PutSecret(i.t.Context(), vmm.Caller{ProjectID: i.project}, name, "value of "+name)
		check(i.t, err)
	})
}

func (i *installation) opens(ring seal.Keyring, names ...string) {
	i.t.Helper()
	i.with(func(s storage.Store) {
		for _, name := range names {
			if got, err := service.SecretValue(i.t.Context(), s, seal.New(ring), i.project, name); err != nil || got != "value of "+name {
				i.t.Errorf("%s: %q, %v", name, got, err)
			}
		}
	})
}

func (i *installation) keyFile() string { return filepath.Join(i.dir, "seal.key") }

func (i *installation) filed() *seal.Keys {
	i.t.Helper()
	ring, err := seal.LoadFile(i.keyFile())
	check(i.t, err)
	return ring
}

// run runs the program, which must end with a code, and gives what it says.
func (i *installation) run(code int, args ...string) string {
	i.t.Helper()
	var out bytes.Buffer
	if got := run(i.t.Context(), args, i.env, &out, &out); got != code {
		i.t.Fatalf("%v ended with %d, want %d: %s", args, got, code, out.String())
	}
	return out.String()
}

func (i *installation) says(code int, want string, args ...string) {
	i.t.Helper()
	if out := i.run(code, args...); !regexp.MustCompile(want).MatchString(out) {
		i.t.Errorf("%v says %q, want %s", args, out, want)
	}
}

func TestKeysRotate(t *testing.T) {
	t.Parallel()
	i := newInstallation(t)
	ring := i.filed()
	old := ring.IDs()[0]
	i.put(ring, "A")
	i.says(0, old+`\s+file\s+1\s+newest; secrets.sealed 1`, "keys", "ls")
	i.says(1, `is the newest`, "keys", "rm", old)
	i.says(0, `(?s)the key \w{16} is made.*1 values are under the newest key that were not.*newest; secrets.sealed 1\n`+old+`\s+file\s+0\s+unused.*keys rm KEY`, "keys", "rotate")
	both := i.filed()
	if ids := both.IDs(); len(ids) != 2 || ids[1] != old {
		t.Fatalf("keys %v", ids)
	}
	i.opens(both, "A")
	i.says(1, "is the newest", "keys", "rm", both.IDs()[0])
	i.says(1, "is not in", "keys", "rm", "0123456789abcdef")
	i.says(0, "is removed", "keys", "rm", old)
	i.opens(i.filed(), "A")
	var listed app.SealKeys
	check(t, json.Unmarshal([]byte(i.run(0, "keys", "ls", "--json")), &listed))
	if len(listed.Keys) != 1 || !listed.Keys[0].Newest || listed.Keys[0].From != "file" || listed.Keys[0].Count() != 1 {
		t.Errorf("%+v", listed)
	}
}

// A rotation that was killed between the key and the values, or among these,
// is finished by the next, which makes no other key.
func TestKeysRotateGoesOn(t *testing.T) {
	t.Parallel()
	i := newInstallation(t)
	old := i.filed()
	i.put(old, "A")
	ring, err := seal.AddToFile(i.keyFile())
	check(t, err)
	i.put(ring, "B") // as if the killed one had come so far
	i.says(1, `1 values are under the key`, "keys", "rm", old.IDs()[0])
	i.says(0, `(?s)not everything is under the newest key yet\n1 values`, "keys", "rotate")
	if ids := i.filed().IDs(); len(ids) != 2 || ids[0] != ring.IDs()[0] {
		t.Errorf("keys %v", ids)
	}
	i.says(0, "is removed", "keys", "rm", old.IDs()[0])
	i.opens(i.filed(), "A", "B")
}

// With a wrong key, or none, nothing is changed and no key is made.
func TestKeysThatAreLost(t *testing.T) {
	t.Parallel()
	i := newInstallation(t)
	right := i.filed()
	i.put(right, "A")
	kept := i.keyFile() + ".kept"
	check(t, os.Rename(i.keyFile(), kept))
	for _, args := range [][]string{{"keys", "ls"}, {"keys", "rotate"}, {"keys", "rm", right.IDs()[0]}} {
		i.says(1, "seal.key is not there(?s).*bring it back", args...)
	}
	if _, err := os.Stat(i.keyFile()); !os.IsNotExist(err) {
		t.Errorf("a key file was made: %v", err)
	}
	wrong := i.filed() // one that is made now
	i.says(1, "1 values are under the key "+right.IDs()[0]+", which is not at hand", "keys", "rotate")
	if ids := i.filed().IDs(); len(ids) != 1 || ids[0] != wrong.IDs()[0] {
		t.Errorf("keys %v", ids)
	}
	i.says(0, right.IDs()[0]+`\s+-\s+1\s+NOT AT HAND; secrets.sealed 1`, "keys", "ls")
	check(t, os.Rename(kept, i.keyFile()))
	i.opens(i.filed(), "A")
}

func TestKeysWhileTheServerRuns(t *testing.T) {
	t.Parallel()
	i := newInstallation(t)
	i.put(i.filed(), "A")
	s, err := settings.Load("", i.env)
	check(t, err)
	lock, err := daemon.Lock(s.LockFile(), s.PIDFile())
	check(t, err)
	defer func() { _ = lock.Close() }()
	check(t, os.WriteFile(s.PIDFile(), fmt.Appendln(nil, os.Getpid()), 0o600))
	for _, args := range [][]string{{"keys", "ls"}, {"keys", "rotate"}, {"keys", "rm", "x"}} {
		i.says(1, "the server runs(?s).*its VMs run on", args...)
	}
	if ids := i.filed().IDs(); len(ids) != 1 {
		t.Errorf("keys %v", ids)
	}
}

// The same with rows in PostgreSQL, whose password is told nowhere.
func TestKeysOnPostgres(t *testing.T) {
	t.Parallel()
	server, err := pgtest.Start(t.Context())
	check(t, err)
	t.Cleanup(func() { check(t, server.Stop()) })
	database := strings.Replace(server.URL("postgres"), "postgres@", "postgres:S3cret@", 1)
	open := func() (storage.Store, error) {
		return postgres.Open(t.Context(), database, postgres.Options{Logger: slog.New(slog.DiscardHandler)})
	}
	dir := t.TempDir()
	i := newInstallationIn(t, dir, open, "AETHERIUM_DATABASE="+database)
	i.says(1, "there is no installation in", "keys", "ls") // nothing of it is in this directory
	check(t, os.Mkdir(filepath.Join(dir, "journals"), 0o700))
	old := i.filed().IDs()[0]
	i.put(i.filed(), "A")
	i.says(1, "1 values are under the key|is the newest", "keys", "rm", old)
	i.says(0, "1 values are under the newest key", "keys", "rotate")
	i.opens(i.filed(), "A")

	alone, err := postgres.Open(t.Context(), database, postgres.Options{Alone: true, Logger: slog.New(slog.DiscardHandler)})
	check(t, err)
	out := i.run(1, "keys", "rm", old)
	check(t, alone.Close())
	if !strings.Contains(out, "another server uses this database") || strings.Contains(out, "S3cret") {
		t.Errorf("while a server runs: %s", out)
	}
	i.says(0, "is removed", "keys", "rm", old)
	i.opens(i.filed(), "A")
	if _, err := os.Stat(filepath.Join(dir, "aetherium.db")); !os.IsNotExist(err) {
		t.Errorf("a file was made: %v", err)
	}
	check(t, server.Kill())
	out = i.run(1, "keys", "ls")
	if !strings.Contains(out, "the database cannot be reached") || strings.Contains(out, "S3cret") {
		t.Errorf("while the database is away: %s", out)
	}
}

func TestKeysOfNoInstallation(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "absent")
	i := &installation{t: t, dir: dir, env: []string{"AETHERIUM_DATA_DIR=" + dir}}
	i.says(1, "there is no installation in", "keys", "rotate")
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("it was made: %v", err)
	}
	check(t, os.Mkdir(dir, 0o700))
	i.says(1, "there is no installation in", "keys", "ls")
	if _, err := os.Stat(filepath.Join(dir, "aetherium.db")); !os.IsNotExist(err) {
		t.Errorf("a database was made: %v", err)
	}
}

// Keys that the environment holds are made there, and whatever was under the
// file's moves to them.
func TestKeysOfTheEnvironment(t *testing.T) {
	t.Parallel()
	i := newInstallation(t)
	filed := i.filed()
	i.put(filed, "A")
	first := strings.TrimSpace(i.run(0, "keys", "new"))
	given, err := seal.Parse(first)
	check(t, err)
	i.env = append(i.env, core.SealKeysVariable+"="+first)
	i.says(0, `(?s)not everything is under the newest key yet\n1 values.*`+given.IDs()[0]+`\s+settings\s+1\s+newest; .*`+filed.IDs()[0]+`\s+file\s+0\s+unused`, "keys", "rotate")
	i.opens(given, "A")
	i.says(1, "keys are not made here(?s).*keys new", "keys", "rotate")
	i.says(1, "is the newest", "keys", "rm", given.IDs()[0])
	i.says(0, "is removed", "keys", "rm", filed.IDs()[0])
	if _, err := os.Stat(i.keyFile()); !os.IsNotExist(err) {
		t.Errorf("the file without keys: %v", err)
	}
	second := seal.NewKey()
	i.env = append(i.env, core.SealKeysVariable+"="+second+" "+first)
	i.says(0, "1 values are under the newest key", "keys", "rotate")
	newest, err := seal.Parse(second)
	check(t, err)
	i.opens(newest, "A")
}

// keyService is a key management service, as libs/common/pkg/seal/kms describes it.
type keyService struct {
	mu   sync.Mutex
	keys map[string]cipher.AEAD
	now  string
}

func (k *keyService) rotate(id string, key byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	block, err := aes.NewCipher(bytes.Repeat([]byte{key}, 32))
	if err != nil {
		panic(err)
	}
	if k.keys[id], err = cipher.NewGCMWithRandomNonce(block); err != nil {
		panic(err)
	}
	k.now = id
}

func (k *keyService) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var q struct {
		KeyID   string `json:"key_id,omitempty"`
		Wrapped []byte `json:"wrapped,omitempty"`
		DataKey []byte `json:"data_key,omitempty"`
	}
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	if r.URL.Path == "/wrap" {
		q.KeyID, q.Wrapped, q.DataKey = k.now, k.keys[k.now].Seal(nil, nil, q.DataKey, nil), nil
	} else {
		key, ok := k.keys[q.KeyID]
		var err error
		if ok {
			q.DataKey, err = key.Open(nil, nil, q.Wrapped, nil)
		}
		if !ok || err != nil {
			w.WriteHeader(http.StatusNotFound)
			return
		}
	}
	_ = json.NewEncoder(w).Encode(q)
}

func TestKeysOfAService(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "kms") // short enough for a socket
	check(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	k := &keyService{keys: map[string]cipher.AEAD{}}
	k.rotate("one", 1)
	i := newInstallation(t)
	filed := i.filed()
	i.put(filed, "A")
	i.env = append(i.env, "AETHERIUM_SEAL_KMS_URL=unix://"+socket)
	i.says(1, "the key management service does not answer", "keys", "rotate")
	i.opens(filed, "A")

	l, err := new(net.ListenConfig).Listen(t.Context(), "unix", socket)
	check(t, err)
	srv := &http.Server{Handler: k, ReadHeaderTimeout: time.Minute}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	i.says(0, `(?s)1 values.*kms:one\s+kms\s+1\s+newest; secrets.sealed 1.*`+filed.IDs()[0]+`\s+file\s+0\s+unused`, "keys", "rotate")
	i.says(0, "is removed", "keys", "rm", filed.IDs()[0])
	i.says(1, "keys are not made here(?s).*in the key management service", "keys", "rotate")
	k.rotate("two", 2)
	i.says(0, `(?s)kms:two\s+kms\s+0\s+newest.*kms:one\s+kms\s+1\s+secrets.sealed 1`, "keys", "ls")
	i.says(0, `(?s)1 values.*kms:two\s+kms\s+1\s+newest`, "keys", "rotate")
	i.says(1, "is not in", "keys", "rm", "kms:one")
	k.mu.Lock()
	delete(k.keys, "one")
	k.mu.Unlock()
	i.says(0, `kms:two\s+kms\s+1`, "keys", "ls")
}
