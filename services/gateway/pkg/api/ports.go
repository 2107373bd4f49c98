package api

import (
	"context"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-chi/chi/v5"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/gateway/pkg/auth"
	"github.com/aetherium/aetherium/services/gateway/pkg/middleware"
	"github.com/aetherium/aetherium/services/gateway/pkg/proxy"
)

type (
	// PortInput names a port of a VM.
	PortInput struct {
		VMPath
		Port int `path:"port" minimum:"1" maximum:"65535" doc:"TCP port in the VM"`
	}
	linkInput struct {
		PortInput
		KeyHeader
		Body *wire.CreateLink
	}
)

// forwardRoute is what clients that send headers reach servers in VMs by.
const forwardRoute = "/vms/{vm}/ports/{port}/*"

func (a *API) portRoutes(r chi.Router) {
	const tag = "Ports"
	get := operation("get-port", http.MethodGet, "/vms/{vm}/ports/{port}", tag, "How a port is reached from outside", "")
	get.Responses = map[string]*huma.Response{"200": jsonOf[wire.Port](a, "Its address and token")}
	register(a, get, options{scope: domain.ScopeRun}, a.getPort)

	link := operation("create-link", http.MethodPost, "/vms/{vm}/ports/{port}/links", tag, "Make a one-time link to a preview",
		"The first browser that opens it may see the preview from then on, for a day.")
	link.Responses = map[string]*huma.Response{"201": jsonOf[wire.Link](a, "The link")}
	register(a, link, options{scope: domain.ScopeRun}, a.createLink)

	r.Handle(forwardRoute, auth.RequireScope(domain.ScopeRun, http.HandlerFunc(a.forward)))
	forward := operation("forward-port", http.MethodGet, "/vms/{vm}/ports/{port}/{path}", tag, "Reach a server in a VM",
		"Any of HTTP's methods (RFC 9110) but CONNECT and TRACE, PATCH as well, any path, WebSocket and server-sent events included. Credentials and cookies do not pass, and no answer is run by a browser: for pages there are previews.")
	str, num := &huma.Schema{Type: huma.TypeString}, &huma.Schema{Type: huma.TypeInteger}
	forward.Parameters = []*huma.Param{
		{Name: "vm", In: "path", Required: true, Schema: str, Description: "ID or name of a VM"},
		{Name: "port", In: "path", Required: true, Schema: num, Description: "TCP port in the VM"},
		{Name: "path", In: "path", Required: true, Schema: str, Description: "Path there; may hold slashes"},
	}
	forward.Responses = map[string]*huma.Response{"default": {Description: "What the server in the VM answers; a problem with 502 when none answers, with the API's usual status when the VM is the reason"}}
	a.needs(&forward, domain.ScopeRun)
	forward.Security = []map[string][]string{{"bearer": {}}, {"key": {}}}
	a.huma.OpenAPI().AddOperation(&forward)
}

// target finds a port of a VM of the caller's. DialPort asks no caller, so
// whose VM it is has to be asked here.
func (a *API) target(ctx context.Context, vm string, port int) (vmm.Caller, proxy.Target, error) {
	by := auth.CallerFrom(ctx)
	found, err := a.VMs.ResolveVM(ctx, by, vm)
	if err != nil {
		return by, proxy.Target{}, err
	}
	return by, proxy.Target{VM: found.ID, Port: uint16(port)}, nil
}

func (a *API) getPort(ctx context.Context, in *PortInput) (*huma.StreamResponse, error) {
	by, t, err := a.target(ctx, in.VM, in.Port)
	if err != nil {
		return nil, err
	}
	token, err := a.VMs.VMPreviewToken(ctx, by, t.VM)
	if err != nil {
		return nil, err
	}
	return streaming(func(w http.ResponseWriter, r *http.Request) error {
		w.Header().Set("Cache-Control", "no-store")
		return writeJSON(w, http.StatusOK, wire.Port{Port: int(t.Port), URL: a.Proxy.URL(r, t), Token: token})
	}), nil
}

func (a *API) createLink(ctx context.Context, in *linkInput) (*huma.StreamResponse, error) {
	by, t, err := a.target(ctx, in.VM, in.Port)
	if err != nil {
		return nil, err
	}
	// A link to a VM that has ended would promise what nobody keeps.
	token, err := a.VMs.VMPreviewToken(ctx, by, t.VM)
	if err != nil {
		return nil, err
	}
	return streaming(func(w http.ResponseWriter, r *http.Request) error {
		link, err := a.Proxy.NewLink(r, t, token, fromMS(given(in.Body).TTLMS))
		if err != nil {
			return err
		}
		w.Header().Set("Cache-Control", "no-store")
		return writeJSON(w, http.StatusCreated, link)
	}), nil
}

// forward passes a request of any kind on to a server in a VM. It is a plain
// handler: its paths and methods are the guest's.
func (a *API) forward(w http.ResponseWriter, r *http.Request) {
	if rec := middleware.RecordOf(r.Context()); rec != nil {
		rec.Route = "/vms/{vm}/ports/{port}/{path}"
	}
	// Neither means anything to a server behind a proxy (RFC 9110 §9.3.6, §9.3.8).
	if r.Method == http.MethodTrace || r.Method == http.MethodConnect {
		MethodNotAllowed(w, r)
		return
	}
	port, ok := proxy.ParsePort(chi.URLParam(r, "port"))
	if !ok {
		writeProblem(w, errors.New(errors.InvalidArgument, "a port is a number from 1 to 65535").WithField("path.port"))
		return
	}
	_, t, err := a.target(r.Context(), chi.URLParam(r, "vm"), int(port))
	if err != nil {
		writeProblem(w, err)
		return
	}
	// BasePath, vms, {vm}, ports, {port}: the rest is the guest's, byte for byte.
	path := r.URL.EscapedPath()
	at := len(wire.BasePath)
	for range 4 {
		next := strings.IndexByte(path[at+1:], '/')
		if next < 0 {
			writeProblem(w, errors.New(errors.NotFound, "there is nothing at this path"))
			return
		}
		at += 1 + next
	}
	w.Header().Del("Cache-Control") // the proxy sets them; twice would be a mess
	middleware.Insecure(w.Header())
	a.Proxy.ServePath(w, r, t, path[:at], path[at:])
}
