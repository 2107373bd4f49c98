package proxy

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/guest/signature"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/gateway/pkg/middleware"
	"github.com/aetherium/aetherium/services/gateway/pkg/problem"
)

// The paths of a guest agent that are its clients'. All else it serves, such
// as /init and what a host does with a machine, is the host's alone.
const (
	pathProcess    = "/process.Process/"
	pathFilesystem = "/filesystem.Filesystem/"
	pathFiles      = "/files"
	pathHealth     = "/health"
	pathMetrics    = "/metrics"
	pathEnvs       = "/envs"
)

// ServeSandbox answers a request for a port of a VM as clients of E2B's kind
// make it: their agent's, or a server's, with the errors that they know.
func (p *Proxy) ServeSandbox(w http.ResponseWriter, r *http.Request, t Target) {
	if t.Port == vmm.AgentPort {
		p.ServeAgent(w, r, t.VM)
		return
	}
	if rec := middleware.RecordOf(r.Context()); rec != nil {
		rec.Route = "sandbox"
	}
	if shown, ok := p.admit(w, r, t); ok {
		p.serve(w, r, r.URL, toPreview(t, shown), p.sandbox)
	}
}

// ServeAgent answers a request for what a VM's guest agent serves its clients.
// Who may ask is decided here, before anything is woken: the agent itself
// serves all that connects.
func (p *Proxy) ServeAgent(w http.ResponseWriter, r *http.Request, vm domain.ID) {
	if rec := middleware.RecordOf(r.Context()); rec != nil {
		rec.Route = "agent"
	}
	t := Target{VM: vm, Port: vmm.AgentPort}
	path := r.URL.Path
	switch {
	case path == pathHealth:
		p.health(w, r, t)
		return
	case path == pathFiles, path == pathMetrics, path == pathEnvs:
	case strings.HasPrefix(path, pathProcess), strings.HasPrefix(path, pathFilesystem):
	default:
		answerSandbox(w, http.StatusNotFound, errors.New(errors.NotFound, "the path is not one of the sandbox's agent"), sandboxError{Code: http.StatusNotFound, Message: "not found"})
		return
	}
	change, changes := p.changes[r.Method+" "+path]
	if !changes {
		p.passOn(w, r, t, nil)
		return
	}
	p.trail.Within(agentWriter{w, path}, r, change.operation, vm, func(w http.ResponseWriter, r *http.Request) {
		p.passOn(w, r, t, func(by vmm.Caller) error { return p.trail.Admit(r.Context(), by, change.input) })
	})
}

// passOn has an agent answer a request, if it may be made; admitted is told whose
// it is before.
func (p *Proxy) passOn(w http.ResponseWriter, r *http.Request, t Target, admitted func(by vmm.Caller) error) {
	r, by, err := p.admitClient(r, t.VM)
	switch {
	case errors.HasCode(err, errors.Unauthenticated):
		refuseClient(w, r, err)
		return
	case err != nil:
		unreached(w, r, t, err)
		return
	}
	if admitted != nil {
		if err := admitted(by); err != nil {
			problem.Write(w, err)
			return
		}
	}
	p.serve(w, r, r.URL, destination{Target: t}, p.agent)
}

// change is something that is done in a VM by its agent. input is what a command
// that runs is sent.
type change struct {
	operation string // of the API, as the audit log has it
	input     bool
}

// agentChanges are the requests to agents that change something; the others
// only look.
func agentChanges() map[string]change {
	const post = http.MethodPost + " "
	return map[string]change{
		post + pathProcess + "Start":       {operation: "start-execution"},
		post + pathProcess + "SendSignal":  {operation: "signal-execution"},
		post + pathProcess + "SendInput":   {operation: "write-stdin", input: true},
		post + pathProcess + "StreamInput": {operation: "write-stdin", input: true},
		post + pathProcess + "CloseStdin":  {operation: "close-stdin", input: true},
		post + pathProcess + "Update":      {operation: "resize-execution", input: true},
		post + pathFilesystem + "MakeDir":  {operation: "make-dir"},
		post + pathFilesystem + "Move":     {operation: "move-file"},
		post + pathFilesystem + "Remove":   {operation: "remove-file"},
		post + pathFiles:                   {operation: "write-file"},
	}
}

// Whose requests to agents are: nobody in particular shows them, and no key or
// user has a name with a space.
const (
	byAgentToken = "agent token"
	bySignature  = "signed URL"
)

// admitClient checks that a request to an agent shows its token, or for one
// file, a signature; with that alone it is nobody else's request than its
// query says. Returns Unauthenticated, NotFound, Gone.
func (p *Proxy) admitClient(r *http.Request, vm domain.ID) (*http.Request, vmm.Caller, error) {
	access, err := p.vms.AgentAccess(r.Context(), vm)
	if err != nil {
		return r, vmm.Caller{}, err
	}
	if access.Token == "" {
		return r, vmm.Caller{}, errors.New(errors.Internal, "the VM's agent has no token")
	}
	if given := r.Header.Get(wire.HeaderE2BAgentToken); given != "" {
		if subtle.ConstantTimeCompare([]byte(given), []byte(access.Token)) == 1 {
			return r, vmm.Caller{ProjectID: access.ProjectID, Name: byAgentToken}, nil
		}
		return r, vmm.Caller{}, errors.New(errors.Unauthenticated, "the access token is wrong")
	}
	if r.URL.Path != pathFiles {
		return r, vmm.Caller{}, errors.New(errors.Unauthenticated, "the access token is missing")
	}
	op := signature.Read
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		op = signature.Write
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return r, vmm.Caller{}, errors.Wrap(err, errors.Unauthenticated, "the query cannot be read")
	}
	if err := signature.Check(query, op, access.Token, p.now()); err != nil {
		return r, vmm.Caller{}, err
	}
	r = r.Clone(r.Context())
	r.Header.Del("Authorization") // would name another user
	return r, vmm.Caller{ProjectID: access.ProjectID, Name: bySignature}, nil
}

// health says whether a VM's agent can be reached, and wakes nothing.
func (p *Proxy) health(w http.ResponseWriter, r *http.Request, t Target) {
	ctx, cancel := context.WithTimeout(r.Context(), dialTimeout)
	defer cancel()
	conn, err := p.vms.DialAgent(ctx, t.VM, false)
	if err != nil {
		unreached(w, r, t, err)
		return
	}
	_ = conn.Close()
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusNoContent)
}

// rewriteAgent makes the request that an agent gets: the client's own, whose
// Basic credentials name an OS user.
func rewriteAgent(pr *httputil.ProxyRequest) {
	address(pr)
	h := pr.Out.Header
	for _, name := range ourHeaders {
		h.Del(name)
	}
	h.Del(wire.HeaderE2BAgentToken)
	stripKeys(h)
	h.Del("Cookie")
	pr.Out.Host = "localhost"
}

// cleanAgent keeps what an agent says to what is its to say: it is as little
// trusted as all in a VM.
func cleanAgent(resp *http.Response) error {
	if err := cleanPreview(resp); err != nil {
		return err
	}
	resp.Header.Del("Set-Cookie")
	resp.Header.Set("X-Content-Type-Options", "nosniff")
	resp.Header.Set("Content-Security-Policy", "sandbox")
	return nil
}

// sandboxError is how clients of E2B's kind want to be told.
type sandboxError struct {
	SandboxID string `json:"sandboxId,omitempty"`
	Message   string `json:"message"`
	Port      uint16 `json:"port,omitempty"`
	Code      int    `json:"code"`
}

// failSandbox answers for a request that could not be passed on.
func failSandbox(w http.ResponseWriter, r *http.Request, err error) {
	d, _ := r.Context().Value(destinationKey{}).(destination)
	unreached(w, r, d.Target, err)
}

// unreached answers for a VM or a port that cannot be reached, as clients of
// E2B's kind know it. To them a sandbox that was not found is gone, and one that
// is there but cannot be reached, as its worker is away, is worth another try:
// 502 of /health is gone to all of them, whatever it says, while 502 of the rest
// is what those know who can tell the one from the other.
func unreached(w http.ResponseWriter, r *http.Request, t Target, err error) {
	body := sandboxError{SandboxID: t.VM.String(), Message: "The sandbox was not found", Code: http.StatusBadGateway}
	away := errors.HasCode(err, errors.Unavailable) || errors.HasCode(err, errors.DeadlineExceeded)
	retry := errors.Public(err).RetryAfter
	switch server := t.Port != vmm.AgentPort; {
	case server && (away && retry == 0 || !coded(err)):
		body.Message, body.Port = "The sandbox is running but port is not open", t.Port
	case away:
		body.Message = "The sandbox cannot be reached now"
		if server || r.URL.Path == pathHealth {
			body.Code = http.StatusServiceUnavailable
		}
	}
	if away && retry > 0 {
		w.Header().Set("Retry-After", problem.RetryAfter(retry))
	}
	answerSandbox(w, body.Code, err, body)
}

func coded(err error) bool {
	var e *errors.Error
	return errors.As(err, &e)
}

// refuseClient answers a client whose token or signature does not count: in the
// form of the protocol that it speaks.
func refuseClient(w http.ResponseWriter, r *http.Request, err error) {
	const status = http.StatusUnauthorized
	answerSandbox(w, status, err, agentFailure(r.URL.Path, status, "unauthenticated", errors.Public(err).Message))
}

// agentFailure is the body by which a client of an agent is told of a failure:
// code is Connect's, for its calls.
func agentFailure(path string, status int, code, message string) any {
	switch path {
	case pathFiles, pathEnvs, pathMetrics:
		return sandboxError{Message: message, Code: status}
	}
	return map[string]string{"code": code, "message": message}
}

// agentWriter answers problems of ours as clients of an agent know them.
type agentWriter struct {
	http.ResponseWriter
	path string
}

// Unwrap lets others find the writer below.
func (w agentWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// RenderProblem implements problem.Renderer.
func (w agentWriter) RenderProblem(p *problem.Response) (contentType string, body []byte) {
	code := "unavailable"
	if p.Code == string(errors.NoSpace) {
		code = "resource_exhausted"
	}
	body, err := json.Marshal(agentFailure(w.path, p.Status, code, p.Detail))
	if err != nil { // cannot be: plain strings and numbers
		panic(err)
	}
	return "application/json", body
}

func answerSandbox(w http.ResponseWriter, status int, err error, body any) {
	problem.Note(w, err)
	text, merr := json.Marshal(body)
	if merr != nil { // cannot be: plain strings and numbers
		panic(merr)
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(text)
}
