// Package gateway puts the gateway together: one handler for the API, its
// documentation and previews of VMs, told apart by the host they are asked
// for, and the server that serves it.
package gateway

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/pkg/queue"
	"github.com/aetherium/aetherium/services/core/pkg/serverlog"
	"github.com/aetherium/aetherium/services/core/pkg/tracing"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/gateway/pkg/api"
	"github.com/aetherium/aetherium/services/gateway/pkg/auth"
	"github.com/aetherium/aetherium/services/gateway/pkg/e2b"
	"github.com/aetherium/aetherium/services/gateway/pkg/limit"
	"github.com/aetherium/aetherium/services/gateway/pkg/proxy"
)

// Defaults of [Config].
const (
	DefaultAddress       = "127.0.0.1:7300"
	DefaultPreviewDomain = "aeth.localhost"
	DefaultStall         = 2 * time.Minute
	DefaultStopGrace     = 10 * time.Second
	DefaultHeaderTimeout = 10 * time.Second
	DefaultBodyTimeout   = time.Minute

	DefaultMaxConns           = 16384
	DefaultMaxConnsPerAddress = 1024
)

// Config is what an operator may set. The zero value is a server for this
// machine alone.
type Config struct {
	// Address to listen on; default DefaultAddress. Without a host it is
	// loopback: to be reached from elsewhere, say so, as in 0.0.0.0:7300.
	Address string
	// TLS, if set, is served at TLSAddress beside plain HTTP or, where that is
	// empty, at Address instead of it.
	TLS *tls.Config
	// TLSAddress is listened on for TLS; as Address, it is loopback without a host.
	TLSAddress string
	// TLSElsewhere has another port of the host taken where that of TLSAddress is
	// not free.
	TLSElsewhere bool
	// Hosts are the names under which the API answers, beside localhost and
	// literal addresses.
	Hosts []string
	// PreviewDomain is the name below which previews live: <port>-<vm>.<domain>.
	PreviewDomain string
	// PreviewURL, if set, makes the addresses of previews, with {port} and {vm}
	// in it: where a proxy in front terminates TLS or changes the port. Its
	// hosts must still end in PreviewDomain.
	PreviewURL string
	// Origins are web origins ("https://host") whose pages may call the API and
	// open streams; usually none.
	Origins []string
	// Stall is how long a peer may keep a read or write waiting.
	Stall time.Duration
	// HeaderTimeout is how long a client may take to send a request's header.
	HeaderTimeout time.Duration
	// BodyTimeout is how long a client may take to send a whole body that is read
	// before anything is done, such as JSON.
	BodyTimeout time.Duration
	// MaxConns bounds the connections open at a time, and MaxConnsPerAddress
	// those of one address, but for loopback addresses and trusted proxies.
	MaxConns           int
	MaxConnsPerAddress int
	// StopGrace is how long Stop lets requests finish.
	StopGrace time.Duration
	// MaxStreams bounds the streams open at a time; 0: 4096.
	MaxStreams int
	// MaxFileBytes bounds a file or tar sent into a VM, MaxUploadBytes an
	// upload; 0: api.DefaultMaxFileBytes.
	MaxFileBytes   int64
	MaxUploadBytes int64
	// Limits bound what callers and addresses may ask; zero: nothing does.
	Limits limit.Config
	// TrustedProxies are the peers whose X-Forwarded-For tells the client.
	TrustedProxies []netip.Prefix
	// Recheck is how often the credentials of requests under way are looked at
	// where nobody tells of changes; 0: 10 s.
	Recheck time.Duration
	// Version of the product.
	Version string
}

func (c Config) withDefaults() (Config, error) {
	if c.Address == "" {
		c.Address = DefaultAddress
	}
	for _, address := range []*string{&c.Address, &c.TLSAddress} {
		if *address == "" {
			continue
		}
		host, port, err := net.SplitHostPort(*address)
		if err != nil {
			return c, errors.Wrap(err, errors.InvalidArgument, "%q is not an address to listen on", *address).WithHint("as in 127.0.0.1:7300")
		}
		if host == "" {
			*address = net.JoinHostPort("127.0.0.1", port)
		}
	}
	if c.TLSAddress != "" && c.TLS == nil {
		return c, errors.New(errors.Internal, "TLS is to be served without a certificate")
	}
	if c.PreviewDomain == "" {
		c.PreviewDomain = DefaultPreviewDomain
	}
	c.PreviewDomain = auth.HostName(c.PreviewDomain)
	if c.Stall <= 0 {
		c.Stall = DefaultStall
	}
	if c.HeaderTimeout <= 0 {
		c.HeaderTimeout = DefaultHeaderTimeout
	}
	if c.BodyTimeout <= 0 {
		c.BodyTimeout = DefaultBodyTimeout
	}
	if c.MaxConns <= 0 {
		c.MaxConns = DefaultMaxConns
	}
	if c.MaxConnsPerAddress <= 0 {
		c.MaxConnsPerAddress = DefaultMaxConnsPerAddress
	}
	if c.StopGrace <= 0 {
		c.StopGrace = DefaultStopGrace
	}
	return c, c.Limits.Validate("limits")
}

// Deps is what the gateway is made over. Those not said to be optional are needed.
type Deps struct {
	VMs           vmm.Orchestrator
	Tasks         vmm.TaskService
	Authenticator auth.Authenticator
	Idempotency   api.IdempotencyStore
	Notes         e2b.Notes
	Access        api.Access
	Tokens        api.Tokens
	Logger        *slog.Logger
	// Status tells what the server is; version and preview domain are filled in.
	Status func(ctx context.Context) (wire.Status, error)
	// Endpoints tells where the server is reached; the preview domain is filled
	// in. Optional: it tells nothing else.
	Endpoints func() wire.Endpoints
	// Ready says why the server cannot work now. Optional.
	Ready func(ctx context.Context) error
	// Audit records changes, and who asked for them. Optional: nothing does.
	Audit api.AuditLog
	// Links makes and opens one-time links. Optional: in memory, of this process alone.
	Links proxy.Links
	// Projects lets callers work in other projects than their key's, and tells
	// when what credentials give changes. Optional: there are no others.
	Projects auth.Projects
	// Fleet takes in workers on other hosts. Optional: there is
	// the server's own alone.
	Fleet api.Fleet
	// Webhooks is where projects have their events told. Optional: nowhere.
	Webhooks api.Webhooks
	// Queue is what administrators look into. Optional.
	Queue queue.Inspector
	// Logs is where lines of servers are read. Optional: nowhere.
	Logs serverlog.Source
	// Collectors are other parts' metrics, served with the gateway's. Optional.
	Collectors []prometheus.Collector
	// Tracing is where spans of requests go; nil: nowhere.
	Tracing *tracing.Tracing
	// Now is the clock of what others compare; nil: time.Now.
	Now func() time.Time
	// Root answers on the API's hosts where the gateway itself does not: a
	// dashboard. Optional: / leads to the documentation.
	Root http.Handler
}

func (d Deps) check() error {
	for name, missing := range map[string]bool{
		"VMs": d.VMs == nil, "Tasks": d.Tasks == nil, "Authenticator": d.Authenticator == nil,
		"Idempotency": d.Idempotency == nil, "Notes": d.Notes == nil, "Access": d.Access == nil, "Tokens": d.Tokens == nil, "Logger": d.Logger == nil, "Status": d.Status == nil,
	} {
		if missing {
			return errors.New(errors.Internal, "the gateway is made without %s", name)
		}
	}
	return nil
}
