package proxy

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/network/egress"
)

// flow is one connection of a machine.
type flow struct {
	p       *Proxy
	machine Machine
	from    netip.Addr
	to      netip.AddrPort // where the machine wanted it to go
	client  *net.TCPConn

	sni string // of an intercepted one: what its requests must be for

	sent, got atomic.Int64 // to and from the other side
	ended     sync.Once

	mu       sync.Mutex
	done     bool
	requests bool                // HTTP is served on it
	others   map[net.Conn]target // the other sides, and what let each be
	last     target              // what was allowed last
	went     bool                // anything was
}

// probed finds out that a peer of either side is gone.
func probed() net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: keepAlive, Interval: keepAlive / 4, Count: 4}
}

// target is what a decision was about and where it led.
type target struct {
	via, name string
	addr      netip.Addr
}

// denial is why a connection does not come to be.
type denial struct {
	reason, rule string
	addr         netip.Addr // if it was known by then
}

func (d *denial) Error() string {
	if d.rule != "" {
		return d.reason + " (" + d.rule + ")"
	}
	return d.reason
}

func deny(d egress.Decision) *denial { return &denial{reason: d.Reason, rule: d.Rule} }

// deny says why a connection that tells a name, or none, is denied by d.
func (f *flow) deny(name string, d egress.Decision) *denial {
	switch {
	case name != "":
	case f.p.cfg.Refused(f.to.Addr()):
		return &denial{reason: domain.EgressPrivate}
	case d.Rule == domain.AnyDestination:
		return &denial{reason: domain.EgressNoName, rule: d.Rule}
	}
	return deny(d)
}

// entry is the beginning of a log entry about the flow.
func (f *flow) entry(verdict string, t target) domain.EgressEntry {
	e := domain.EgressEntry{Verdict: verdict, Via: t.via, Proto: "tcp", Name: t.name, Port: f.to.Port()}
	if t.addr.IsValid() {
		e.Addr = t.addr.String()
	}
	return e
}

// refused notes a denial.
func (f *flow) refused(via, name string, why *denial) {
	addr := why.addr
	if !addr.IsValid() {
		addr = f.to.Addr()
	}
	e := f.entry(domain.EgressDeny, target{via, name, addr})
	e.Reason, e.Rule = why.reason, why.rule
	f.machine.Note(e)
}

// allowedTo notes that something went out.
func (f *flow) allowedTo(t target, d egress.Decision) {
	e := f.entry(domain.EgressAllow, t)
	e.Rule, e.Learned = d.Rule, d.Learned
	f.machine.Note(e)
	f.mu.Lock()
	f.last, f.went = t, true
	f.mu.Unlock()
}

// allows reports whether rules let the flow go to a target.
func (f *flow) allows(r *egress.Rules, t target) bool {
	d, byName := r.Connection(t.name, f.to.Addr())
	if byName {
		return d.Allow && r.Resolved(d, t.addr).Allow
	}
	return d.Allow && t.addr == f.to.Addr()
}

// recheck ends what rules refuse: the whole flow, or, of one that carries
// requests, the connections that some of them went out on; the next request is
// decided by itself.
func (f *flow) recheck(r *egress.Rules) {
	f.mu.Lock()
	var refused []net.Conn
	for c, t := range f.others {
		if !f.allows(r, t) {
			refused = append(refused, c)
		}
	}
	whole := len(refused) > 0 && !f.requests
	f.mu.Unlock()
	if whole {
		f.cut()
		return
	}
	for _, c := range refused {
		_ = c.Close()
		f.part(c)
	}
}

// join takes the other side's connection along: when the flow is cut, or the
// target refused, so is it. It may be refused already: rules can have changed
// since the decision. Whoever changes them looks at what has joined
// afterwards, and here they are looked at after joining, so that one of both
// sees the other. Returns the denial with the connection closed.
func (f *flow) join(c net.Conn, t target) error {
	f.mu.Lock()
	if f.done {
		f.mu.Unlock()
		_ = c.Close()
		return net.ErrClosed
	}
	if f.others == nil {
		f.others = map[net.Conn]target{}
	}
	f.others[c] = t
	f.mu.Unlock()
	if m, ok := f.p.cfg.Machine(f.from); !ok || m != f.machine || !f.allows(m.Rules(), t) {
		f.part(c)
		_ = c.Close()
		return &denial{reason: domain.EgressPolicyDenied, addr: t.addr}
	}
	return nil
}

// carriesRequests says that HTTP is served, each of whose requests is decided.
func (f *flow) carriesRequests() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests = true
}

// part forgets a connection of the other side that has been closed.
func (f *flow) part(c net.Conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.others, c)
}

// cut ends the flow with a reset.
func (f *flow) cut() {
	_ = f.client.SetLinger(0)
	f.end()
}

// end closes everything and notes the end, once.
func (f *flow) end() {
	f.ended.Do(func() {
		f.mu.Lock()
		f.done = true
		others, t, went := f.others, f.last, f.went
		f.others = nil
		f.mu.Unlock()
		_ = f.client.Close()
		for c := range others {
			_ = c.Close()
		}
		f.p.leave(f)
		if went {
			e := f.entry(domain.EgressEnd, t)
			e.Sent, e.Got = f.sent.Load(), f.got.Load()
			f.machine.Note(e)
		}
	})
}

// dial connects to what a decision allows: the name's addresses, or the one
// that the machine chose.
func (f *flow) dial(ctx context.Context, name string, d egress.Decision, byName bool) (*net.TCPConn, netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, dialWithin)
	defer cancel()
	rules := f.machine.Rules()
	addrs := []netip.Addr{f.to.Addr()}
	if byName {
		var err error
		if addrs, err = f.p.cfg.Resolve(ctx, rules, name); err != nil || len(addrs) == 0 {
			return nil, netip.Addr{}, &denial{reason: domain.EgressUnresolved}
		}
	}
	var why *denial
	for _, ip := range addrs {
		if f.p.cfg.Refused(ip) {
			why = &denial{reason: domain.EgressPrivate, addr: ip}
			continue
		}
		if byName {
			if rd := rules.Resolved(d, ip); !rd.Allow {
				why = deny(rd)
				why.addr = ip
				continue
			}
		}
		c, err := f.connect(ctx, rules, netip.AddrPortFrom(ip, f.to.Port()))
		if err != nil {
			if !errors.As(err, &why) {
				why = &denial{reason: domain.EgressUnreachable, addr: ip}
			}
			continue
		}
		if err := f.join(c, target{name: name, addr: ip}); err != nil {
			return nil, ip, err
		}
		return c, ip, nil
	}
	return nil, netip.Addr{}, why
}
