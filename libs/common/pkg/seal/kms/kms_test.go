package kms_test

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/seal"
	"github.com/aetherium/aetherium/libs/common/pkg/seal/kms"
)

// service is a key management service: it really encrypts, with a key that
// never leaves it.
type service struct {
	mu    sync.Mutex
	keys  map[string]cipher.AEAD
	now   string // the newest
	asked int
	token string // that is wanted; empty: none
	// answer, where set, answers in the place of the service.
	answer func(w http.ResponseWriter, r *http.Request, next http.HandlerFunc)
}

func newService() *service {
	s := &service{keys: map[string]cipher.AEAD{}}
	s.rotate("projects/p/keys/1")
	return s
}

func (s *service) rotate(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := make([]byte, 32)
	_, _ = rand.Read(key)
	s.keys[id], s.now = aead(key), id
}

func aead(key []byte) cipher.AEAD {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err)
	}
	gcm, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err)
	}
	return gcm
}

type message struct {
	KeyID   string `json:"key_id,omitempty"`
	Wrapped []byte `json:"wrapped,omitempty"`
	DataKey []byte `json:"data_key,omitempty"`
	More    string `json:"more,omitempty"` // not of the protocol
}

func (s *service) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.asked++
	answer, token := s.answer, s.token
	s.mu.Unlock()
	if token != "" && r.Header.Get("Authorization") != "Bearer "+token {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if answer != nil {
		answer(w, r, s.serve)
		return
	}
	s.serve(w, r)
}

func (s *service) serve(w http.ResponseWriter, r *http.Request) {
	var q message
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil || r.Method != http.MethodPost {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	a, status := handle(s.keys, s.now, filepath.Base(r.URL.Path), q)
	s.mu.Unlock()
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(a)
}

func handle(keys map[string]cipher.AEAD, newest, what string, q message) (message, int) {
	switch what {
	case "wrap":
		return message{KeyID: newest, Wrapped: keys[newest].Seal(nil, nil, q.DataKey, nil), More: "ignored"}, http.StatusOK
	case "unwrap":
		k, ok := keys[q.KeyID]
		if !ok {
			return message{}, http.StatusNotFound
		}
		plain, err := k.Open(nil, nil, q.Wrapped, nil)
		if err != nil {
			return message{}, http.StatusNotFound
		}
		return message{DataKey: plain}, http.StatusOK
	}
	return message{}, http.StatusBadRequest
}

func open(t *testing.T, c kms.Config) *kms.Ring {
	t.Helper()
	ring, err := kms.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

// onSocket serves on a unix socket.
func onSocket(t *testing.T, h http.Handler, path string) *http.Server {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	return srv
}

// socket is a name that is short enough for one.
func socket(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kms")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

func write(t *testing.T, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// Every way to ask, with a service at its end that really encrypts.
func TestWaysToAsk(t *testing.T) {
	t.Parallel()
	s := newService()
	s.token = "s3cret"
	path := socket(t)
	onSocket(t, s, path)
	secure := httptest.NewTLSServer(s)
	t.Cleanup(secure.Close)
	clear_ := httptest.NewServer(s)
	t.Cleanup(clear_.Close)
	ca := write(t, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})), 0o600)
	token := write(t, "s3cret\n", 0o600)
	for name, c := range map[string]kms.Config{
		"socket":   {URL: "unix://" + path, TokenFile: token},
		"TLS":      {URL: secure.URL + "/some/path/", CAFile: ca, TokenFile: token},
		"loopback": {URL: clear_.URL, TokenFile: token},
		"program":  {Command: helper(), Env: helperEnv("serve")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, ring := t.Context(), open(t, c)
			for _, sealer := range []seal.Sealer{seal.New(ring), seal.NewReusing(ring, seal.Reuse{})} {
				for _, value := range []string{"", "one", "two"} {
					sealed, err := sealer.Seal(ctx, "p", []byte(value))
					if err != nil {
						t.Fatal(err)
					}
					// Another process, which remembers nothing, opens it.
					if got, err := seal.New(open(t, c)).Open(ctx, "p", sealed); err != nil || string(got) != value {
						t.Errorf("%q, %v", got, err)
					}
					if id, ok := seal.KeyID(sealed); !ok || !ring.Owns(id) || !strings.HasPrefix(id, "kms:") {
						t.Errorf("key %q", id)
					}
				}
			}
		})
	}
	wrong := open(t, kms.Config{URL: "unix://" + path, TokenFile: write(t, "guess", 0o600)})
	if _, err := seal.New(wrong).Seal(t.Context(), "p", nil); !errors.HasCode(err, errors.Unavailable) {
		t.Errorf("a wrong token: %v", err)
	}
	strange := open(t, kms.Config{URL: secure.URL})
	if _, err := seal.New(strange).Seal(t.Context(), "p", nil); !errors.HasCode(err, errors.Unavailable) {
		t.Errorf("a certificate that nobody vouches for: %v", err)
	}
}

// A service that is killed makes calls unavailable; one that is back opens all
// that was sealed before, with the keys that it has rotated since.
func TestOutageAndRotation(t *testing.T) {
	t.Parallel()
	ctx, s, path := t.Context(), newService(), socket(t)
	srv := onSocket(t, s, path)
	ring := open(t, kms.Config{URL: "unix://" + path})
	sealed, err := seal.New(ring).Seal(ctx, "p", []byte("v"))
	if err != nil {
		t.Fatal(err)
	}
	_ = srv.Close()
	_ = os.Remove(path)
	for what, err := range map[string]error{
		"seal": func() error { _, err := seal.New(ring).Seal(ctx, "p", nil); return err }(),
		"open": func() error { _, err := seal.New(ring).Open(ctx, "p", sealed); return err }(),
	} {
		var e *errors.Error
		if !errors.As(err, &e) || e.Code != errors.Unavailable || e.RetryAfter == 0 || strings.Contains(e.Message, path) {
			t.Errorf("%s while it is away: %v", what, err)
		}
	}
	onSocket(t, s, path)
	s.rotate("projects/p/keys/2")
	if got, err := seal.New(ring).Open(ctx, "p", sealed); err != nil || string(got) != "v" {
		t.Errorf("it is back: %q, %v", got, err)
	}
	r, err := seal.NewRewrapper(ctx, ring)
	if err != nil {
		t.Fatal(err)
	}
	again, err := r.Rewrap(ctx, sealed)
	if err != nil || r.Newest() != "kms:projects/p/keys/2" || bytes.Equal(again, sealed) {
		t.Fatalf("newest %s, %v", r.Newest(), err)
	}
	s.mu.Lock()
	delete(s.keys, "projects/p/keys/1")
	s.mu.Unlock()
	if got, err := seal.New(ring).Open(ctx, "p", again); err != nil || string(got) != "v" {
		t.Errorf("without the old key: %q, %v", got, err)
	}
	if _, err := seal.New(ring).Open(ctx, "p", sealed); !errors.HasCode(err, errors.Internal) {
		t.Errorf("under the old key: %v", err)
	}
}

// What a service may answer, and how often it is then asked.
func TestAnswers(t *testing.T) {
	t.Parallel()
	status := func(code int) func(http.ResponseWriter, *http.Request, http.HandlerFunc) {
		return func(w http.ResponseWriter, _ *http.Request, _ http.HandlerFunc) { w.WriteHeader(code) }
	}
	body := func(text string) func(http.ResponseWriter, *http.Request, http.HandlerFunc) {
		return func(w http.ResponseWriter, _ *http.Request, _ http.HandlerFunc) { _, _ = io.WriteString(w, text) }
	}
	wrapOnly := func(f func(q message) message) func(http.ResponseWriter, *http.Request, http.HandlerFunc) {
		return func(w http.ResponseWriter, r *http.Request, next http.HandlerFunc) {
			if filepath.Base(r.URL.Path) != "wrap" {
				next(w, r)
				return
			}
			var q message
			_ = json.NewDecoder(r.Body).Decode(&q)
			_ = json.NewEncoder(w).Encode(f(q))
		}
	}
	for name, c := range map[string]struct {
		answer func(http.ResponseWriter, *http.Request, http.HandlerFunc)
		asked  int
	}{
		"busy":               {status(http.StatusServiceUnavailable), 3},
		"slow down":          {status(http.StatusTooManyRequests), 3},
		"broken":             {status(http.StatusInternalServerError), 3},
		"forbidden":          {status(http.StatusForbidden), 1},
		"nothing there":      {status(http.StatusNotFound), 1},
		"no content":         {status(http.StatusNoContent), 1},
		"not JSON":           {body("<html>"), 1},
		"empty":              {body("{}"), 1},
		"too long":           {body(`{"key_id":"` + strings.Repeat("k", 20<<10) + `"}`), 1},
		"a key's odd name":   {wrapOnly(func(q message) message { return message{KeyID: "a b", Wrapped: []byte("w")} }), 1},
		"a key's long name":  {wrapOnly(func(q message) message { return message{KeyID: strings.Repeat("k", 129), Wrapped: []byte("w")} }), 1},
		"wrapped too long":   {wrapOnly(func(q message) message { return message{KeyID: "k", Wrapped: make([]byte, 1025)} }), 1},
		"in clear":           {wrapOnly(func(q message) message { return message{KeyID: "k", Wrapped: append([]byte("x"), q.DataKey...)} }), 1},
		"wrapped by another": {wrapOnly(func(q message) message { return message{KeyID: "k", Wrapped: []byte("nonsense")} }), 2},
		"redirected": {func(w http.ResponseWriter, r *http.Request, _ http.HandlerFunc) {
			http.Redirect(w, r, "/else/wrap", http.StatusTemporaryRedirect)
		}, 1},
		"cut off": {func(w http.ResponseWriter, _ *http.Request, _ http.HandlerFunc) {
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, "{")
		}, 3},
		"hangs": {func(_ http.ResponseWriter, r *http.Request, _ http.HandlerFunc) {
			_, _ = io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
		}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newService()
			s.answer = c.answer
			srv := httptest.NewServer(s)
			t.Cleanup(srv.Close)
			timeout := time.Minute
			if name == "hangs" {
				timeout = 50 * time.Millisecond
			}
			_, err := seal.New(open(t, kms.Config{URL: srv.URL, Timeout: timeout})).Seal(t.Context(), "p", []byte("v"))
			if !errors.HasCode(err, errors.Unavailable) {
				t.Errorf("%v", err)
			}
			// An attempt may time out before the service sees it.
			if n := s.count(); n != c.asked && (name != "hangs" || n > c.asked) {
				t.Errorf("asked %d times, want %d", n, c.asked)
			}
		})
	}
}

// One bad moment is not told to anybody.
func TestAnotherAttempt(t *testing.T) {
	t.Parallel()
	s := newService()
	bad := 2
	s.answer = func(w http.ResponseWriter, r *http.Request, next http.HandlerFunc) {
		s.mu.Lock()
		bad--
		now := bad
		s.mu.Unlock()
		if now >= 0 {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		next(w, r)
	}
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	ring := open(t, kms.Config{URL: srv.URL})
	if _, err := seal.New(ring).Seal(t.Context(), "p", nil); err != nil {
		t.Fatal(err)
	}
}

// A liar that unwraps to another key is found out before anything is sealed.
func TestALyingService(t *testing.T) {
	t.Parallel()
	s := newService()
	s.answer = func(w http.ResponseWriter, r *http.Request, next http.HandlerFunc) {
		if filepath.Base(r.URL.Path) == "unwrap" {
			_ = json.NewEncoder(w).Encode(message{DataKey: make([]byte, 32)})
			return
		}
		next(w, r)
	}
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	if _, err := seal.New(open(t, kms.Config{URL: srv.URL})).Seal(t.Context(), "p", nil); !errors.HasCode(err, errors.Unavailable) {
		t.Errorf("%v", err)
	}
}

func TestWhoeverStopsWaiting(t *testing.T) {
	t.Parallel()
	s, reached := newService(), make(chan struct{}, 100)
	s.answer = func(_ http.ResponseWriter, r *http.Request, _ http.HandlerFunc) {
		_, _ = io.Copy(io.Discard, r.Body)
		reached <- struct{}{}
		<-r.Context().Done()
	}
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	ring := open(t, kms.Config{URL: srv.URL, Timeout: time.Hour})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 20)
	for range 20 { // more than may ask at once
		go func() { _, err := seal.New(ring).Seal(ctx, "p", nil); done <- err }()
	}
	<-reached
	cancel()
	for range 20 {
		if err := <-done; !errors.HasCode(err, errors.Canceled) {
			t.Errorf("%v", err)
		}
	}
	if n := s.count(); n > 8 {
		t.Errorf("%d questions at once", n)
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kms.Config
		field string
	}{
		{kms.Config{}, "url"},
		{kms.Config{URL: "https://h", Command: []string{"/bin/true"}}, "url"},
		{kms.Config{URL: "http://192.0.2.1/x"}, "url"},
		{kms.Config{URL: "http://localhost.example/x"}, "url"},
		{kms.Config{URL: "https://user:pw@h/"}, "url"},
		{kms.Config{URL: "https://h/?a=b"}, "url"},
		{kms.Config{URL: "https:///x"}, "url"},
		{kms.Config{URL: "unix://relative"}, "url"},
		{kms.Config{URL: "ftp://h"}, "url"},
		{kms.Config{URL: "%zz"}, "url"},
		{kms.Config{URL: "https://h", CAFile: "/absent"}, "ca_file"},
		{kms.Config{URL: "https://h", CAFile: write(t, "nonsense", 0o600)}, "ca_file"},
		{kms.Config{URL: "https://h", TokenFile: "/absent"}, "token_file"},
		{kms.Config{URL: "https://h", TokenFile: write(t, "t", 0o644)}, "token_file"},
		{kms.Config{URL: "https://h", TokenFile: write(t, " \n", 0o600)}, "token_file"},
		{kms.Config{Command: []string{"true"}}, "command"},
		{kms.Config{Command: []string{"/absent/program"}}, "command"},
	} {
		_, err := kms.Open(c.Config)
		var e *errors.Error
		if !errors.As(err, &e) || e.Code != errors.InvalidArgument || e.Field != c.field {
			t.Errorf("%+v: %v", c.Config, err)
		} else if strings.Contains(err.Error(), "pw") {
			t.Errorf("the password shows: %v", err)
		}
	}
}

// The program of the command tests is this test's own.
func TestMain(m *testing.M) {
	if mode := os.Getenv("KMS_TEST_MODE"); mode != "" {
		os.Exit(program(mode, os.Args[len(os.Args)-1]))
	}
	os.Exit(m.Run())
}

func helper() []string {
	exe, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return []string{exe, "an argument"}
}

func helperEnv(mode string, more ...string) []string {
	return append([]string{"KMS_TEST_MODE=" + mode, "GORACE=atexit_sleep_ms=0"}, more...)
}

func program(mode, what string) int {
	var q message
	if err := json.NewDecoder(os.Stdin).Decode(&q); err != nil || len(os.Args) != 3 {
		return 2
	}
	switch mode {
	case "serve":
		a, status := handle(map[string]cipher.AEAD{"k": aead(bytes.Repeat([]byte{7}, 32))}, "k", what, q)
		if status == http.StatusNotFound {
			return 65
		}
		_ = json.NewEncoder(os.Stdout).Encode(a)
		return 0
	case "later", "never":
		f, err := os.OpenFile(os.Getenv("COUNT"), os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o600)
		if err != nil {
			return 2
		}
		_, _ = f.WriteString("x")
		fmt.Fprintln(os.Stderr, "out of order")
		return map[string]int{"later": 75, "never": 1}[mode]
	case "chatty":
		_, _ = os.Stdout.Write(bytes.Repeat([]byte("x"), 1<<20))
		return 0
	case "leaves":
		// A process of its own that keeps our pipes and holds a lock while it lives.
		lock, err := os.OpenFile(os.Getenv("LOCK"), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil || syscall.Flock(int(lock.Fd()), syscall.LOCK_EX) != nil {
			return 2
		}
		p, err := os.StartProcess("/bin/sleep", []string{"sleep", "1000"}, &os.ProcAttr{Files: []*os.File{nil, os.Stdout, os.Stderr, lock}})
		if err != nil {
			return 2
		}
		_ = p.Release()
		if os.Getenv("HANG") != "" {
			select {}
		}
		return 1
	}
	return 2
}

func TestProgram(t *testing.T) {
	t.Parallel()
	for mode, asked := range map[string]int{"later": 3, "never": 1} {
		count := filepath.Join(t.TempDir(), "count")
		ring := open(t, kms.Config{Command: helper(), Env: helperEnv(mode, "COUNT="+count)})
		_, err := seal.New(ring).Seal(t.Context(), "p", nil)
		if !errors.HasCode(err, errors.Unavailable) || !strings.Contains(err.Error(), "out of order") || strings.Contains(errors.Public(err).Message, "out of order") {
			t.Errorf("%s: %v", mode, err)
		}
		if text, _ := os.ReadFile(count); len(text) != asked {
			t.Errorf("%s: run %d times, want %d", mode, len(text), asked)
		}
	}
	chatty := open(t, kms.Config{Command: helper(), Env: helperEnv("chatty")})
	if _, err := seal.New(chatty).Seal(t.Context(), "p", nil); !errors.HasCode(err, errors.Unavailable) {
		t.Errorf("a megabyte of an answer: %v", err)
	}
	good := open(t, kms.Config{Command: helper(), Env: helperEnv("serve")})
	if _, err := good.Unwrap(t.Context(), "kms:k", []byte("nonsense")); !errors.HasCode(err, errors.Internal) {
		t.Errorf("what it did not wrap: %v", err)
	}
	if _, err := good.Unwrap(t.Context(), "0123456789abcdef", []byte("w")); !errors.HasCode(err, errors.Internal) {
		t.Errorf("another source's key: %v", err)
	}
}

// What a program leaves running ends with it, whether it ends or is ended.
func TestProgramLeavesNothing(t *testing.T) {
	t.Parallel()
	for name, env := range map[string][]string{"ends": nil, "hangs": {"HANG=1"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lock := filepath.Join(t.TempDir(), "lock")
			timeout := time.Minute
			if name == "hangs" {
				timeout = 300 * time.Millisecond
			}
			ring := open(t, kms.Config{Command: helper(), Env: helperEnv("leaves", append(env, "LOCK="+lock)...), Timeout: timeout})
			if _, err := seal.New(ring).Seal(t.Context(), "p", nil); !errors.HasCode(err, errors.Unavailable) {
				t.Errorf("%v", err)
			}
			f, err := os.OpenFile(lock, os.O_RDWR|os.O_CREATE, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = f.Close() }()
			// It is to be had once nothing of the program lives; else this waits for ever.
			if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
				t.Error(err)
			}
		})
	}
}
