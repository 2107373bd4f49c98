package app

import (
	"context"
	"net"
	"os/exec"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/host"
	"github.com/aetherium/aetherium/services/standalone/internal/settings"
)

// lookupWithin bounds the question whether names resolve.
const lookupWithin = 5 * time.Second

// examineNames tells whether this host's programs find previews by their names.
func examineNames(ctx context.Context, s settings.Settings) host.Finding {
	domain := s.Listen.PreviewDomain
	name := "8080-abcdefghij0123456789." + domain
	f := host.Finding{What: "names below " + domain}
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
