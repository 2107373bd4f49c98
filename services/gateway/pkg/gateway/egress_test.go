package gateway_test

import (
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"

	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

func TestEgress(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	vm := get[wire.VM](l, 201, req{method: "POST", path: "/vms", body: `{"network":"nat","egress":{"allow":["pypi.org"],"deny":["*"]},
		"secrets":[{"name":"gh","env":"GH_TOKEN","hosts":["api.github.com"]}]}`})
	if vm.Egress == nil || len(vm.Egress.Allow) != 1 || len(vm.Secrets) != 1 || vm.Secrets[0].Hosts[0] != "api.github.com" {
		t.Fatalf("%+v %+v", vm.Egress, vm.Secrets)
	}
	path := "/vms/" + vm.ID + "/egress"
	if p := get[wire.VMEgress](l, 200, req{method: "PUT", path: path, body: `{"deny":["*.Evil.com"],"learn":true,"dns":["192.0.2.53"]}`}); len(p.DNS) != 1 || len(p.Deny) != 1 || p.Deny[0] != "*.evil.com" || !p.Learn || !p.InForce {
		t.Errorf("set %+v", p)
	}
	if p := get[wire.VMEgress](l, 200, req{method: "GET", path: path}); len(p.Allow) != 0 || p.Deny[0] != "*.evil.com" {
		t.Errorf("got %+v", p)
	}
	rules := `{"rules":[{"host":"API.test","headers":{"authorization":"Bearer secret-1"}}],"proxy":{"address":"proxy.test:1080","username":"u","password":"secret-2"}}`
	for _, q := range []req{{method: "PUT", path: path, body: rules}, {method: "GET", path: path}} {
		p := get[wire.VMEgress](l, 200, q)
		if len(p.Rules) != 1 || p.Rules[0].Host != "api.test" || p.Rules[0].Headers["Authorization"] != "***" || p.Proxy == nil || *p.Proxy != (wire.EgressProxy{Address: "proxy.test:1080", Username: "u", Password: "***"}) {
			t.Errorf("%s: %+v", q.method, p)
		}
	}
	for _, body := range []string{
		`{"rules":[{"host":"api.test","headers":{}}]}`, `{"rules":[{"host":"api.test"}]}`, `{"rules":[{"host":"api.test","headers":{"Host":"x"}}]}`, `{"rules":[{"host":"*","headers":{"A":"b"}}]}`,
		`{"proxy":{"address":"a:1"}}`, `{"proxy":{"address":"proxy.test:1080","password":"p"}}`, `{"proxy":{}}`,
		`{"allow":["http://a"]}`, `{"deny":["::1"]}`, `{"allow":"a.com"}`, `{"deny":[null]}`, `{"allowed":[]}`, `{"dns":["127.0.0.1"]}`, `{"dns":["dns.test"]}`,
		`{"allow":["` + strings.Repeat("a", 300) + `"]}`, `{"deny":[` + strings.Repeat(`"a.com",`, 256) + `"b.com"]}`,
	} {
		l.problem(400, errors.InvalidArgument, req{method: "PUT", path: path, body: body})
	}

	// An empty log has a cursor to go on from.
	if log := get[wire.List[wire.EgressEntry]](l, 200, req{method: "GET", path: path + "/log?after=7"}); len(log.Items) != 0 || log.NextCursor != "7" {
		t.Errorf("an empty log: %+v", log)
	}
	waits := make(chan wire.List[wire.EgressEntry], 1)
	go func() {
		waits <- get[wire.List[wire.EgressEntry]](l, 200, req{method: "GET", path: path + "/log?wait_ms=60000"})
	}()
	l.core.LogEgress(domain.ID(vm.ID), domain.EgressEntry{At: 1_000_000, Verdict: "allow", Via: "tls", Proto: "tcp", Name: "pypi.org", Addr: "203.0.113.7", Port: 443})
	if log := <-waits; len(log.Items) != 1 || log.NextCursor != "1" || log.Items[0].Name != "pypi.org" || log.Items[0].At.Unix() != 1 {
		t.Errorf("waited for %+v", log)
	}
	if p := get[wire.EgressPolicy](l, 200, req{method: "GET", path: path + "/learned"}); len(p.Allow) != 1 || p.Allow[0] != "pypi.org" || p.Deny[0] != "*" {
		t.Errorf("learned %+v", p)
	}
	for _, q := range []string{"after=-1", "limit=0", "limit=1001", "wait_ms=60001"} {
		l.problem(400, errors.InvalidArgument, req{method: "GET", path: path + "/log?" + q})
	}
}
