package e2b

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/aetherium/aetherium/tests/internal/sdk"
)

// TestSDKsOverTLS runs the SDKs as `aetherium e2b env` has them set up:
// by names, over TLS, with the server's own authority. In a mount namespace of
// their own the server is what resolves names, as it may not be on this host.
func TestSDKsOverTLS(t *testing.T) {
	driver := wanted(t)
	// An address of loopback alone, for the port of name servers.
	resolver := fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254))
	host := images(t, nil)
	s := serve(t, driver, registriesEnv+host, "AETHERIUM_NAMES_ADDRESS="+resolver+":53", "XDG_CONFIG_HOME="+t.TempDir())
	variables := map[string]string{}
	if err := json.Unmarshal([]byte(sdk.CLI(t, s, "e2b", "env", "--shell", "json")), &variables); err != nil {
		t.Fatal(err)
	}
	environ := []string{"TEST_SCHEME=https", "TEST_REGISTRY=" + host}
	for name, value := range variables {
		environ = append(environ, name+"="+value)
	}
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(conf, []byte("nameserver "+resolver+"\n"), 0o644); err != nil { //nolint:gosec // for every user
		t.Fatal(err)
	}
	for _, p := range sdks {
		t.Run(p.String(), func(t *testing.T) {
			program, dir := install(t, p)
			inside := append([]string{"unshare", "-m", "sh", "-c", `mount --bind "$0" /etc/resolv.conf && exec "$@"`, conf}, program...)
			for _, r := range play(t, inside, dir, environ) {
				t.Run(r.Feature+"/"+r.Check, r.Judge)
			}
		})
	}
	sdk.Explain(t, s)
}
