package netd

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/network/egress"
	"github.com/aetherium/aetherium/services/core/pkg/network/netd/proxy"
)

// maxControlBytes bounds what the manager says at once: as many machines as a
// bridge has ports, each with all the secrets that it can have.
const maxControlBytes = 256 << 20

// listenControl makes the socket for the manager, who is root, alone.
func listenControl(ctx context.Context, path string) (net.Listener, error) {
	failed := func(err error) (net.Listener, error) {
		return nil, errors.Wrap(err, errors.Unavailable, "cannot make netd's control socket")
	}
	// Under the lock nobody else's socket is there.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return failed(err)
	}
	var listen net.ListenConfig
	l, err := listen.Listen(ctx, "unix", path)
	if err != nil {
		return failed(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // whoever comes later makes it anew
	if err := os.Chmod(path, 0o600); err != nil {
		return failed(errors.Join(err, l.Close()))
	}
	return l, nil
}

// control carries out what the manager says. When it has answered, the new
// rules are in force, and connections that they refuse are cut.
func control(t *machines, p *proxy.Proxy, log *slog.Logger) *http.Server {
	mux := http.NewServeMux()
	handle := func(pattern string, f func(w http.ResponseWriter, r *http.Request) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, maxControlBytes)
			if err := f(w, r); err != nil {
				status := http.StatusInternalServerError
				if errors.HasCode(err, errors.InvalidArgument) {
					status = http.StatusBadRequest
				}
				http.Error(w, errors.Public(err).Message, status)
				return
			}
			w.WriteHeader(http.StatusNoContent)
		})
	}
	handle("PUT /state", func(_ http.ResponseWriter, r *http.Request) error {
		var s egress.State
		if err := decode(r, &s); err != nil {
			return err
		}
		err := t.replace(s)
		for _, a := range p.Addresses() {
			p.Recheck(a)
		}
		t.settle()
		log.Info("told of everything", "machines", len(s.Machines))
		return err
	})
	handle("PUT /machines/{address}", func(_ http.ResponseWriter, r *http.Request) error {
		var m egress.Machine
		if err := decode(r, &m); err != nil {
			return err
		}
		if m.Address.String() != r.PathValue("address") {
			return errors.New(errors.InvalidArgument, "path and body name different addresses")
		}
		err := t.set(m)
		p.Recheck(m.Address)
		t.settle()
		return err
	})
	handle("DELETE /machines/{address}", func(_ http.ResponseWriter, r *http.Request) error {
		a, err := netip.ParseAddr(r.PathValue("address"))
		if err != nil {
			return errors.Wrap(err, errors.InvalidArgument, "this is not an address")
		}
		t.remove(a)
		p.Recheck(a)
		t.settle()
		return nil
	})
	return &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn)}
}

func decode(r *http.Request, into any) error {
	if err := json.NewDecoder(r.Body).Decode(into); err != nil {
		return errors.New(errors.InvalidArgument, "what was said cannot be read") // its text could hold a secret
	}
	return nil
}
