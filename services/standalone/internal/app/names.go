package app

import (
	"context"
	"net"
	"os/exec"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/gateway/pkg/names"
	"github.com/aetherium/aetherium/services/standalone/internal/settings"
)

// serveNames serves the preview domain's names where that was asked for. The
// function ends it.
func (n *node) serveNames(ctx context.Context) (end func() error, err error) {
	if n.settings.Names.Address == "" {
		return func() error { return nil }, nil
	}
	answers, err := n.settings.NameAnswers()
	if err != nil {
		return nil, err
	}
	s, err := names.Listen(ctx, n.settings.Names.Address, n.settings.Listen.PreviewDomain, answers)
	if err != nil {
		return nil, err
	}
	n.log.Info("serving names", "address", s.Addr().String(), "domain", n.settings.Listen.PreviewDomain, "answers", answers)
	return s.Close, nil
}

// lookupWithin bounds the question whether names resolve.
const lookupWithin = 5 * time.Second

// examineNames tells whether this host's programs find previews by their names.
func examineNames(ctx context.Context, s settings.Settings) Finding {
	domain := s.Listen.PreviewDomain
	name := "8080-abcdefghij0123456789." + domain
	f := Finding{What: "names below " + domain}
	ctx, cancel := context.WithTimeout(ctx, lookupWithin)
	defer cancel()
	found, err := lookup(ctx, name)
	if err == nil {
		f.OK, f.Detail = true, "resolve to "+strings.Join(found, ", ")
		return f
	}
	f.Detail = "do not resolve for programs on this host: SDKs do not find sandboxes by name"
	if domain == "localhost" || strings.HasSuffix(domain, ".localhost") {
		f.Hint = "\"make names\" installs libnss-myhostname (Debian, Ubuntu), or use systemd-resolved; plain HTTP works without: aetherium e2b env --plain"
		return f
	}
	f.Hint = "have *." + domain + " point to this host in its zone, or have this host's resolver ask the server's own (names.address): docs/TLS.md"
	return f
}

// lookup resolves a name as programs do. This one cannot tell: it is static,
// and doesn't load what the host's resolver is made of.
func lookup(ctx context.Context, name string) ([]string, error) {
	getent, err := exec.LookPath("getent")
	if err != nil {
		return net.DefaultResolver.LookupHost(ctx, name)
	}
	out, err := exec.CommandContext(ctx, getent, "ahosts", name).Output()
	if err != nil {
		return nil, err
	}
	var found []string
	seen := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		if fields := strings.Fields(line); len(fields) > 0 && !seen[fields[0]] {
			seen[fields[0]] = true
			found = append(found, fields[0])
		}
	}
	if len(found) == 0 {
		return nil, errors.New(errors.NotFound, "%s has no address", name)
	}
	return found, nil
}
