package fleet

import (
	"context"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/services/core/pkg/redis/redistest"
	"github.com/aetherium/aetherium/services/core/pkg/storage/pgtest"
	"github.com/aetherium/aetherium/tests/internal/server"
)

// nobody is no user of the host's, as in a container's image.
const nobody = 65532

// A gateway wants no privilege: as a user without any capability it serves,
// keeps its keys, and takes workers in.
func TestGatewayWithoutRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("it needs root, to be somebody else")
	}
	ctx, cancel := context.WithTimeout(t.Context(), hangs)
	t.Cleanup(cancel)
	pg, err := pgtest.Start(ctx)
	must(t, err)
	t.Cleanup(func() { must(t, pg.Stop()) })
	database, err := url.Parse(pg.URL("postgres"))
	must(t, err)
	must(t, os.Chmod(database.Query().Get("host"), 0o711)) //nolint:gosec // its socket is reached by another user
	queue := redistest.Start(t).Address().Reveal()
	socket := strings.TrimPrefix(queue, "unix://")
	must(t, os.Chmod(filepath.Dir(socket), 0o711)) //nolint:gosec // likewise
	must(t, os.Chown(socket, nobody, nobody))
	dir, err := os.MkdirTemp("", "aetherium-rootless-")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	must(t, os.Chown(dir, nobody, nobody))

	g, err := server.NewFleet(dir, "AETHERIUM_DATABASE="+database.String(), "AETHERIUM_QUEUE="+queue).Gateway("gateway")
	must(t, err)
	must(t, os.Mkdir(g.DataDir, 0o700))
	must(t, os.Chown(g.DataDir, nobody, nobody))
	g.Through = []string{"setpriv", "--reuid=65532", "--regid=65532", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"}
	for range 2 { // what the first start made serves the second
		if err := g.Run(ctx); err != nil {
			t.Fatal(err, g.Log())
		}
		pid, err := g.PID()
		must(t, err)
		status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
		must(t, err)
		if s := string(status); !strings.Contains(s, "CapPrm:\t0000000000000000\n") || !strings.Contains(s, "Uid:\t65532\t65532\t65532\t65532\n") {
			t.Errorf("it has privileges:\n%s", s)
		}
		c, err := g.Client()
		must(t, err)
		if token, err := c.CreateJoinToken(ctx, 0); err != nil || !strings.HasPrefix(token.Token, "aethjoin_") {
			t.Errorf("%+v, %v", token, err)
		}
		c.Close()
		must(t, g.End(ctx))
	}
}
