package gateway

import (
	"net/http"
	"strings"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/gateway/pkg/auth"
	"github.com/aetherium/aetherium/services/gateway/pkg/e2b"
	"github.com/aetherium/aetherium/services/gateway/pkg/problem"
	"github.com/aetherium/aetherium/services/gateway/pkg/proxy"
)

// kind is whose request one is.
type kind int

const (
	nobodys   kind = iota
	noPreview      // below the preview domain, and no name that is used there
	apis
	e2bAPIs  // E2B's control plane, under a name of its own
	previews // a server in a VM, by its name
	agents   // a VM's guest agent, by its name
	sandbox  // a port of a VM, by E2B's headers
)

// Names below the preview domain that are not previews: they hold no dash
// behind a number, so no preview is called so.
const sandboxName = "sandbox" // beside e2b.Name

// whose tells a request's kind by the host that is asked for, and its target.
// A name below the preview domain is never the API's, and any other name that
// is not ours is nobody's: a page elsewhere may have made it resolve to this
// server. E2B's headers count where the name says nothing: a page elsewhere
// cannot send them.
func (g *Gateway) whose(r *http.Request) (kind, proxy.Target) {
	domainName := proxy.Domain(g.config.PreviewDomain)
	if t, below, ok := domainName.Parse(r.Host); ok {
		if t.Port == vmm.AgentPort {
			return agents, t
		}
		return previews, t
	} else if below {
		switch label, _ := strings.CutSuffix(auth.HostName(r.Host), "."+g.config.PreviewDomain); label {
		case e2b.Name:
			return e2bAPIs, t
		case sandboxName:
			if t, named := byHeaders(r); named {
				return sandbox, t
			}
		}
		return noPreview, t
	}
	if !g.hosts.Allowed(r.Host) {
		return nobodys, proxy.Target{}
	}
	if t, named := byHeaders(r); named {
		return sandbox, t
	}
	return apis, proxy.Target{}
}

// byHeaders finds the target in E2B's headers; without a port it is the agent.
// named reports whether one is meant at all: a VM that there cannot be is one
// that there is not.
func byHeaders(r *http.Request) (t proxy.Target, named bool) {
	id := r.Header.Get(wire.HeaderE2BSandbox)
	if id == "" {
		return t, false
	}
	if domain.IsID(id) {
		t.VM = domain.ID(id)
	}
	t.Port = vmm.AgentPort
	if port := r.Header.Get(wire.HeaderE2BPort); port != "" {
		t.Port, _ = proxy.ParsePort(port) // 0 is open nowhere
	}
	return t, true
}

// dispatch answers a request by its kind.
func (g *Gateway) dispatch(w http.ResponseWriter, r *http.Request) {
	switch k, t := g.whose(r); k {
	case apis:
		g.api.ServeHTTP(w, r)
	case e2bAPIs:
		g.api.ServeHTTP(w, e2b.Below(r))
	case previews:
		g.proxy.ServePreview(w, r, t)
	case agents:
		g.proxy.ServeAgent(w, r, t.VM)
	case sandbox:
		g.proxy.ServeSandbox(w, r, t)
	case noPreview:
		problem.Write(w, errors.New(errors.NotFound, "this is not the name of a preview").WithHint("<port>-<vm id>.%s", g.config.PreviewDomain))
	default:
		problem.Write(w, errors.New(errors.PermissionDenied, "this server does not answer under this name").
			WithHint("use localhost or the server's address, or configure the name as one of the API's hosts"))
	}
}
