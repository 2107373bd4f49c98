package fleet

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/aetherium/aetherium/tests/internal/server"
)

// sandboxes asks a gateway of a fleet as E2B's SDKs do.
type sandboxes struct {
	*field
	by *server.Server
}

// sandbox is one as the SDKs know it.
type sandbox struct {
	ID      string `json:"sandboxID"`
	Token   string `json:"envdAccessToken"`
	State   string `json:"state"`
	Message string `json:"message"`
}

func sandboxesOf(f *field, by *server.Server) sandboxes { return sandboxes{f, by} }

// ask does a request, and gives the answer's status and body.
func (s sandboxes) ask(method, path, body string, header map[string]string) (int, []byte) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.ctx, method, s.by.URL+path, strings.NewReader(body))
	must(s.t, err)
	for name, value := range header {
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(req)
	must(s.t, err)
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	must(s.t, err)
	return resp.StatusCode, text
}

// control asks the control plane, and checks the answer's status.
func (s sandboxes) control(status int, method, path, body string, into any) {
	s.t.Helper()
	got, text := s.ask(method, "/e2b"+path, body, map[string]string{"X-Api-Key": s.by.Key})
	if got != status {
		s.t.Errorf("%s %s: %d, want %d: %s", method, path, got, status, text)
		return
	}
	if into != nil {
		must(s.t, json.Unmarshal(text, into))
	}
}

func (s sandboxes) create(template string) (made sandbox) {
	s.t.Helper()
	s.control(201, http.MethodPost, "/v2/sandboxes", `{"templateID":"`+template+`","timeout":600}`, &made)
	return made
}

func (s sandboxes) kill(b sandbox) {
	s.t.Helper()
	s.control(204, http.MethodDelete, "/sandboxes/"+b.ID, "", nil)
}

// cannotBeReached is what is told of a sandbox that is there, but not now.
const cannotBeReached = "The sandbox cannot be reached now"

// agent asks a sandbox's agent, and gives what it is told instead of an answer.
func (s sandboxes) agent(b sandbox, method, path string) string {
	s.t.Helper()
	var told sandbox
	status, text := s.ask(method, path, "{}", map[string]string{"Content-Type": "application/json", "E2b-Sandbox-Id": b.ID, "X-Access-Token": b.Token})
	must(s.t, json.Unmarshal(text, &told))
	// SDKs take 502 of /health for a sandbox that is gone, whatever it says.
	if away := path == "/health" && told.Message == cannotBeReached; status != http.StatusBadGateway && !away || away && status != http.StatusServiceUnavailable {
		s.t.Errorf("%s: %d %s", path, status, text)
	}
	return told.Message
}

// whileAway checks what is told of a sandbox whose worker is away, and of one
// that was killed meanwhile: the one is there, the other is gone, and no client
// takes one for the other.
func (s sandboxes) whileAway(there, killed sandbox) {
	s.t.Helper()
	var info, again sandbox
	s.control(200, http.MethodGet, "/sandboxes/"+there.ID, "", &info)
	if info.State != "running" {
		s.t.Errorf("it is told to be %s", info.State)
	}
	// Its client keeps it, for when its worker is back.
	s.control(200, http.MethodPost, "/v2/sandboxes/"+there.ID+"/connect", `{"timeout":700}`, &again)
	if again.ID != there.ID || again.Token != there.Token {
		s.t.Errorf("connecting: %+v", again)
	}
	var list []sandbox
	s.control(200, http.MethodGet, "/v2/sandboxes?state=running", "", &list)
	ids := map[string]bool{}
	for _, b := range list {
		ids[b.ID] = true
	}
	if !ids[there.ID] || ids[killed.ID] {
		s.t.Errorf("%v are listed, want %s and not %s", ids, there.ID, killed.ID)
	}
	for method, path := range map[string]string{http.MethodGet: "/health", http.MethodPost: "/process.Process/List"} {
		if told := s.agent(there, method, path); told != cannotBeReached {
			s.t.Errorf("%s: %s", path, told)
		}
		if told := s.agent(killed, method, path); told != "The sandbox was not found" {
			s.t.Errorf("%s of the other: %s", path, told)
		}
	}
	status, text := s.ask(http.MethodGet, "/", "", map[string]string{"E2b-Sandbox-Id": there.ID, "E2b-Sandbox-Port": "8080"})
	if status != http.StatusServiceUnavailable || !strings.Contains(string(text), cannotBeReached) {
		s.t.Errorf("a server in it: %d %s", status, text)
	}
	s.control(404, http.MethodGet, "/sandboxes/"+killed.ID, "", nil)
	s.control(404, http.MethodDelete, "/sandboxes/"+killed.ID, "", nil)
}

// isGone waits until a worker has done what was asked for while it was away.
func (s sandboxes) isGone(b sandbox) {
	s.t.Helper()
	for {
		now, err := s.client(s.by).VM(s.ctx, b.ID)
		must(s.t, err)
		if now.State == "deleted" {
			return
		}
		must(s.t, s.ctx.Err())
		time.Sleep(50 * time.Millisecond)
	}
}
