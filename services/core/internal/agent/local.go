package agent

import (
	"context"
	"log/slog"
	"net"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/agent/osuser"
	"github.com/aetherium/aetherium/services/core/internal/agent/settings"
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
	uid, err := peerOf(conn)
	if err != nil {
		o.log.Warn("a local connection of nobody known", "error", err)
		return false
	}
	if uid == 0 {
		return true
	}
	u, err := o.settings.Get().User(o.users, "")
	return err == nil && u.UID == uid
}

// peerOf is the user at the other end.
func peerOf(conn net.Conn) (uint32, error) {
	c, ok := conn.(syscall.Conn)
	if !ok {
		return 0, errors.Plain("not a socket")
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var failed error
	if err := raw.Control(func(fd uintptr) { cred, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return 0, err
	}
	if failed != nil {
		return 0, failed
	}
	return cred.Uid, nil
}
