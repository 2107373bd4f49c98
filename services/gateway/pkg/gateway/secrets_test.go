package gateway_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// Secrets go in and never come out: not in an answer, not in a refusal, not in
// the log, and not to another project.
func TestSecrets(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	const value = "ghp_correct-horse"
	set := func(key string, body any) req {
		return req{method: "PUT", path: "/secrets/TOKEN", body: body, key: key}
	}
	list := func(key string) []wire.Secret {
		return get[wire.List[wire.Secret]](l, 200, req{method: "GET", path: "/secrets", key: key}).Items
	}
	s := get[wire.Secret](l, 200, set("", wire.SetSecret{Value: value}))
	if s.Name != "TOKEN" || s.CreatedAt.IsZero() || s.UpdatedAt.IsZero() || l.core.Secret(l.project, "TOKEN") != value {
		t.Fatalf("%+v", s)
	}
	if got := list(""); len(got) != 1 || got[0].Name != "TOKEN" {
		t.Errorf("list %+v", got)
	}
	if got := list(l.other); len(got) != 0 {
		t.Errorf("another project sees %+v", got)
	}
	l.problem(404, errors.NotFound, req{method: "DELETE", path: "/secrets/TOKEN", key: l.other})
	get[wire.Secret](l, 200, set(l.other, wire.SetSecret{Value: "theirs"}))
	get[wire.Secret](l, 200, set("", wire.SetSecret{Value: value + "2"})) // replaced
	if l.core.Secret(l.project, "TOKEN") != value+"2" {
		t.Error("another project's secret took the name, or the value is not replaced")
	}
	for _, q := range []req{{method: "GET", path: "/secrets"}, {method: "GET", path: "/events"}} {
		if _, body := l.want(200, q); strings.Contains(string(body), "correct-horse") {
			t.Errorf("%s shows the value: %s", q.path, body)
		}
	}
	for _, body := range []any{
		wire.SetSecret{}, "{}", `{"value":["correct-horse"]}`, `{"value":"correct-horse","more":"correct-horse"}`,
		`{"value":"correct-horse` + "\x00" + `"}`, `{"value":"correct-horse\u0000"}`, `{"value":correct-horse}`,
		wire.SetSecret{Value: strings.Repeat("correct-horse", domain.MaxSecretBytes/13+1)},
		// So many bytes in so few characters.
		wire.SetSecret{Value: "correct-horse" + strings.Repeat("é", domain.MaxSecretBytes/2)},
	} {
		resp, text := l.do(set("", body))
		if resp.StatusCode < 400 || resp.StatusCode > 499 || strings.Contains(string(text), "horse") {
			t.Errorf("%.40s: %d %s", fmt.Sprint(body), resp.StatusCode, text)
		}
	}
	for _, name := range []string{"-a", "a%2Fb", "%20", strings.Repeat("n", 64)} {
		if resp, text := l.do(req{method: "PUT", path: "/secrets/" + name, body: wire.SetSecret{Value: "v"}}); resp.StatusCode < 400 || resp.StatusCode > 499 {
			t.Errorf("%q: %d %s", name, resp.StatusCode, text)
		}
	}
	l.problem(405, errors.MethodNotAllowed, req{method: "GET", path: "/secrets/TOKEN"})
	l.want(204, req{method: "DELETE", path: "/secrets/TOKEN"})
	l.problem(404, errors.NotFound, req{method: "DELETE", path: "/secrets/TOKEN"})
	if strings.Contains(l.log.String(), "horse") {
		t.Error("the log shows the value")
	}
}
