package sdk

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/aetherium/aetherium/tests/internal/server"
)

// Names has packages find a server by names and over TLS, as `aetherium e2b
// env` sets them up. The server itself resolves the names, as they may not be
// resolved on this host.
type Names struct {
	Settings []string // of the server
	Inside   []string // what to run programs by: a mount namespace of their own
}

// NewNames takes an address of loopback alone, for the port of name servers.
func NewNames(t *testing.T) Names {
	t.Helper()
	resolver := fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254))
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	must(t, os.WriteFile(conf, []byte("nameserver "+resolver+"\n"), 0o644)) //nolint:gosec // for every user
	return Names{
		Settings: []string{"AETHERIUM_NAMES_ADDRESS=" + resolver + ":53", configHome + t.TempDir()},
		Inside:   []string{"unshare", "-m", "sh", "-c", `mount --bind "$0" /etc/resolv.conf && exec "$@"`, conf},
	}
}

// Environ is the environment that the command line sets up.
func (n Names) Environ(t *testing.T, s *server.Server) []string {
	t.Helper()
	return environ(t, s)
}
