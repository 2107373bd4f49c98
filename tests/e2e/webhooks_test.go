package e2e

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	standard "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/pkg/client"
)

// What happens is told to a receiver that knows Standard Webhooks alone, and told
// again with the same ID by the server that comes after one that was killed.
func TestWebhooksOutliveTheServer(t *testing.T) {
	t.Parallel()
	s := own(t, "AETHERIUM_POOL_SIZE=0", "AETHERIUM_WEBHOOKS_ALLOW=127.0.0.0/8")
	type message struct {
		header http.Header
		body   []byte
	}
	var well atomic.Bool
	received := make(chan message, 100)
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // the server was killed
		}
		if !well.Load() {
			w.WriteHeader(http.StatusInternalServerError)
		}
		received <- message{r.Header, body}
	}))
	t.Cleanup(receiver.Close)
	next := func() message {
		t.Helper()
		select {
		case m := <-received:
			return m
		case <-limited(t).Done():
			t.Fatalf("nothing was received:\n%s", s.Log())
			return message{}
		}
	}
	secret, err := s.CLI(limited(t), "webhook", "create", receiver.URL, "--event", "execution.exited")
	if err != nil {
		t.Fatal(err)
	}
	c, err := s.Client()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	hooks, err := client.Collect(c.Webhooks(limited(t), client.Page{}))
	if err != nil || len(hooks) != 1 {
		t.Fatalf("%+v, %v", hooks, err)
	}
	if _, err := s.CLI(limited(t), "run", "--network", "none", "--", "sh", "-c", "exit 3"); err == nil {
		t.Fatal("the command has not failed")
	}
	first := next()
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	well.Store(true)
	if err := s.EndClaims(limited(t), hooks[0].ID); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(limited(t)); err != nil {
		t.Fatal(err)
	}
	second := next()
	verifier, err := standard.NewWebhook(strings.TrimSpace(secret))
	if err != nil {
		t.Fatal(err)
	}
	if err := verifier.Verify(second.body, second.header); err != nil {
		t.Error(err)
	}
	var told struct {
		Type string
		Data struct {
			ExitCode int `json:"exit_code"`
		}
	}
	if err := json.Unmarshal(second.body, &told); err != nil || told.Type != "execution.exited" || told.Data.ExitCode != 3 {
		t.Errorf("told %s, %v", second.body, err)
	}
	if id := first.header.Get(api.HeaderWebhookID); id == "" || id != second.header.Get(api.HeaderWebhookID) || string(first.body) != string(second.body) {
		t.Errorf("told %v %s, then %v %s", first.header, first.body, second.header, second.body)
	}
}
