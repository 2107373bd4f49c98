// Package settings is what a gateway is told.
package settings

import (
	"net"
	"net/netip"
	"regexp"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/config"
	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/webhook"
	"github.com/aetherium/aetherium/services/gateway/pkg/limit"
)

// Front is what concerns those who ask.
type Front struct {
	Listen Listen `yaml:"listen"`
	TLS    TLS    `yaml:"tls"`
	Names  Names  `yaml:"names"`
	Limits Limits `yaml:"limits"`
	Auth   Auth   `yaml:"auth"`
	Audit  Audit  `yaml:"audit"`
	// Webhooks are a part of the gateway: it is what tells events.
	Webhooks Webhooks `yaml:"webhooks"`
}

// Listen says where the API answers.
type Listen struct {
	Address       string   `yaml:"address" doc:"Address and port of the API. Anything but loopback lets others in: the key is then all that protects it."`
	Metrics       string   `yaml:"metrics" doc:"Address and port of /metrics and /healthz for Prometheus; empty: the API's /metrics alone, which is for administrators."`
	PreviewDomain string   `yaml:"preview_domain" doc:"Previews answer at <port>-<vm>.<domain>."`
	Hosts         []string `yaml:"hosts" doc:"Further host names that the API answers to."`
	// TrustedProxies and Origins are nobody by default.
	TrustedProxies []string `yaml:"trusted_proxies" doc:"Networks or addresses of proxies in front, whose X-Forwarded-For tells who asks, and whose X-Forwarded-Proto whether by https; without them a proxy and all behind it are one client."`
	Origins        []string `yaml:"origins" doc:"Web origins (https://host) whose pages may call the API and open streams."`
	// StopDelay is for who sends requests to several gateways.
	StopDelay config.Duration `yaml:"stop_delay" doc:"How long a server that is told to stop goes on as before, but for /ready, which fails: longer than a load balancer takes to notice. Up to 5m."`
}

// maxStopDelay bounds how long a server goes on that is told to stop.
const maxStopDelay = 5 * time.Minute

// Proxies are the trusted proxies. Returns InvalidArgument.
func (l Listen) Proxies() ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, text := range l.TrustedProxies {
		if a, err := netip.ParseAddr(text); err == nil {
			out = append(out, netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()))
			continue
		}
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, errors.Wrap(err, errors.InvalidArgument, "%q is not an address or a network", text).WithField("listen.trusted_proxies").
				WithHint("such as 10.0.0.7 or 10.0.0.0/24")
		}
		out = append(out, p.Masked())
	}
	return out, nil
}

// Audit is the log of who changed what.
type Audit struct {
	Lenient bool `yaml:"lenient" doc:"Let changes go on that cannot be recorded, such as on a full disk. Otherwise they are refused."`
}

// Webhooks are where projects have their events told (docs/WEBHOOKS.md).
type Webhooks struct {
	Allow []string        `yaml:"allow" doc:"Networks or addresses that webhooks may lead to beside public ones, by http as well as https, such as 127.0.0.0/8. Whoever manages a project makes the server send requests there."`
	Keep  config.Duration `yaml:"keep" doc:"How long it is told what became of messages."`
}

// maxKeptDeliveries bounds Webhooks.Keep.
const maxKeptDeliveries = 90 * 24 * time.Hour

// Config is how events are told. Returns InvalidArgument.
func (w Webhooks) Config() (webhook.Config, error) {
	targets, err := webhook.NewTargets("webhooks.allow", w.Allow)
	if d := time.Duration(w.Keep); err == nil && (d < time.Hour || d > maxKeptDeliveries) {
		err = errors.New(errors.InvalidArgument, "messages cannot be kept for %s", d).WithField("webhooks.keep").WithHint("from %s to %s", time.Hour, maxKeptDeliveries)
	}
	return webhook.Config{Targets: targets, Keep: time.Duration(w.Keep)}, err
}

// Limits are how much callers may ask of the API. A rate of 0 is no limit.
type Limits struct {
	KeyRate      float64 `yaml:"key_rate" doc:"Requests in a second of a key, or of a user's keys together."`
	KeyBurst     int     `yaml:"key_burst" doc:"Requests at once of a key or user."`
	AddressRate  float64 `yaml:"address_rate" doc:"Requests in a second from an address (IPv6: a network of 64 bits); loopback is not limited."`
	AddressBurst int     `yaml:"address_burst" doc:"Requests at once from an address."`
	FailureRate  float64 `yaml:"failure_rate" doc:"Keys or tokens in a second from an address that are not valid; valid ones pass all the time."`
	FailureBurst int     `yaml:"failure_burst" doc:"Keys or tokens at once from an address that are not valid."`
	Streams      int     `yaml:"streams" doc:"Streams and WebSockets that a key or user has open at a time; 0: any."`
}

// Config is the limits as the gateway takes them.
func (l Limits) Config() limit.Config {
	return limit.Config{
		Key: limit.Rate{PerSecond: l.KeyRate, Burst: l.KeyBurst}, Address: limit.Rate{PerSecond: l.AddressRate, Burst: l.AddressBurst},
		Failures: limit.Rate{PerSecond: l.FailureRate, Burst: l.FailureBurst}, Streams: l.Streams,
	}
}

// DefaultFront serves this host alone.
func DefaultFront() Front {
	return Front{
		Listen:   Listen{Address: "127.0.0.1:7300", PreviewDomain: "aeth.localhost"},
		TLS:      TLS{Address: TLSAuto},
		Auth:     defaultAuth(),
		Webhooks: Webhooks{Keep: config.Duration(7 * 24 * time.Hour)},
		// Far above what an agent's loop of commands asks for, and below what would
		// keep others waiting.
		Limits: Limits{
			KeyRate: 500, KeyBurst: 2000, AddressRate: 1000, AddressBurst: 4000, FailureRate: 1, FailureBurst: 30, Streams: 1024,
		},
	}
}

var domainForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$`)

// Check returns InvalidArgument.
func (s Front) Check() error {
	if _, _, err := net.SplitHostPort(s.Listen.Address); err != nil {
		return errors.Wrap(err, errors.InvalidArgument, "%q is not an address with a port", s.Listen.Address).
			WithField("listen.address").WithHint("such as 127.0.0.1:7300")
	}
	if s.Listen.Metrics != "" {
		if _, _, err := net.SplitHostPort(s.Listen.Metrics); err != nil {
			return errors.Wrap(err, errors.InvalidArgument, "%q is not an address with a port", s.Listen.Metrics).
				WithField("listen.metrics").WithHint("such as 127.0.0.1:7301")
		}
	}
	if d := time.Duration(s.Listen.StopDelay); d < 0 || d > maxStopDelay {
		return errors.New(errors.InvalidArgument, "a server that is told to stop cannot go on for %s", d).WithField("listen.stop_delay").WithHint("0s to %s", maxStopDelay)
	}
	if !domainForm.MatchString(s.Listen.PreviewDomain) || len(s.Listen.PreviewDomain) > 200 {
		return errors.New(errors.InvalidArgument, "%q is not a domain", s.Listen.PreviewDomain).WithField("listen.preview_domain")
	}
	if err := s.TLS.check(); err != nil {
		return err
	}
	if err := s.checkNames(); err != nil {
		return err
	}
	if err := s.Limits.Config().Validate("limits"); err != nil {
		return err
	}
	if _, err := s.Listen.Proxies(); err != nil {
		return err
	}
	if _, err := s.Webhooks.Config(); err != nil {
		return err
	}
	return s.Auth.check()
}

// Loopback reports whether the API can be reached from this host only.
func (s Front) Loopback() bool {
	secure, _ := s.TLSAddress()
	return onLoopback(s.Listen.Address) && (secure == "" || onLoopback(secure))
}

func onLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
