package proxy

import (
	"context"
	"crypto/x509"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/network/egress"
)

// The bounds on what machines can make the proxy do.
const (
	MaxFlows        = 16384 // connections, of all machines
	MaxMachineFlows = 1024  // of one
	// MaxMachineRequests bounds one machine's HTTP requests under way: many come
	// on one connection of HTTP/2.
	MaxMachineRequests = 512
	maxStreams         = 64 // of one such connection
	// maxKept bounds the connections that one of a machine's leaves open to hosts,
	// to be used again: it can name as many hosts as it likes.
	maxKept = 4

	speakWithin    = 10 * time.Second // the first bytes, a ClientHello, a request's header
	dialWithin     = 10 * time.Second
	idleHTTP       = 2 * time.Minute
	maxHeaderBytes = 128 << 10
	maxHelloBytes  = 128 << 10 // two of crypto/tls's largest handshake messages
	keepAlive      = time.Minute
)

// Machine is where connections come from.
type Machine interface {
	Rules() *egress.Rules // in force now
	Note(domain.EgressEntry)
}

// Config is what the proxy works with. All but CA, Roots and Log is needed.
type Config struct {
	// Machine finds a machine by its address.
	Machine func(netip.Addr) (Machine, bool)
	// Resolve gives a name's IPv4 addresses, for a machine with these rules.
	Resolve func(ctx context.Context, rules *egress.Rules, name string) ([]netip.Addr, error)
	// Refused reports what the operator lets nobody connect to.
	Refused func(netip.Addr) bool
	// Original tells where a connection wanted to go.
	Original func(*net.TCPConn) (netip.AddrPort, error)
	// CA gives what signs for hosts with secrets; nil: nothing does.
	CA func() *Minter
	// Roots are who signs for those hosts themselves; nil: the system's.
	Roots *x509.CertPool
	Log   *slog.Logger
}

// Proxy serves connections.
type Proxy struct {
	cfg  Config
	http *http.Server
	feed *feed

	mu    sync.Mutex
	flows map[netip.Addr]map[*flow]struct{}
	total int
	asked map[netip.Addr]int // HTTP requests under way
}

// New makes a proxy. Close it after use.
func New(cfg Config) *Proxy {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.CA == nil {
		cfg.CA = func() *Minter { return nil }
	}
	p := &Proxy{cfg: cfg, feed: newFeed(), flows: map[netip.Addr]map[*flow]struct{}{}, asked: map[netip.Addr]int{}}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	p.http = &http.Server{
		Handler: http.HandlerFunc(p.serveHTTP), ConnContext: withFlow, Protocols: &protocols,
		ReadHeaderTimeout: speakWithin, IdleTimeout: idleHTTP, MaxHeaderBytes: maxHeaderBytes,
		HTTP2:    &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug), DisableGeneralOptionsHandler: true,
	}
	go func() { _ = p.http.Serve(p.feed) }()
	return p
}

// Serve takes connections until the listener is closed.
func (p *Proxy) Serve(l *net.TCPListener) error {
	for {
		c, err := l.AcceptTCP()
		if err != nil {
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				continue
			}
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			// Out of descriptors: those that end give some back.
			p.cfg.Log.Warn("cannot take a connection", "err", err)
			time.Sleep(10 * time.Millisecond)
			continue
		}
		go p.handle(c)
	}
}

// Close cuts every connection.
func (p *Proxy) Close() error {
	err := p.http.Close()
	p.mu.Lock()
	var all []*flow
	for _, of := range p.flows {
		for f := range of {
			all = append(all, f)
		}
	}
	p.mu.Unlock()
	for _, f := range all {
		f.cut()
	}
	return err
}

// Recheck cuts those connections of an address that its machine's rules, as
// they are now, refuse; all of an address that is no machine's any more.
func (p *Proxy) Recheck(of netip.Addr) {
	p.mu.Lock()
	all := make([]*flow, 0, len(p.flows[of]))
	for f := range p.flows[of] {
		all = append(all, f)
	}
	p.mu.Unlock()
	for _, f := range all {
		m, ok := p.cfg.Machine(of)
		if !ok || m != f.machine {
			f.cut()
		} else {
			f.recheck(m.Rules())
		}
	}
}

// Addresses gives where connections come from at the moment.
func (p *Proxy) Addresses() []netip.Addr {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]netip.Addr, 0, len(p.flows))
	for a := range p.flows {
		out = append(out, a)
	}
	return out
}

// enter counts a flow, unless there are too many.
func (p *Proxy) enter(f *flow) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.total >= MaxFlows || len(p.flows[f.from]) >= MaxMachineFlows {
		return false
	}
	if p.flows[f.from] == nil {
		p.flows[f.from] = map[*flow]struct{}{}
	}
	p.flows[f.from][f] = struct{}{}
	p.total++
	return true
}

// begin counts a request, unless there are too many of the machine's.
func (p *Proxy) begin(of netip.Addr) (done func(), ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.asked[of] >= MaxMachineRequests {
		return nil, false
	}
	p.asked[of]++
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.asked[of]--; p.asked[of] == 0 {
			delete(p.asked, of)
		}
	}, true
}

func (p *Proxy) leave(f *flow) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.flows[f.from][f]; !ok {
		return
	}
	delete(p.flows[f.from], f)
	if len(p.flows[f.from]) == 0 {
		delete(p.flows, f.from)
	}
	p.total--
}

// feed is a listener of connections that have been looked at.
type feed struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newFeed() *feed { return &feed{conns: make(chan net.Conn), closed: make(chan struct{})} }

// Accept implements net.Listener.
func (l *feed) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *feed) Close() error { l.once.Do(func() { close(l.closed) }); return nil }

// Addr implements net.Listener.
func (l *feed) Addr() net.Addr { return &net.TCPAddr{} }

func (l *feed) put(c net.Conn) {
	select {
	case l.conns <- c:
	case <-l.closed:
		_ = c.Close()
	}
}
