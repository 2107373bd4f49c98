package commandline

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

const (
	// healthLimit bounds the question; the server's own bound of a database is shorter.
	healthLimit = 10 * time.Second
	// maxHealth bounds what is read of an answer that says why not.
	maxHealth = 4 << 10
)

// Healthcheck is the command that asks the server of the same settings whether
// it can work, as containers' images have nothing else to ask with. where gives
// the address that the server listens on, empty for none, and what to ask for.
func (p *Program) Healthcheck(where func() (address, path string, err error)) *cobra.Command {
	return &cobra.Command{
		Use: "healthcheck", Short: "Ask the running server whether it can work; the exit code tells", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			address, path, err := where()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), healthLimit)
			defer cancel()
			if err := askHealth(ctx, address, path); err != nil {
				return err
			}
			_, err = fmt.Fprintln(p.Stdout, "ok")
			return err
		},
	}
}

// askHealth returns Unavailable unless the server says that it is well.
func askHealth(ctx context.Context, address, path string) error {
	at, err := reachable(address)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+at+path, nil)
	if err != nil {
		return errors.Wrap(err, errors.InvalidArgument, "%q cannot be asked", at)
	}
	// No proxy of the environment's: it is this very host that is asked.
	transport := &http.Transport{DisableKeepAlives: true}
	res, err := transport.RoundTrip(r)
	if err != nil {
		return errors.Wrap(err, errors.Unavailable, "the server does not answer on %s", at)
	}
	defer func() { _ = res.Body.Close() }()
	why, _ := io.ReadAll(io.LimitReader(res.Body, maxHealth))
	if res.StatusCode != http.StatusOK {
		return errors.New(errors.Unavailable, "the server on %s cannot work: %s: %s", at, res.Status, why)
	}
	return nil
}

// reachable is where one who listens on an address is reached from this host.
func reachable(address string) (string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil || port == "0" {
		return "", errors.New(errors.InvalidArgument, "a server that listens on %q cannot be asked", address).
			WithHint("it needs an address with a port")
	}
	switch ip, err := netip.ParseAddr(host); {
	case host == "", err == nil && ip.IsUnspecified() && ip.Is4():
		host = "127.0.0.1"
	case err == nil && ip.IsUnspecified():
		host = "::1"
	}
	return net.JoinHostPort(host, port), nil
}
