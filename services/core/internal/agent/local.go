package agent

import (
	"context"
	"log/slog"
	"net"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/agent/osuser"
	"github.com/aetherium/aetherium/services/core/internal/agent/settings"
	"github.com/aetherium/aetherium/services/core/internal/peercred"
)

// LocalSocket is the name, in the machine's network namespace, where its
// services ask what the machine was told: GET /envs, with the access token of
// whom they ask for. So they know who may come in, and with which environment,
// also in a machine that goes on from a memory in which they ran before.
const LocalSocket = "@aetherium-agent"

// ListenLocal listens on LocalSocket.
func ListenLocal(ctx context.Context) (net.Listener, error) {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "unix", LocalSocket)
	if err != nil {
		return nil, errors.Wrap(err, errors.Unavailable, "services of the machine cannot ask for its environment")
	}
	return l, nil
}

// ServeLocal serves processes of root and of the default user, who have that
// environment, and closes the connections of others.
func (a *Agent) ServeLocal(ctx context.Context, l net.Listener) error {
	return a.serve(ctx, &ownUsers{Listener: l, settings: a.settings, users: a.users, log: a.log}, a.local)
}

// ownUsers is a listener for the users who may know the environment.
type ownUsers struct {
	net.Listener
	settings *settings.Store
	users    *osuser.DB
	log      *slog.Logger
}

func (o *ownUsers) Accept() (net.Conn, error) {
	for {
		conn, err := o.Listener.Accept()
		if err != nil || o.may(conn) {
			return conn, err
		}
		_ = conn.Close()
	}
}

func (o *ownUsers) may(conn net.Conn) bool {
	peer, err := peercred.Of(conn)
	if err != nil {
		o.log.Warn("a local connection of nobody known", "error", err)
		return false
	}
	if peer.Uid == 0 {
		return true
	}
	u, err := o.settings.Get().User(o.users, "")
	return err == nil && u.UID == peer.Uid
}
