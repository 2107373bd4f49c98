package firecracker

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/peercred"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/firecracker/internal/api"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/microvm"
	"golang.org/x/sys/unix"
)

// What a monitor has in the directory run, by their names there and in its root.
const (
	apiSocket   = "api.sock"
	vsockSocket = "v.sock"
	uffdSocket  = "uffd.sock"
)

func runDir(g microvm.Guest) string { return filepath.Join(g.Dir, "run") }

// connect connects to a socket of a monitor's. The directory is the monitor's to
// write: it could put a link or another's socket there, so no link is followed
// and who listens has to be the guest's user. It works for paths of any length.
func connect(ctx context.Context, g microvm.Guest, name string) (net.Conn, error) {
	dir, err := unix.Open(runDir(g), unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: runDir(g), Err: err}
	}
	defer unix.Close(dir)
	socket, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(socket)
	conn, err := new(net.Dialer).DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d", socket))
	if err != nil {
		return nil, err
	}
	peer, err := peercred.Of(conn)
	if err == nil && peer.Uid != g.UID {
		err = errors.New(errors.GuestFault, "another user listens in place of the monitor")
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

func newClient(g microvm.Guest) *api.Client {
	return api.New(func(ctx context.Context) (net.Conn, error) { return connect(ctx, g, apiSocket) })
}

// monitorPID is the process that serves a guest's API. Returns Conflict when none does.
func monitorPID(ctx context.Context, g microvm.Guest) (int, error) {
	conn, err := connect(ctx, g, apiSocket)
	if err != nil {
		return 0, errors.Wrap(err, errors.Conflict, "the machine does not run")
	}
	defer conn.Close()
	peer, err := peercred.Of(conn)
	if err != nil {
		return 0, errors.Wrap(err, errors.Internal, "cannot tell which process the monitor is")
	}
	return int(peer.Pid), nil
}
