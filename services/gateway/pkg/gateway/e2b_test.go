package gateway_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/guest/signature"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// sandboxAnswer is what E2B's clients get of a sandbox.
type sandboxAnswer struct {
	TemplateID         string `json:"templateID"`
	SandboxID          string `json:"sandboxID"`
	ClientID           string `json:"clientID"`
	Alias              string `json:"alias"`
	EnvdVersion        string `json:"envdVersion"`
	EnvdAccessToken    string `json:"envdAccessToken"`
	TrafficAccessToken string `json:"trafficAccessToken"`
	Domain             string `json:"domain"`
}

// sandboxDetail is what they get of one that they look at.
type sandboxDetail struct {
	TemplateID          string            `json:"templateID"`
	SandboxID           string            `json:"sandboxID"`
	ClientID            string            `json:"clientID"`
	Alias               string            `json:"alias"`
	StartedAt           time.Time         `json:"startedAt"`
	EndAt               time.Time         `json:"endAt"`
	CPUCount            int64             `json:"cpuCount"`
	MemoryMB            int64             `json:"memoryMB"`
	DiskSizeMB          int64             `json:"diskSizeMB"`
	State               string            `json:"state"`
	EnvdVersion         string            `json:"envdVersion"`
	Metadata            map[string]string `json:"metadata"`
	Network             map[string]any    `json:"network"`
	AllowInternetAccess *bool             `json:"allowInternetAccess"`
	Lifecycle           map[string]any    `json:"lifecycle"`
	Domain              string            `json:"domain"`

	VolumeMounts []map[string]string `json:"volumeMounts"`
}

// failureAnswer is an error as E2B's clients know it.
type failureAnswer struct {
	Code      int    `json:"code"`
	Message   string `json:"message"`
	ErrorCode string `json:"error_code"`
}

func (l *lab) e2b(path string) string { return "http://" + l.addr + "/e2b" + path }

func (l *lab) sandbox(body string) sandboxAnswer {
	l.t.Helper()
	return get[sandboxAnswer](l, http.StatusCreated, req{method: "POST", path: l.e2b("/v2/sandboxes"), key: l.user, body: body})
}

// fails does a request and checks that the answer is an error in E2B's form.
func (l *lab) fails(status int, q req) failureAnswer {
	l.t.Helper()
	f := get[failureAnswer](l, status, q)
	if f.Code != status || f.Message == "" {
		l.t.Fatalf("%s %s: failure %+v", q.method, q.path, f)
	}
	return f
}

func TestE2BSandboxLife(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	made := l.sandbox(`{"templateID":"base","timeout":600,"metadata":{"a":"b c&d=é"},"autoPause":true,"autoResume":{"enabled":true},"unknown":1}`)
	_, port, _ := net.SplitHostPort(l.addr)
	if !domain.IsID(made.SandboxID) || made.EnvdAccessToken == "" || made.TrafficAccessToken != "" || made.ClientID == "" ||
		made.EnvdVersion == "" || made.TemplateID == "" || made.Alias != "base" || made.Domain != "aeth.localhost:"+port {
		t.Fatalf("%+v", made)
	}
	path := l.e2b("/sandboxes/" + made.SandboxID)
	info := get[sandboxDetail](l, 200, req{method: "GET", path: path, key: l.user})
	if info.State != "running" || info.Metadata["a"] != "b c&d=é" || info.CPUCount != 1 || info.MemoryMB != 512 || info.DiskSizeMB != 1024 ||
		info.EndAt.Sub(info.StartedAt) != 10*time.Minute || info.Lifecycle["onTimeout"] != "pause" || info.Lifecycle["autoResume"] != true {
		t.Fatalf("%+v", info)
	}
	// The same under the name of the control plane, and by the first generation's routes.
	byName := get[sandboxDetail](l, 200, req{method: "GET", path: "http://api.aeth.localhost:" + port + "/sandboxes/" + made.SandboxID, key: l.user})
	if byName.SandboxID != made.SandboxID {
		t.Fatalf("%+v", byName)
	}
	old := get[sandboxAnswer](l, 201, req{method: "POST", path: l.e2b("/sandboxes"), key: l.user, body: `{"templateID":"base"}`})
	if info := get[sandboxDetail](l, 200, req{method: "GET", path: l.e2b("/sandboxes/" + old.SandboxID), key: l.user}); info.EndAt.Sub(info.StartedAt) != 15*time.Second {
		t.Errorf("the first generation's default: %+v", info)
	}

	l.want(204, req{method: "POST", path: path + "/timeout", key: l.user, body: `{"timeout":60}`})
	if got := get[sandboxAnswer](l, 200, req{method: "POST", path: l.e2b("/v2/sandboxes/" + made.SandboxID + "/connect"), key: l.user, body: `{"timeout":30}`}); got.EnvdAccessToken != made.EnvdAccessToken {
		t.Errorf("connected: %+v", got)
	}
	if left := time.Until(get[sandboxDetail](l, 200, req{method: "GET", path: path, key: l.user}).EndAt); left < 40*time.Second || left > time.Minute {
		t.Errorf("connecting shortened its time to %v", left)
	}

	l.want(204, req{method: "POST", path: path + "/pause", key: l.user})
	l.fails(409, req{method: "POST", path: path + "/pause", key: l.user, body: `{}`})
	if info := get[sandboxDetail](l, 200, req{method: "GET", path: path, key: l.user}); info.State != "paused" {
		t.Errorf("paused: %+v", info)
	}
	get[sandboxAnswer](l, 201, req{method: "POST", path: path + "/connect", key: l.user, body: `{"timeout":500}`})
	if left := time.Until(get[sandboxDetail](l, 200, req{method: "GET", path: path, key: l.user}).EndAt); left < 400*time.Second {
		t.Errorf("resumed for %v", left)
	}

	l.want(204, req{method: "DELETE", path: path, key: l.user})
	for _, q := range []req{
		{method: "DELETE", path: path}, {method: "GET", path: path}, {method: "POST", path: path + "/pause"},
		{method: "POST", path: path + "/connect", body: `{}`}, {method: "POST", path: path + "/timeout", body: `{"timeout":1}`},
		{method: "GET", path: path + "/metrics"}, {method: "POST", path: path + "/snapshots", body: `{}`},
		{method: "GET", path: l.e2b("/sandboxes/not-an-id")}, {method: "GET", path: l.e2b("/nothing")},
	} {
		q.key = l.user
		l.fails(404, q)
	}
}

func TestE2BRefuses(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	made := l.sandbox(`{"templateID":"base"}`)
	l.fails(401, req{method: "GET", path: l.e2b("/v2/sandboxes"), key: "none"})
	l.fails(401, req{method: "GET", path: l.e2b("/v2/sandboxes"), key: "e2b_" + strings.Repeat("0", 40)})
	l.fails(404, req{method: "GET", path: l.e2b("/sandboxes/" + made.SandboxID), key: l.other})
	l.fails(404, req{method: "POST", path: l.e2b("/v2/sandboxes"), key: l.user, body: `{"templateID":"no-such-template"}`})
	reader := l.ring.mint(l.project, "reader", domain.ScopeRead)
	l.fails(403, req{method: "POST", path: l.e2b("/v2/sandboxes"), key: reader, body: `{"templateID":"base"}`})
	runner := l.ring.mint(l.project, "runner", domain.ScopeRun)
	l.fails(403, req{method: "DELETE", path: l.e2b("/templates/base"), key: runner})
	for name, body := range map[string]string{
		"no JSON":      `{`,
		"a timeout":    `{"templateID":"base","timeout":-1}`,
		"a long one":   `{"templateID":"base","timeout":99999999999}`,
		"egress proxy": `{"templateID":"base","network":{"egressProxy":{"address":"proxy.test:1080","tls":{"enabled":true}}}}`,
		"its address":  `{"templateID":"base","network":{"egressProxy":{"address":"a:1"}}}`,
		"its password": `{"templateID":"base","network":{"egressProxy":{"address":"proxy.test:1080","password":"p"}}}`,
		"identities":   `{"templateID":"base","network":{"rules":{"a.example":[{},{"transform":{"headers":{"A":"Bearer ${e2b.identity.tokens.x}"}}}]}}}`,
		"no resolver":  `{"templateID":"base","network":{"dnsServers":[]}}`,
		"no port":      `{"templateID":"base","network":{"httpsPorts":[65536]}}`,
	} {
		t.Run(name, func(t *testing.T) {
			l.fails(400, req{method: "POST", path: l.e2b("/v2/sandboxes"), key: l.user, body: body})
		})
	}
	l.sandbox(`{"templateID":"base","network":{"rules":{"a.example":[{}],"b.example":[]},"allowOut":["a.example"]}}`)
	sets := l.sandbox(`{"templateID":"base","network":{"rules":{"A.example":[{"transform":{"headers":{"authorization":"secret-1","X-A":"b"}}},{"transform":{"headers":{"x-a":"c"}}}]}}}`)
	if n := get[sandboxDetail](l, 200, req{method: "GET", path: l.e2b("/sandboxes/" + sets.SandboxID), key: l.user}).Network; fmt.Sprint(n["rules"]) != "map[a.example:[map[transform:map[headers:map[Authorization:*** X-A:***]]]]]" {
		t.Errorf("rules: %v", n)
	}
	for _, body := range []string{`{"rules":{"*":[{"transform":{"headers":{"A":"b"}}}]}}`, `{"rules":{"a.test":[{"transform":{"headers":{"Host":"b"}}}]}}`, `{"rules":{"a.test":[{"transform":{"headers":{"A":"secret-2\n"}}}]}}`} {
		l.fails(400, req{method: "PUT", path: l.e2b("/sandboxes/" + sets.SandboxID + "/network"), key: l.user, body: body})
	}
	tunnels := l.sandbox(`{"templateID":"base","network":{"egressProxy":{"address":"proxy.test:1080","username":"u","password":"secret-3"}}}`)
	if n := get[sandboxDetail](l, 200, req{method: "GET", path: l.e2b("/sandboxes/" + tunnels.SandboxID), key: l.user}).Network; fmt.Sprint(n["egressProxy"]) != "map[address:proxy.test:1080 username:u]" {
		t.Errorf("proxy: %v", n)
	}
	asks := l.sandbox(`{"templateID":"base","network":{"dnsServers":["203.0.113.53"]}}`)
	path := l.e2b("/sandboxes/" + asks.SandboxID)
	if n := get[sandboxDetail](l, 200, req{method: "GET", path: path, key: l.user}).Network; fmt.Sprint(n["dnsServers"]) != "[203.0.113.53]" {
		t.Errorf("resolvers: %v", n)
	}
	l.want(204, req{method: "PUT", path: path + "/network", key: l.user, body: `{"denyOut":["203.0.113.0/24"]}`})
	if n := get[sandboxDetail](l, 200, req{method: "GET", path: path, key: l.user}).Network; n["dnsServers"] != nil {
		t.Errorf("resolvers that were left out stay: %v", n)
	}
	for _, body := range []string{`["2001:db8::53"]`, `["203.0.113.1:5353"]`, `["10.0.0.1"` + strings.Repeat(`,"10.0.0.1"`, 10) + `]`, `[]`} {
		l.fails(400, req{method: "PUT", path: path + "/network", key: l.user, body: `{"dnsServers":` + body + `}`})
	}
	l.fails(400, req{method: "GET", path: l.e2b("/v2/sandboxes?state=dead"), key: l.user})
	l.fails(400, req{method: "GET", path: l.e2b("/v2/sandboxes?limit=0"), key: l.user})
	l.fails(413, req{method: "POST", path: l.e2b("/v2/sandboxes"), key: l.user, body: `{"templateID":"` + strings.Repeat("x", 2<<20) + `"}`})
}

func TestE2BLists(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	var ids []string
	for i := range 5 {
		ids = append(ids, l.sandbox(fmt.Sprintf(`{"templateID":"base","metadata":{"n":"%d","of":"a b&c"}}`, i%2)).SandboxID)
	}
	l.want(204, req{method: "POST", path: l.e2b("/sandboxes/" + ids[0] + "/pause"), key: l.user})
	var seen []string
	next := ""
	for pages := 0; ; pages++ {
		if pages > 5 {
			t.Fatal("the list does not end")
		}
		resp, _ := l.want(200, req{method: "GET", path: l.e2b("/v2/sandboxes?limit=2&order=asc&nextToken=" + url.QueryEscape(next)), key: l.user})
		list := get[[]sandboxDetail](l, 200, req{method: "GET", path: l.e2b("/v2/sandboxes?limit=2&order=asc&nextToken=" + url.QueryEscape(next)), key: l.user})
		for _, s := range list {
			seen = append(seen, s.SandboxID)
		}
		if next = resp.Header.Get("X-Next-Token"); next == "" {
			break
		}
	}
	if strings.Join(seen, " ") != strings.Join(ids, " ") {
		t.Errorf("listed %v, want %v", seen, ids)
	}
	twice := url.QueryEscape(url.QueryEscape("n") + "=" + url.QueryEscape("1") + "&" + url.QueryEscape("of") + "=" + url.QueryEscape("a b&c"))
	if list := get[[]sandboxDetail](l, 200, req{method: "GET", path: l.e2b("/sandboxes?metadata=" + twice), key: l.user}); len(list) != 2 {
		t.Errorf("by metadata: %+v", list)
	}
	if list := get[[]sandboxDetail](l, 200, req{method: "GET", path: l.e2b("/v2/sandboxes?state=paused"), key: l.user}); len(list) != 1 || list[0].SandboxID != ids[0] {
		t.Errorf("paused: %+v", list)
	}
	if list := get[[]sandboxDetail](l, 200, req{method: "GET", path: l.e2b("/v2/sandboxes"), key: l.other}); len(list) != 0 {
		t.Errorf("another project sees %+v", list)
	}
}

// agentOf makes a sandbox whose agent is a handler.
func agentOf(t *testing.T, l *lab, h http.Handler) sandboxAnswer {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	made := l.sandbox(`{"templateID":"base"}`)
	l.core.Expose(domain.ID(made.SandboxID), vmm.AgentPort, srv.Listener.Addr().String())
	return made
}

func TestE2BAgent(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	made := agentOf(t, l, http.HandlerFunc(echo))
	other := agentOf(t, l, http.HandlerFunc(echo))
	_, port, _ := net.SplitHostPort(l.addr)
	hosts := map[string]map[string]string{
		"http://" + l.addr:                      {"E2b-Sandbox-Id": made.SandboxID, "E2b-Sandbox-Port": strconv.Itoa(vmm.AgentPort)},
		"http://sandbox.aeth.localhost:" + port: {"E2b-Sandbox-Id": made.SandboxID},
		fmt.Sprintf("http://%d-%s.aeth.localhost:%s", vmm.AgentPort, made.SandboxID, port): {},
	}
	for base, header := range hosts {
		with := func(more ...string) map[string]string {
			h := map[string]string{}
			for k, v := range header {
				h[k] = v
			}
			for i := 0; i < len(more); i += 2 {
				h[more[i]] = more[i+1]
			}
			return h
		}
		_, body := l.want(200, req{method: "POST", path: base + "/process.Process/List", key: "none", body: "{}", header: with(
			"X-Access-Token", made.EnvdAccessToken, "Authorization", "Basic dXNlcjo=", "X-Api-Key", l.admin, "Cookie", "a=1")})
		got := string(body)
		if !strings.Contains(got, "POST /process.Process/List\n") || !strings.Contains(got, "Authorization: Basic dXNlcjo=") {
			t.Errorf("%s: the agent got\n%s", base, got)
		}
		for _, never := range []string{made.EnvdAccessToken, l.admin, "E2b-", "Cookie"} {
			if strings.Contains(got, never) {
				t.Errorf("%s: the agent got %q in\n%s", base, never, got)
			}
		}
		l.want(204, req{method: "GET", path: base + "/health", key: "none", header: with()})
		for _, token := range []string{"", "wrong", other.EnvdAccessToken, l.core.Token(domain.ID(made.SandboxID)), l.user} {
			resp, body := l.do(req{method: "POST", path: base + "/filesystem.Filesystem/Stat", key: "none", body: "{}", header: with("X-Access-Token", token)})
			if resp.StatusCode != http.StatusUnauthorized || !strings.Contains(string(body), `"code":"unauthenticated"`) {
				t.Errorf("%s with token %q: %d %s", base, token, resp.StatusCode, body)
			}
		}
		// What is the host's alone.
		for _, path := range []string{
			"/init", "/", "/aetherium/file?path=/etc/shadow", "/aetherium/port/22", "/aetherium.guest.v1.MachineService/Configure", "/aetherium.guest.v1.ExecutionService/Start",
			"/process.Process", "/files/../init", "//init", "/files/", "/process.Process/../init",
		} {
			for _, method := range []string{"GET", "POST"} {
				resp, body := l.do(req{method: method, path: base + path, key: "none", header: with("X-Access-Token", made.EnvdAccessToken)})
				if resp.StatusCode == http.StatusOK && !strings.Contains(string(body), "/process.Process/") {
					t.Errorf("%s %s%s reached the agent: %s", method, base, path, body)
				}
			}
		}
	}
}

func TestE2BSignedFiles(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	made := agentOf(t, l, http.HandlerFunc(echo))
	_, port, _ := net.SplitHostPort(l.addr)
	base := fmt.Sprintf("http://%d-%s.aeth.localhost:%s/files?", vmm.AgentPort, made.SandboxID, port)
	in := func(d time.Duration) string { return strconv.FormatInt(time.Now().Add(d).Unix(), 10) }
	sign := func(path string, op signature.Operation, user, until string) url.Values {
		q := url.Values{"path": {path}, "signature": {signature.Make(path, op, user, made.EnvdAccessToken, until)}}
		if user != "" {
			q.Set("username", user)
		}
		if until != "" {
			q.Set("signature_expiration", until)
		}
		return q
	}
	_, body := l.want(200, req{method: "GET", path: base + sign("/a", signature.Read, "", in(time.Hour)).Encode(), key: "none", header: map[string]string{"Authorization": "Basic cm9vdDo="}})
	if strings.Contains(string(body), "Authorization") {
		t.Errorf("who holds a signature acts as somebody else:\n%s", body)
	}
	l.want(200, req{method: "POST", path: base + sign("/a", signature.Write, "root", "").Encode(), key: "none", body: "x"})
	forged := sign("/a", signature.Read, "", "")
	forged.Set("path", "/etc/shadow")
	asRoot := sign("/a", signature.Read, "", "")
	asRoot.Set("username", "root")
	for name, q := range map[string]req{
		"nothing":         {method: "GET", path: base + "path=/a"},
		"expired":         {method: "GET", path: base + sign("/a", signature.Read, "", in(-time.Minute)).Encode()},
		"another file":    {method: "GET", path: base + forged.Encode()},
		"another user":    {method: "GET", path: base + asRoot.Encode()},
		"to write":        {method: "POST", path: base + sign("/a", signature.Read, "", "").Encode(), body: "x"},
		"another service": {method: "POST", path: strings.Replace(base, "/files?", "/process.Process/List?", 1) + sign("/a", signature.Write, "", "").Encode(), body: "{}"},
	} {
		q.key = "none"
		if resp, body := l.do(q); resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: %d %s", name, resp.StatusCode, body)
		}
	}
}

func TestE2BTraffic(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	srv := httptest.NewServer(http.HandlerFunc(echo))
	t.Cleanup(srv.Close)
	_, port, _ := net.SplitHostPort(l.addr)
	show := func(s sandboxAnswer) string {
		l.core.Expose(domain.ID(s.SandboxID), 8080, srv.Listener.Addr().String())
		return fmt.Sprintf("http://8080-%s.aeth.localhost:%s/", s.SandboxID, port)
	}
	public := l.sandbox(`{"templateID":"base","network":{"maskRequestHost":"localhost:${PORT}"}}`)
	if _, body := l.want(200, req{method: "GET", path: show(public), key: "none"}); !strings.Contains(string(body), "Host: localhost:8080\n") {
		t.Errorf("the server was told\n%s", body)
	}
	private := l.sandbox(`{"templateID":"base","network":{"allowPublicTraffic":false}}`)
	if private.TrafficAccessToken == "" || private.TrafficAccessToken == private.EnvdAccessToken {
		t.Fatalf("%+v", private)
	}
	at := show(private)
	if resp, body := l.do(req{method: "GET", path: at, key: "none"}); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("without a token: %d %s", resp.StatusCode, body)
	}
	if resp, body := l.do(req{method: "GET", path: at, key: "none", header: map[string]string{"E2b-Traffic-Access-Token": "wrong"}}); resp.StatusCode != http.StatusForbidden {
		t.Errorf("with a wrong token: %d %s", resp.StatusCode, body)
	}
	l.want(200, req{method: "GET", path: at, key: "none", header: map[string]string{"E2b-Traffic-Access-Token": private.TrafficAccessToken}})

	// A server that speaks TLS itself, with a certificate of its own.
	secure := l.sandbox(`{"templateID":"base","network":{"httpsPorts":[8443]},"mcp":{"exa":{"apiKey":"k"}}}`)
	own := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Host+" "+r.Proto+" "+strconv.FormatBool(r.TLS != nil))
	}))
	t.Cleanup(own.Close)
	l.core.Expose(domain.ID(secure.SandboxID), 8443, own.Listener.Addr().String())
	atSecure := strings.Replace(show(secure), "//8080-", "//8443-", 1)
	if _, body := l.do(req{method: "GET", path: atSecure, key: "none"}); !strings.HasSuffix(string(body), " HTTP/1.1 true") || !strings.HasPrefix(string(body), "8443-"+secure.SandboxID) {
		t.Errorf("a server with TLS answers %s", body)
	}
	if n := get[sandboxDetail](l, 200, req{method: "GET", path: l.e2b("/sandboxes/" + secure.SandboxID), key: l.user}).Network; fmt.Sprint(n["httpsPorts"]) != "[8443]" {
		t.Errorf("it is shown as %v", n)
	}

	// By headers, and where nothing is.
	l.want(200, req{method: "GET", path: "http://" + l.addr + "/", key: "none", header: map[string]string{"E2b-Sandbox-Id": public.SandboxID, "E2b-Sandbox-Port": "8080"}})
	type gone struct {
		SandboxID string `json:"sandboxId"`
		Message   string `json:"message"`
		Port      int    `json:"port"`
		Code      int    `json:"code"`
	}
	closed := get[gone](l, 502, req{method: "GET", path: "http://" + l.addr + "/", key: "none", header: map[string]string{"E2b-Sandbox-Id": public.SandboxID, "E2b-Sandbox-Port": "8081"}})
	if closed != (gone{public.SandboxID, "The sandbox is running but port is not open", 8081, 502}) {
		t.Errorf("a closed port: %+v", closed)
	}
	// One whose agent does not answer is not gone: clients give up one that is.
	silent := func(what, retryAfter string) {
		t.Helper()
		for path, status := range map[string]int{"/health": 503, "/process.Process/List": 502} { // SDKs take 502 of /health for gone
			q := req{method: "POST", path: "http://" + l.addr + path, key: "none", body: "{}"}
			q.header = map[string]string{"E2b-Sandbox-Id": public.SandboxID, "X-Access-Token": public.EnvdAccessToken}
			resp, body := l.want(status, q)
			var told gone
			if err := json.Unmarshal(body, &told); err != nil || told != (gone{public.SandboxID, "The sandbox cannot be reached now", 0, status}) || resp.Header.Get("Retry-After") != retryAfter {
				t.Errorf("%s of %s: %s %v", path, what, body, resp.Header)
			}
		}
	}
	silent("an agent that does not answer", "")
	l.core.Away(domain.ID(public.SandboxID))
	silent("a sandbox whose worker is away", "5")
	// Nor is it known what its servers do.
	resp, text := l.want(503, req{method: "GET", path: "http://" + l.addr + "/", key: "none", header: map[string]string{"E2b-Sandbox-Id": public.SandboxID, "E2b-Sandbox-Port": "8080"}})
	if !strings.Contains(string(text), "The sandbox cannot be reached now") || resp.Header.Get("Retry-After") != "5" {
		t.Errorf("a server in it: %s %v", text, resp.Header)
	}
	resp, text = l.want(502, req{method: "GET", path: show(public), key: "none"})
	if !strings.Contains(string(text), "its worker is away") || strings.Contains(string(text), "listening") || resp.Header.Get("Retry-After") != "5" {
		t.Errorf("a server in it, by its name: %s %v", text, resp.Header)
	}
	l.core.Back(domain.ID(public.SandboxID))
	l.want(204, req{method: "DELETE", path: l.e2b("/sandboxes/" + public.SandboxID), key: l.user})
	dead := get[gone](l, 502, req{method: "GET", path: "http://" + l.addr + "/health", key: "none", header: map[string]string{"E2b-Sandbox-Id": public.SandboxID}})
	if dead != (gone{public.SandboxID, "The sandbox was not found", 0, 502}) {
		t.Errorf("a dead sandbox: %+v", dead)
	}
}

type metricAnswer struct {
	Timestamp     time.Time `json:"timestamp"`
	TimestampUnix int64     `json:"timestampUnix"`
	CPUCount      int64     `json:"cpuCount"`
	CPUUsedPct    float64   `json:"cpuUsedPct"`
	MemUsed       int64     `json:"memUsed"`
	MemTotal      int64     `json:"memTotal"`
	MemCache      int64     `json:"memCache"`
	DiskUsed      int64     `json:"diskUsed"`
	DiskTotal     int64     `json:"diskTotal"`
}

func TestE2BMetrics(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	made := l.sandbox(`{"templateID":"base"}`)
	at := l.e2b("/sandboxes/" + made.SandboxID + "/metrics")
	ask := func(query string) []metricAnswer {
		t.Helper()
		return get[[]metricAnswer](l, 200, req{method: "GET", path: at + query, key: l.user})
	}
	all := ask("")
	if len(all) != 11 || all[0].CPUUsedPct != 50 || all[0].MemUsed != 42<<20 || all[0].DiskUsed != 1<<20 {
		t.Fatalf("%d: %+v", len(all), all)
	}
	if !slices.IsSortedFunc(all, func(a, b metricAnswer) int { return a.Timestamp.Compare(b.Timestamp) }) {
		t.Errorf("out of order: %+v", all)
	}
	// A minute is a span, so half a minute around a point has it alone.
	third := all[2].TimestampUnix
	if got := ask(fmt.Sprintf("?start=%d&end=%d", third-30, third+30)); len(got) != 1 {
		t.Errorf("around one: %+v", got)
	}
	if got := ask(fmt.Sprintf("?start=%d", third-30)); len(got) != 9 {
		t.Errorf("from one on: %d", len(got))
	}
	if got := ask(fmt.Sprintf("?end=%d", third+30)); len(got) != 3 {
		t.Errorf("to one: %d", len(got))
	}
	for _, query := range []string{"?end=1000", "?start=1000&end=2000", fmt.Sprintf("?start=%d", third+100000), fmt.Sprintf("?start=%d&end=%d", third+30, third-30)} {
		if got := ask(query); len(got) != 0 {
			t.Errorf("%s: %+v", query, got)
		}
	}
	for _, query := range []string{"?start=x", "?end=-1", "?start=0"} {
		l.fails(400, req{method: "GET", path: at + query, key: l.user})
	}
	l.want(204, req{method: "POST", path: l.e2b("/sandboxes/" + made.SandboxID + "/pause"), key: l.user})
	if got := ask(""); len(got) != 10 {
		t.Errorf("paused: %d", len(got))
	}
}

// templateAnswer and the others are what the SDKs get as they build a template.
type templateAnswer struct {
	TemplateID string   `json:"templateID"`
	BuildID    string   `json:"buildID"`
	Public     bool     `json:"public"`
	Names      []string `json:"names"`
	Tags       []string `json:"tags"`
	Aliases    []string `json:"aliases"`
}

type filesAnswer struct {
	Present bool   `json:"present"`
	URL     string `json:"url"`
}

type buildAnswer struct {
	TemplateID string              `json:"templateID"`
	BuildID    string              `json:"buildID"`
	Status     string              `json:"status"`
	Logs       []string            `json:"logs"`
	LogEntries []map[string]string `json:"logEntries"`
	Reason     map[string]string   `json:"reason"`
}

type tagAnswer struct {
	Tag       string    `json:"tag"`
	BuildID   string    `json:"buildID"`
	CreatedAt time.Time `json:"createdAt"`
}

func TestE2BTemplates(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	made := get[templateAnswer](l, 202, req{method: "POST", path: l.e2b("/v3/templates"), key: l.user, body: `{"name":"mine:v1","tags":["v2"],"cpuCount":2,"memoryMB":512}`})
	if made.TemplateID != "mine" || len(made.BuildID) != 36 || strings.Join(made.Tags, " ") != "v1 v2" {
		t.Fatalf("%+v", made)
	}
	files := l.e2b("/templates/mine/files/abc123")
	first := get[filesAnswer](l, 201, req{method: "GET", path: files, key: l.user})
	if first.Present || !strings.HasPrefix(first.URL, "http://"+l.addr+"/e2b/") {
		t.Fatalf("%+v", first)
	}
	status := l.e2b("/templates/mine/builds/" + made.BuildID + "/status?logsOffset=0")
	if got := get[buildAnswer](l, 200, req{method: "GET", path: status, key: l.user}); got.Status != "waiting" || len(got.LogEntries) != 0 {
		t.Errorf("before it began: %+v", got)
	}
	build := req{method: "POST", path: l.e2b("/v2/templates/mine/builds/" + made.BuildID), key: l.user, body: `{
		"fromTemplate":"base","startCmd":"serve","readyCmd":"up","steps":[
		{"type":"RUN","args":["echo \"a\"\nUSER x"]},{"type":"RUN","args":["id","root"]},{"type":"ENV","args":["A","b \"c\"\nUSER x"]},
		{"type":"WORKDIR","args":["/w"]},{"type":"USER","args":["other"]},{"type":"COPY","args":["src","dst","",""],"filesHash":"abc123"},
		{"type":"COPY","args":["src","run","root","0755"],"filesHash":"abc123"}]}`}
	l.fails(404, build) // its files were not sent
	// The address needs no key, and works once.
	l.want(200, req{method: "PUT", path: first.URL, key: "none", body: tarOf(t, map[string]string{"src/one": "1", "../../out": "2"})})
	l.fails(404, req{method: "PUT", path: first.URL, key: "none", body: []byte("again")})
	if again := get[filesAnswer](l, 201, req{method: "GET", path: files, key: l.user}); !again.Present {
		t.Errorf("sent: %+v", again)
	}
	if theirs := get[filesAnswer](l, 201, req{method: "GET", path: files, key: l.other}); theirs.Present {
		t.Error("another project has the files")
	}
	theirs := build
	theirs.key = l.other
	l.fails(404, theirs)

	l.want(202, build)
	asked := l.core.Built()[0]
	const want = "FROM base\nUSER user\nWORKDIR /home/user\n" +
		`RUN ["/bin/bash","-l","-c","echo \"a\"\nUSER x"]` + "\n" +
		"USER \"root\"\n" + `RUN ["/bin/bash","-l","-c","id"]` + "\nUSER \"user\"\n" +
		`ENV A="b \"c\" USER x"` + "\nWORKDIR \"/w\"\nUSER \"other\"\n" + `COPY --chown="other" ["abc123/src","dst"]` + "\n" +
		`COPY --chown="root" --chmod="0755" ["abc123/src","run"]` + "\n"
	if asked.Source.Steps != want {
		t.Errorf("the steps are\n%s\nwant\n%s", asked.Source.Steps, want)
	}
	if !domain.IsID(asked.ID.String()) || asked.Name != "mine" || asked.Shape.MilliCPU != 2000 || asked.Shape.MemoryBytes != 512<<20 || asked.Warm.Start != "serve" || asked.Warm.Ready != "up" || !asked.TryStart {
		t.Errorf("%+v", asked)
	}
	if names := l.namesIn(asked.Source.Context); strings.Join(names, " ") != "abc123/out abc123/src/one" {
		t.Errorf("it copies from %v", names)
	}
	l.core.LoseUploads()
	if away := get[filesAnswer](l, 201, req{method: "GET", path: files, key: l.user}); away.Present {
		t.Error("files are there whose worker is away")
	}
	got := get[buildAnswer](l, 200, req{method: "GET", path: status, key: l.user})
	if got.Status != "ready" || strings.Join(got.Logs, "\n") != "step 1\nstep 2" || len(got.LogEntries) != 2 || got.LogEntries[0]["message"] != "step 1" {
		t.Errorf("%+v", got)
	}
	if rest := get[buildAnswer](l, 200, req{method: "GET", path: l.e2b("/templates/mine/builds/" + made.BuildID + "/status?logsOffset=2"), key: l.user}); len(rest.LogEntries) != 0 {
		t.Errorf("past its end: %+v", rest)
	}
	l.core.LoseLogs()
	if got := get[buildAnswer](l, 200, req{method: "GET", path: status, key: l.user}); got.Status != "ready" || len(got.LogEntries) != 0 {
		t.Errorf("while the build's worker is away: %+v", got)
	}
	// Tags come and go; the default one stays.
	tagging := req{method: "POST", path: l.e2b("/templates/tags"), key: l.user, body: `{"target":"mine:default","tags":["v3","v4"]}`}
	if tagged := get[templateAnswer](l, 201, tagging); tagged.BuildID != made.BuildID || strings.Join(tagged.Tags, " ") != "v3 v4" {
		t.Errorf("%+v", tagged)
	}
	untagging := req{method: "DELETE", path: l.e2b("/templates/tags"), key: l.user, body: `{"name":"mine","tags":["v4","never"]}`}
	l.want(204, untagging)
	tags := get[[]tagAnswer](l, 200, req{method: "GET", path: l.e2b("/templates/mine/tags"), key: l.user})
	if len(tags) != 2 || tags[0].Tag != "default" || tags[1].Tag != "v3" || tags[1].BuildID != made.BuildID || tags[1].CreatedAt.IsZero() {
		t.Errorf("%+v", tags)
	}
	reader := l.ring.mint(l.project, "reader", domain.ScopeRead)
	tagging.key, untagging.key = reader, reader
	l.fails(403, tagging)
	l.fails(403, untagging)
	l.fails(404, req{method: "GET", path: l.e2b("/templates/Not*a*name/tags"), key: l.user})
	l.want(200, req{method: "GET", path: l.e2b("/templates/aliases/mine"), key: l.user})
	l.fails(404, req{method: "GET", path: l.e2b("/templates/aliases/other"), key: l.user})
	l.fails(404, req{method: "GET", path: l.e2b("/templates/mine/builds/" + domain.NewID().String() + "/status"), key: l.user})
	for name, body := range map[string]string{
		"nothing to begin from": `{"steps":[]}`, "more than a name": `{"fromImage":"a\nRUN b"}`, "an unknown step": `{"fromTemplate":"base","steps":[{"type":"ADD","args":["a","b"]}]}`,
		"a path for a hash": `{"fromTemplate":"base","steps":[{"type":"COPY","args":["a","b"],"filesHash":"../x"}]}`,
	} {
		t.Run(name, func(*testing.T) {
			bad := build
			bad.body = body
			l.fails(400, bad)
		})
	}
}

func tarOf(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	zip := gzip.NewWriter(&b)
	w := tar.NewWriter(zip)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(files[name])), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(w, files[name])
	}
	if err := errors.Join(w.Close(), zip.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func (l *lab) namesIn(upload string) []string {
	l.t.Helper()
	f, err := l.core.OpenUpload(l.t.Context(), vmm.Caller{ProjectID: l.project}, domain.ID(upload))
	if err != nil {
		l.t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	var out []string
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err != nil {
			return out
		}
		out = append(out, h.Name)
	}
}
