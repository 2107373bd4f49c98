package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/pkg/network/egress"
	"github.com/aetherium/aetherium/services/core/pkg/network/netd/proxy"
	"github.com/aetherium/aetherium/tests/internal/netns"
	"github.com/aetherium/aetherium/tests/internal/server"
)

// apartEnv holds the root filesystem for base, in a test that has a host of its own.
const apartEnv = "AETHERIUM_E2E_APART"

// apart reports whether the caller runs on a host of its own already: network,
// mounts and processes that are nobody else's, without a route to anywhere. If not, it
// runs the test there and reports how it went.
func apart(t *testing.T) bool {
	t.Helper()
	if os.Getenv(apartEnv) != "" {
		return true
	}
	base, err := connect(t).Template(limited(t), "base")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", "-test.v", "-test.run=^"+t.Name()+"$") //nolint:noctx // it has the test's own limit
	cmd.Env = append(os.Environ(), apartEnv+"="+filepath.Join(suite.DataDir, "images", base.Tags["latest"], "rootfs"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWPID, Unshareflags: unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("on its own host: %v", err)
	}
	t.Logf("%s", out)
	return false
}

// internet is a fake one: a namespace behind the host's only link, without a
// route to anywhere, with a resolver, and with HTTP and HTTPS on two addresses.
type internet struct {
	t     *testing.T
	roots string // file with who signs for its hosts
}

const (
	inetPublic   = "203.0.113.10"
	inetSecond   = "203.0.113.11"
	inetResolver = "203.0.113.53"
	inetMetadata = "169.254.169.254"
)

func newInternet(t *testing.T) *internet {
	t.Helper()
	// Leases of user IDs are in /run, and are held against the processes there are.
	check(t, unix.Mount("tmpfs", "/run", "tmpfs", 0, ""))
	check(t, unix.Mount("proc", "/proc", "proc", 0, ""))
	holder := exec.Command("cat") //nolint:noctx // ends with the test
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	stdin, err := holder.StdinPipe()
	check(t, err)
	check(t, holder.Start())
	t.Cleanup(func() { _ = stdin.Close(); _ = holder.Wait() })
	check(t, netns.LinkUp("lo"))
	check(t, netlink.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: "up0"}, PeerName: "down0", PeerNamespace: netlink.NsPid(holder.Process.Pid),
	}))
	check(t, netns.LinkUp("up0", "198.51.100.2/24"))
	check(t, netlink.RouteAdd(&netlink.Route{Gw: net.IPv4(198, 51, 100, 1)}))
	i := &internet{t: t, roots: filepath.Join(t.TempDir(), "roots.pem")}
	ca, err := egress.NewCA("the internet", time.Now())
	check(t, err)
	check(t, os.WriteFile(i.roots, ca.Certificate, 0o600))
	minter, err := proxy.NewMinter(*ca)
	check(t, err)
	check(t, netns.In(fmt.Sprintf("/proc/%d/ns/net", holder.Process.Pid), func() error { return i.serve(minter) }))
	return i
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (i *internet) serve(minter *proxy.Minter) error {
	if err := netns.LinkUp("lo"); err != nil {
		return err
	}
	if err := netns.LinkUp("down0", "198.51.100.1/24", inetPublic+"/32", inetSecond+"/32", inetResolver+"/32", inetMetadata+"/32"); err != nil {
		return err
	}
	for _, ip := range []string{inetPublic, inetSecond, inetMetadata} {
		tell := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = fmt.Fprintf(w, "%s for %s, authorized by [%s]\n", ip, r.Host, r.Header.Get("Authorization"))
		})
		plain, err := net.Listen("tcp4", ip+":80") //nolint:noctx // at once
		if err != nil {
			return err
		}
		secure, err := tls.Listen("tcp4", ip+":443", &tls.Config{ //nolint:gosec // guests of any age
			NextProtos: []string{"h2", "http/1.1"}, GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) { return minter.Leaf(h.ServerName) },
		})
		if err != nil {
			return err
		}
		for _, l := range []net.Listener{plain, secure} {
			s := &http.Server{Handler: tell, ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: 10 * time.Second}
			go func() { _ = s.Serve(l) }()
			i.t.Cleanup(func() { _ = s.Close() })
		}
	}
	packets, err := net.ListenPacket("udp4", inetResolver+":53") //nolint:noctx // at once
	if err != nil {
		return err
	}
	s := &dns.Server{PacketConn: packets, Handler: dns.HandlerFunc(resolve)}
	go func() { _ = s.ActivateAndServe() }()
	i.t.Cleanup(func() { _ = s.Shutdown() })
	return nil
}

// resolve knows every name below test: those that begin with second are on
// the second address, those with metadata on that address, the others on the first.
func resolve(w dns.ResponseWriter, q *dns.Msg) {
	a := new(dns.Msg).SetReply(q)
	name := q.Question[0].Name
	ip := inetPublic
	switch {
	case strings.HasPrefix(name, "second."):
		ip = inetSecond
	case strings.HasPrefix(name, "metadata."):
		ip = inetMetadata
	}
	switch {
	case !strings.HasSuffix(name, ".test."):
		a.Rcode = dns.RcodeNameError
	case q.Question[0].Qtype == dns.TypeA:
		a.Answer = append(a.Answer, &dns.A{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 5}, A: netip.MustParseAddr(ip).AsSlice()})
	}
	_ = w.WriteMsg(a)
}

// server starts a server on the test's own host, with further settings.
func (i *internet) server(settings ...string) *server.Server {
	t := i.t
	t.Helper()
	s, err := server.New(filepath.Join(t.TempDir(), "data"), append([]string{"AETHERIUM_BASE_SKIP=true", "AETHERIUM_POOL_SIZE=1",
		"AETHERIUM_NETWORK_RESOLVERS=" + inetResolver + ":53", "AETHERIUM_NETWORK_ALLOW=203.0.113.0/24", "AETHERIUM_NETWORK_CA_FILE=" + i.roots}, settings...)...)
	check(t, err)
	ctx := limited(t)
	check(t, s.Start(ctx))
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(tail(s.Log(), 100))
		}
		if err := s.Down(context.Background(), "--purge"); err != nil {
			t.Error(err)
		}
		if left := s.Footprint(context.Background()); len(left) > 0 {
			t.Errorf("down left something behind: %v", left)
		}
	})
	_, err = s.CLI(ctx, "template", "build", "base", "--dir", os.Getenv(apartEnv))
	check(t, err)
	return s
}

// guest runs commands in VMs as a user does.
type guest struct {
	t *testing.T
	s *server.Server
}

func (g *guest) cli(args ...string) string {
	g.t.Helper()
	out, err := g.s.CLI(limited(g.t), args...)
	if err != nil {
		g.t.Fatalf("%v: %v", args, err)
	}
	return out
}

// sh runs a line in a VM and gives its output and exit code.
func (g *guest) sh(vm, line string) (string, string) {
	g.t.Helper()
	out := g.cli("exec", vm, "--", "sh", "-c", "("+line+") 2>&1; code=$?; echo; echo $code")
	out = strings.TrimRight(out, "\n")
	i := strings.LastIndexByte(out, '\n')
	return strings.TrimSpace(out[:max(i, 0)]), out[i+1:]
}

func (g *guest) want(vm, line, code string, parts ...string) {
	g.t.Helper()
	out, got := g.sh(vm, line)
	if got != code {
		g.t.Errorf("%s: exit code %s, want %s: %s", line, got, code, out)
	}
	for _, p := range parts {
		if !strings.Contains(out, p) {
			g.t.Errorf("%s: %q has no %q", line, out, p)
		}
	}
}

// curl is what guests ask with: what it cannot do is told by its exit code.
const curl = "curl -sS --max-time 30 "

// From outside the VM: what it reaches is decided by address and by name,
// changed while it runs, kept over the death of every process, and told.
func TestEgress(t *testing.T) {
	if !apart(t) {
		return
	}
	i := newInternet(t)
	s := i.server()
	g := &guest{t, s}

	g.cli("vm", "create", "--name", "plain")
	g.want("plain", curl+"http://any.test/", "0", inetPublic+" for any.test")
	g.want("plain", curl+"http://"+inetMetadata+"/", "7")
	g.want("plain", curl+"http://198.51.100.2/", "7")
	g.want("plain", curl+"http://metadata.test/", "7")

	g.cli("vm", "create", "--name", "job", "--allow", "allowed.test", "--allow", "*.below.test", "--deny", "*")
	g.cli("cp", i.roots, "job:/tmp/roots.pem")
	g.want("job", curl+"--cacert /tmp/roots.pem https://allowed.test/", "0", inetPublic+" for allowed.test") // with its own certificate
	g.want("job", curl+"http://second.below.test/", "0", inetSecond+" for second.below.test")
	g.want("job", curl+"http://refused.test/", "6") // could not resolve
	g.want("job", curl+"-o /dev/null -w '%{http_code}' -H 'Host: refused.test' http://"+inetPublic+"/", "0", "403")
	g.want("job", curl+"-k --resolve refused.test:443:"+inetPublic+" https://refused.test/", "35")
	g.want("job", curl+"http://"+inetMetadata+"/", "0", "egress of this machine to "+inetMetadata+" is refused: private")
	denied := g.cli("egress", "job", "--denied")
	for _, part := range []string{"refused.test", "policy", inetMetadata} {
		if !strings.Contains(denied, part) {
			t.Errorf("the log has no %q: %s", part, denied)
		}
	}
	// Copies are as confined as their origin.
	fork := strings.TrimSpace(g.cli("vm", "fork", "job", "-q"))
	g.want(fork, curl+"http://refused.test/", "6")
	g.want(fork, curl+"http://allowed.test/", "0")

	// Another policy, at once; kill -9 of the server and of netd open nothing.
	g.cli("egress", "set", "job", "--deny", "allowed.test", "--deny", inetSecond)
	g.want("job", curl+"http://allowed.test/", "6")
	g.want("job", curl+"http://other.test/", "0")
	check(t, s.Kill())
	check(t, s.Start(limited(t)))
	g.want("job", curl+"http://allowed.test/", "6")
	g.want("job", curl+"http://other.test/", "0")
	if netd := s.Helpers("aetherium-netd"); len(netd) == 1 {
		check(t, syscall.Kill(netd[0], syscall.SIGKILL))
	} else {
		t.Errorf("netd: %v", netd)
	}
	g.want("job", "until "+curl+"http://other.test/; do :; done", "0", inetPublic+" for other.test")
	g.want("job", curl+"http://allowed.test/", "6")

	// What a run needed, as the policy of the next.
	g.cli("vm", "create", "--name", "learning", "--deny", "*", "--learn")
	g.want("learning", curl+"-k https://needed.test/ && "+curl+"http://also.test/", "0")
	learned := g.cli("egress", "learned", "learning", "-o", "json")
	var p api.EgressPolicy
	check(t, json.Unmarshal([]byte(learned), &p))
	if strings.Join(p.Allow, " ") != "also.test needed.test" || strings.Join(p.Deny, " ") != "*" {
		t.Errorf("learned %+v", p)
	}
	g.cli("egress", "set", "learning", "--allow", p.Allow[0], "--allow", p.Allow[1], "--deny", "*")
	g.want("learning", curl+"http://also.test/", "0")
	g.want("learning", curl+"http://other.test/", "6")
	// The log outlives its VM.
	g.cli("vm", "rm", "learning")
	if out := g.cli("egress", "learning", "-o", "json"); !strings.Contains(out, "needed.test") {
		t.Errorf("the log of a VM that has ended: %s", out)
	}
}

// privateKey is one in PEM, with what it holds: programs that make keys have the
// words alone.
var privateKey = regexp.MustCompile(`-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/]{32}`)

// A secret that is bound to hosts reaches them, and is nowhere in the VM.
func TestSecretsOutsideTheGuest(t *testing.T) {
	if !apart(t) {
		return
	}
	i := newInternet(t)
	s := i.server()
	g := &guest{t, s}
	const value = "ghp_this-is-the-real-one"
	g.cli("secret", "set", "token", "--value", value)
	g.cli("vm", "create", "--name", "job", "--use-secret", "GH_TOKEN=token@api.test,*.bound.test", "--use-secret", "PLAIN=token")
	g.want("job", "echo $GH_TOKEN", "0", "aetherium-secret-")
	g.want("job", "echo $PLAIN", "0", value)
	auth := `-H "Authorization: Bearer $GH_TOKEN" `
	// The VM trusts what it meets there without being told by the user.
	g.want("job", curl+auth+"https://api.test/", "0", "for api.test, authorized by [Bearer "+value+"]")
	g.want("job", `python3 -c "
import os, urllib.request as u
print(u.urlopen(u.Request('https://x.bound.test/', headers={'Authorization': os.environ['GH_TOKEN']})).read().decode())"`, "0", "authorized by ["+value+"]")
	g.want("job", `node -e "fetch('https://api.test/', {headers: {authorization: process.env.GH_TOKEN}}).then(r => r.text()).then(console.log)"`, "0", "authorized by ["+value+"]")
	// Anywhere else it is a placeholder.
	g.want("job", curl+auth+"-k https://other.test/", "0", "authorized by [Bearer aetherium-secret-")
	g.want("job", curl+auth+"http://api.test/", "0", "authorized by [Bearer aetherium-secret-")
	g.cli("vm", "create", "--name", "bound", "--use-secret", "GH_TOKEN=token@api.test")
	for _, look := range []string{"grep -rlaF X /root /home /etc /tmp /var /run /usr/local", "cat /proc/[0-9]*/environ 2>/dev/null | grep -aF X", "env | grep -F X"} {
		if out, _ := g.sh("bound", strings.Replace(look, "X", value[4:], 1)+" 2>/dev/null"); out != "" {
			t.Errorf("%s: %s", look, out)
		}
	}

	// A new value reaches running VMs, and those that outlived the server.
	g.cli("secret", "set", "token", "--value", "rotated")
	g.want("job", curl+auth+"https://api.test/", "0", "[Bearer rotated]")
	check(t, s.Kill())
	for _, pid := range s.Helpers("aetherium-netd") {
		check(t, syscall.Kill(pid, syscall.SIGKILL))
	}
	check(t, s.Start(limited(t)))
	g.want("job", curl+auth+"https://api.test/", "0", "[Bearer rotated]")
	// Neither the log nor what the server writes has it, but for what commands
	// themselves have shown.
	for _, file := range s.Files() {
		if strings.HasSuffix(file, "/tls/authority.pem") {
			continue // another authority's: of the server's own certificates
		}
		raw, err := os.ReadFile(file)
		if err == nil && (strings.Contains(string(raw), value) || privateKey.Match(raw)) {
			t.Errorf("%s holds the secret or the authority's key", file)
		}
	}
	if out := g.cli("egress", "job", "-o", "json"); strings.Contains(out, value) || !strings.Contains(out, "api.test") {
		t.Errorf("the log: %s", out)
	}
	g.cli("secret", "rm", "token")
	if out, err := s.CLI(limited(t), "vm", "create", "--use-secret", "A=token"); err == nil {
		t.Errorf("a secret that is gone: %s", out)
	}
}

// Headers that rules set on the way reach their hosts, and are nowhere in the
// VM; they are set while it runs, and inherited.
func TestHeadersOutsideTheGuest(t *testing.T) {
	if !apart(t) {
		return
	}
	i := newInternet(t)
	s := i.server()
	g := &guest{t, s}
	env := map[string]string{}
	check(t, s.JSON(limited(t), &env, "e2b", "env"))
	const value, second = "ghp_this-is-the-real-one", "ghp_another-real-one"
	vm := strings.TrimSpace(g.cli("vm", "create", "--name", "job", "-q"))
	rules := func(body string) {
		t.Helper()
		req, err := http.NewRequestWithContext(limited(t), http.MethodPut, s.URL+"/e2b/sandboxes/"+vm+"/network", strings.NewReader(body))
		check(t, err)
		req.Header.Set("X-API-KEY", env["E2B_API_KEY"])
		resp, err := http.DefaultClient.Do(req)
		check(t, err)
		text, err := io.ReadAll(resp.Body)
		check(t, errors.Join(err, resp.Body.Close()))
		if resp.StatusCode != http.StatusNoContent {
			t.Fatalf("%d: %s", resp.StatusCode, text)
		}
	}
	with := func(value string) string {
		return `{"rules":{"*.bound.test":[{"transform":{"headers":{"Authorization":"` + value + `"}}}]}}`
	}
	rules(with(value))
	asked := curl + "https://api.bound.test/"
	g.want("job", asked, "0", "for api.bound.test, authorized by ["+value+"]")
	g.want("job", `node -e "fetch('https://api.bound.test/', {headers: {authorization: 'mine'}}).then(r => r.text()).then(console.log)"`, "0", "authorized by ["+value+"]")
	g.want("job", curl+"-k https://other.test/", "0", "authorized by []")
	g.want("job", curl+"http://api.bound.test/", "0", "authorized by []")
	if out, _ := g.sh("job", "(env; cat /proc/[0-9]*/environ; grep -rlaF "+value[4:]+" /root /home /etc /tmp /run /usr/local) 2>/dev/null | grep -aF "+value[4:]+"$"); out != "" {
		t.Errorf("the VM has it: %s", out)
	}
	fork := strings.TrimSpace(g.cli("vm", "fork", "job", "-q"))
	g.want(fork, asked, "0", "authorized by ["+value+"]")

	check(t, s.Kill())
	for _, pid := range s.Helpers("aetherium-netd") {
		check(t, syscall.Kill(pid, syscall.SIGKILL))
	}
	check(t, s.Start(limited(t)))
	g.want("job", asked, "0", "authorized by ["+value+"]")
	rules(with(second))
	g.want("job", asked, "0", "authorized by ["+second+"]")
	g.want(fork, asked, "0", "authorized by ["+value+"]")
	rules(`{}`)
	g.cli("cp", i.roots, "job:/tmp/roots.pem")
	g.want("job", curl+"--cacert /tmp/roots.pem https://api.bound.test/", "0", "authorized by []") // with its own certificate
	for _, file := range s.Files() {
		raw, err := os.ReadFile(file)
		if err == nil && (bytes.Contains(raw, []byte(value)) || bytes.Contains(raw, []byte(second))) && !strings.Contains(file, "/journals/") {
			t.Errorf("%s holds what the headers say: %t", file, bytes.Contains(raw, []byte(value)))
		}
	}
}
