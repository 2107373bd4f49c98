package e2b

import (
	"slices"
	"testing"

	"github.com/aetherium/aetherium/tests/internal/sdk"
)

// TestSDKsOverTLS runs the SDKs as `aetherium e2b env` has them set up:
// by names, over TLS, with the server's own authority.
func TestSDKsOverTLS(t *testing.T) {
	driver := wanted(t)
	names := sdk.NewNames(t)
	host := images(t, nil)
	s := serve(t, driver, append(names.Settings, registriesEnv+host)...)
	environ := append(names.Environ(t, s), "TEST_SCHEME=https", "TEST_REGISTRY="+host)
	for _, p := range sdks {
		t.Run(p.String(), func(t *testing.T) {
			program, dir := install(t, p)
			for _, r := range play(t, slices.Concat(names.Inside, program), dir, environ) {
				t.Run(r.Feature+"/"+r.Check, r.Judge)
			}
		})
	}
	sdk.Explain(t, s)
}
