package e2b

import (
	"slices"
	"testing"

	"github.com/aetherium/aetherium/tests/internal/sdk"
)

// byNames are the features that names and TLS have a part in.
const byNames = "TEST_FEATURES=create,connect,commands,pty,files,getHost,kill"

// TestSDKsOverTLS runs the SDKs as `aetherium e2b env` has them set up:
// by names, over TLS, with the server's own authority.
func TestSDKsOverTLS(t *testing.T) {
	driver := wanted(t)
	names := sdk.NewNames(t)
	host := images(t, nil)
	s := serve(t, driver, append(names.Settings, registriesEnv+host)...)
	environ := append(names.Environ(t, s), "TEST_SCHEME=https", "TEST_REGISTRY="+host)
	for i, p := range sdks {
		t.Run(p.String(), func(t *testing.T) {
			program, dir := install(t, p)
			own := environ
			if i%2 > 0 { // what the newer of a language does with the rest, it does, too
				own = append(slices.Clone(environ), byNames)
			}
			for _, r := range play(t, slices.Concat(names.Inside, program), dir, own) {
				t.Run(r.Feature+"/"+r.Check, r.Judge)
			}
		})
	}
	sdk.Explain(t, s)
}
