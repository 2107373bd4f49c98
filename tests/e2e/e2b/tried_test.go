package e2b

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/tests/internal/sdk"
	"github.com/aetherium/aetherium/tests/internal/server"
)

// caller asks a server as the SDKs do.
type caller struct {
	t        *testing.T
	url, key string
}

func calls(t *testing.T, s *server.Server) caller {
	t.Helper()
	c := caller{t: t}
	for _, kv := range sdk.Plain(t, s) {
		switch name, value, _ := strings.Cut(kv, "="); name {
		case "E2B_API_URL":
			c.url = value
		case "E2B_API_KEY":
			c.key = value
		}
	}
	return c
}

func (c caller) ask(method, path, body string, into any) int {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 5*time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, c.url+path, bytes.NewReader([]byte(body)))
	must(c.t, err)
	req.Header.Set("X-Api-Key", c.key)
	resp, err := http.DefaultClient.Do(req)
	must(c.t, err)
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	must(c.t, err)
	if into != nil {
		if err := json.Unmarshal(text, into); err != nil {
			c.t.Fatalf("%s %s: %d %s", method, path, resp.StatusCode, text)
		}
	}
	return resp.StatusCode
}

// built builds a template to its end, and gives its state and its log.
func (c caller) built(name, body string) (state, log string) {
	c.t.Helper()
	var made struct {
		BuildID string `json:"buildID"`
	}
	c.ask(http.MethodPost, "/v3/templates", `{"name":"`+name+`","cpuCount":1,"memoryMB":512}`, &made)
	at := "/templates/" + name + "/builds/" + made.BuildID
	if status := c.ask(http.MethodPost, "/v2"+at, body, nil); status != http.StatusAccepted {
		c.t.Fatalf("%s: %d", name, status)
	}
	poll := time.NewTicker(100 * time.Millisecond)
	defer poll.Stop()
	end := time.After(5 * time.Minute)
	for {
		var s struct {
			Status string   `json:"status"`
			Logs   []string `json:"logs"`
		}
		c.ask(http.MethodGet, at+"/status?logsOffset=0", "", &s)
		if s.Status == "ready" || s.Status == "error" {
			return s.Status, strings.Join(s.Logs, "\n")
		}
		select {
		case <-poll.C:
		case <-end:
			c.t.Fatalf("%s is still %s", name, s.Status)
		}
	}
}

// What a template starts is tried as it is built; and one that fails in a
// sandbox all the same fails it once, with the reason.
func TestTemplatesAreTried(t *testing.T) {
	s := serve(t, wanted(t))
	c := calls(t, s)
	if state, log := c.built("broken", `{"fromTemplate":"base","startCmd":"echo because >&2; exit 3","readyCmd":"false"}`); state != "error" ||
		!strings.Contains(log, "start: because") || !strings.Contains(log, "exit code 3") {
		t.Errorf("one that fails is %s:\n%s", state, log)
	}
	// It knows a build's machine from a sandbox by what the sandbox was given.
	state, log := c.built("fickle", `{"fromTemplate":"base","startCmd":"test -z \"$BREAK\" || { echo broken by request; exit 4; }; exec sleep 1000","readyCmd":"test -z \"$BREAK\""}`)
	if state != "ready" {
		t.Fatalf("one that is well is %s:\n%s", state, log)
	}
	if status := c.ask(http.MethodPost, "/v2/sandboxes", `{"templateID":"fickle"}`, nil); status != http.StatusCreated {
		t.Errorf("a sandbox of it: %d", status)
	}
	var failure struct {
		Message string `json:"message"`
	}
	if status := c.ask(http.MethodPost, "/v2/sandboxes", `{"templateID":"fickle","envVars":{"BREAK":"1"}}`, &failure); status != http.StatusInternalServerError ||
		!strings.Contains(failure.Message, "exit code 4 before it was ready: broken by request") {
		t.Errorf("one that its template cannot start: %d %q", status, failure.Message)
	}
	var huge struct {
		BuildID string `json:"buildID"`
	}
	c.ask(http.MethodPost, "/v3/templates", `{"name":"huge","cpuCount":1000}`, &huge)
	if status := c.ask(http.MethodPost, "/v2/templates/huge/builds/"+huge.BuildID, `{"fromTemplate":"base"}`, &failure); status != http.StatusBadRequest ||
		!strings.Contains(failure.Message, "large enough") {
		t.Errorf("one that no worker has room for: %d %q", status, failure.Message)
	}
	sdk.Explain(t, s)
}
