package gateway_test

import (
	"encoding/json"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/go-chi/chi/v5"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

var pathParam = regexp.MustCompile(`\{[^}]*\}|\*`)

// Every route there is wants credentials, and a scope of them. Those that do
// not are named here.
func TestEveryRouteNeedsAScope(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	open := map[string]bool{wire.BasePath + "/workers/join": true, wire.BasePath + "/workers/{id}/certificate": true, "/": true, "/e2b/uploads/{token}": true} // which a holder of a key was told
	for _, part := range []string{"path", "dir", "file"} {
		open["/e2b/volumecontent/{volume}/"+part] = true // to who shows the volume's token
	}
	for _, prefix := range []string{"", wire.BasePath} {
		for _, path := range []string{"/health", "/ready", "/docs", "/docs/page.js", "/docs/page.css"} {
			open[prefix+path] = true
		}
	}
	nothing := l.ring.mint(l.project, "nothing", "nothing")
	routes := 0
	err := chi.Walk(l.gateway.Routes(), func(method, route string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		if method == http.MethodConnect || method == http.MethodTrace || open[route] {
			return nil
		}
		routes++
		path := pathParam.ReplaceAllStringFunc(route, func(p string) string {
			if strings.HasPrefix(p, "{port") {
				return "80"
			}
			return "aaaaaaaaaaaaaaaaaaaa"
		})
		for key, want := range map[string]int{"none": http.StatusUnauthorized, nothing: http.StatusForbidden} {
			if resp, body := l.do(req{method: method, path: "http://" + l.addr + path, key: key}); resp.StatusCode != want {
				t.Errorf("%s %s: %d, want %d: %s", method, route, resp.StatusCode, want, body)
			}
		}
		return nil
	})
	if err != nil || routes < 50 {
		t.Errorf("%d routes, %v", routes, err)
	}
}

// What the document says of an operation is what it wants: the scope itself
// will do, the one below it will not.
func TestOperationsNeedTheScopeTheyDeclare(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	scopes := []domain.Scope{"nothing", domain.ScopeRead, domain.ScopeRun, domain.ScopeManage, domain.ScopeAdmin}
	keys := map[domain.Scope]string{}
	below := map[domain.Scope]domain.Scope{}
	for i, scope := range scopes {
		keys[scope] = l.ring.mint(l.project, "key", scope)
		if i > 0 {
			below[scope] = scopes[i-1]
		}
	}
	_, raw := l.want(200, req{method: "GET", path: "/openapi.json"})
	var doc document
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	for path, methods := range doc.Paths {
		for method, text := range methods {
			var op operation
			if err := json.Unmarshal(text, &op); err != nil {
				t.Fatal(err)
			}
			need := domain.Scope(op.Scope)
			if need == "" {
				continue
			}
			method := strings.ToUpper(method)
			at := strings.ReplaceAll(path, "{port}", "80")
			at = pathParam.ReplaceAllString(at, "aaaaaaaaaaaaaaaaaaaa")
			if method != http.MethodHead {
				p := l.problem(http.StatusForbidden, errors.PermissionDenied, req{method: method, path: at, key: keys[below[need]]})
				if !strings.Contains(p.Detail+p.Hint, string(need)) {
					t.Errorf("%s %s: %+v does not name %s", method, path, p, need)
				}
			}
			if resp, body := l.do(req{method: method, path: at, key: keys[need]}); resp.StatusCode == http.StatusForbidden || resp.StatusCode == http.StatusUnauthorized {
				t.Errorf("%s %s with %s: %d %s", method, path, need, resp.StatusCode, body)
			}
		}
	}
}
