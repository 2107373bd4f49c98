package e2b

import (
	"slices"
	"testing"

	"github.com/aetherium/aetherium/tests/internal/sdk"
)

// byNames are the features that names and TLS have a part in.
const byNames = "TEST_FEATURES=create,connect,commands,pty,files,getHost,connections,kill"

// TestSDKsOverTLS runs the SDKs as `aetherium e2b env` has them set up:
// by names, over TLS, with the server's own authority. Where all was run on the
// default driver, the documentation's matrix of it must say what came of it.
func TestSDKsOverTLS(t *testing.T) {
	driver := wanted(t)
	names := sdk.NewNames(t)
	host := images(t, nil)
	out := newOutside(t)
	s := serve(t, driver, append(names.Settings, registriesEnv+host, out.setting())...)
	environ := append(names.Environ(t, s), "TEST_SCHEME=https", "TEST_REGISTRY="+host, out.variable(), "TEST_DRIVER="+driver, "TEST_API="+s.URL)
	found := sdk.Matrix{By: "tests/e2e/e2b over TLS"}
	for i, p := range sdks {
		t.Run(p.String(), func(t *testing.T) {
			program, dir := install(t, p)
			own := slices.Clone(environ)
			if p.Language == sdk.Python { // what JavaScript's HTTP client makes of it is not foreseeable
				own = append(own, breaksOverTLS(t, environ)...)
			}
			if i%2 > 0 { // what the newer of a language does with the rest, it does, too
				own = append(own, byNames)
			}
			found.Columns = append(found.Columns, p.String())
			for _, r := range play(t, slices.Concat(names.Inside, program), dir, own) {
				found.Add(p.String(), r)
				t.Run(r.Feature+"/"+r.Check, r.Judge)
			}
		})
	}
	sdk.Explain(t, s)
	if !t.Failed() && len(found.Columns) == len(sdks) && driver == defaultDriver {
		found.Compare(t)
	}
}
