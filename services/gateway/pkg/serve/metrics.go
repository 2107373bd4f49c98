package serve

import (
	"context"
	"net"
	"net/http"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/scrape"
	core "github.com/aetherium/aetherium/services/core/pkg/settings"
)

// serveMetrics serves what is measured at an address of its own, if there is one,
// until stop is called.
func serveMetrics(ctx context.Context, common core.Common, address string, metrics http.Handler, well func(context.Context) error) (stop func() error, err error) {
	if address == "" {
		return func() error { return nil }, nil
	}
	token, err := scrape.Token(common.Metrics.TokenFile)
	if err != nil {
		return nil, err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, errors.Wrap(err, errors.Conflict, "metrics cannot be served on %s", address).WithField("listen.metrics")
	}
	server := scrape.Server(metrics, token, well)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	return func() error {
		err := server.Close() // a scrape is asked for again
		if served := <-ended; !errors.Is(served, http.ErrServerClosed) {
			err = errors.Join(err, served)
		}
		return err
	}, nil
}
