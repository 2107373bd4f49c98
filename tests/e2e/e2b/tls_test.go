package e2b

import (
	"slices"
	"testing"

	"github.com/aetherium/aetherium/tests/internal/sdk"
)

// byNames are the features that names and TLS have a part in.
const byNames = "TEST_FEATURES=create,connect,commands,pty,files,getHost,connections,kill"

const (
	// breaking are connections that break, and what that needs.
	breaking = "TEST_FEATURES=create,connections"

	// noticing is a Node.js whose HTTP/2 client always takes note of a connection
	// that was reset. Those of the lines 20 and 22 do not
	// (https://github.com/nodejs/node/issues/61304), and what JavaScript's SDKs
	// make of it by them is not foreseeable.
	noticing = "24.22.3"
)

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
			found.Columns = append(found.Columns, p.String())
			run := func(p sdk.Package, environ ...string) {
				program, dir := install(t, p)
				for _, r := range play(t, slices.Concat(names.Inside, program), dir, environ) {
					found.Add(p.String(), r)
					t.Run(r.Feature+"/"+r.Check, r.Judge)
				}
			}
			own := slices.Clone(environ)
			by, breaker := breaksOverTLS(t, environ)
			if p.Language == sdk.Python {
				own = append(own, by...)
			}
			if i%2 > 0 { // what the newer of a language does with the rest, it does, too
				own = append(own, byNames)
			}
			run(p, own...)
			if p.Language == sdk.JS {
				p.Node = noticing
				run(p, slices.Concat(environ, by, []string{breaking})...)
			}
			if !breaker.speaks(2) {
				t.Error("what breaks connections was not asked by HTTP/2")
			}
		})
	}
	sdk.Explain(t, s)
	if !t.Failed() && len(found.Columns) == len(sdks) && driver == defaultDriver {
		found.Compare(t)
	}
}
