package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/pkg/client"
)

// proxyPart begins the names of benchmarks of previews.
const proxyPart = "proxy, "

const (
	proxyPort   = 8080
	proxyBody   = 256 << 20
	proxyAsks   = 200 // of each round of the latency
	proxyRounds = 5   // of large bodies
)

// The roles that this program has beside its own.
const (
	roleGuest   = "guest-server"  // the server in a VM
	roleMinimal = "minimal-proxy" // what ours is compared with
	roleAnswer  = "fixed-answer"  // a server that says the same all the time
)

// role plays a role, if that is what the arguments say.
func role(args []string, out io.Writer) (played bool, err error) {
	switch {
	case len(args) == 1 && args[0] == roleGuest:
		return true, serveGuest(out)
	case len(args) == 2 && args[0] == roleMinimal:
		return true, serveMinimal(args[1], out)
	case len(args) == 2 && args[0] == roleAnswer:
		return true, serveAnswer(args[1], out)
	}
	return false, nil
}

// play starts this program in a role. lines are what it tells; it plays until
// it is stopped.
func play(ctx context.Context, role, argument string) (lines *bufio.Scanner, stop func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	cmd := exec.CommandContext(ctx, self, role, argument) //nolint:gosec // this program
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	return bufio.NewScanner(out), func() { _ = in.Close(); _ = cmd.Wait() }, nil
}

// serveGuest answers GET /?n=N with N bytes, and PUT with how many came.
func serveGuest(out io.Writer) error {
	l, err := net.Listen("tcp", ":"+strconv.Itoa(proxyPort)) //nolint:noctx // until the process ends
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "ready")
	block := make([]byte, 1<<20)
	s := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			n, _ := io.Copy(io.Discard, r.Body)
			fmt.Fprint(w, n)
			return
		}
		n, _ := strconv.Atoi(r.FormValue("n"))
		w.Header().Set("Content-Length", strconv.Itoa(n))
		for n > 0 {
			k, err := w.Write(block[:min(n, len(block))])
			if err != nil {
				return
			}
			n -= k
		}
	})}
	return s.Serve(l)
}

// serveMinimal is the least that a TLS reverse proxy in Go is: the standard
// library's, as it comes. It tells its address and certificate.
func serveMinimal(target string, out io.Writer) error {
	u, err := url.Parse(target)
	if err != nil {
		return err
	}
	s := httptest.NewUnstartedServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(u) }})
	s.EnableHTTP2 = true
	s.StartTLS()
	defer s.Close()
	fmt.Fprintln(out, s.URL)
	if err := pem.Encode(out, &pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, os.Stdin) // until it is closed
	return err
}

// ways are the addresses of one server in a VM: the preview's, the minimal
// proxy's, its own. All three go to the address of a VM on this host.
type ways struct {
	preview, minimal, direct string
	token                    string
	roots                    *x509.CertPool
	tlsAddress               string
}

// proxy measures what a preview's URL costs beside the server's own address,
// and beside a minimal TLS proxy in front of that.
func (b *bench) proxy(ctx context.Context, _ string) (results []Result, err error) {
	s, err := b.serve(ctx, "proxy", "AETHERIUM_POOL_SIZE=0", "AETHERIUM_BASE_SKIP=true")
	if s != nil {
		defer func() { err = errors.Join(err, s.Down(context.WithoutCancel(ctx), "--purge")) }()
	}
	if err != nil {
		return nil, err
	}
	if _, err := s.CLI(ctx, "template", "build", "base", "--dir", b.rootfs); err != nil {
		return nil, err
	}
	w := ways{roots: x509.NewCertPool()}
	end, err := w.open(ctx, s)
	if err != nil {
		return nil, err
	}
	defer end()
	minimal, stop, err := w.openMinimal(ctx)
	if err != nil {
		return nil, err
	}
	w.minimal = minimal
	defer stop()
	for _, version := range []int{1, 2} {
		r, err := b.raceProxy(ctx, w, version)
		if err != nil {
			return results, err
		}
		results = append(results, r...)
	}
	return results, nil
}

// open starts the server in a VM.
func (w *ways) open(ctx context.Context, s *site) (end func(), err error) {
	at, err := s.c.Endpoints(ctx)
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(at.TLSURL)
	if err != nil {
		return nil, err
	}
	if !w.roots.AppendCertsFromPEM([]byte(at.Certificates)) {
		return nil, fmt.Errorf("the server tells nothing of TLS: %+v", at)
	}
	w.tlsAddress = u.Host
	vm, err := s.c.CreateVM(ctx, api.CreateVM{Template: "base", Network: "nat"})
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	f, err := os.Open(self)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	const program = "/home/user/server"
	if _, err := s.c.WriteFile(ctx, client.File{VM: vm.ID, Path: program}, f, info.Size(), 0o755); err != nil {
		return nil, err
	}
	where, err := s.c.Execute(ctx, vm.ID, api.Execute{Command: api.Command{Args: []string{"hostname", "-I"}}})
	if err != nil {
		return nil, err
	}
	address, _, _ := strings.Cut(strings.TrimSpace(where.Stdout), " ")
	port, err := s.c.Port(ctx, vm.ID, proxyPort)
	if err != nil {
		return nil, err
	}
	w.token, w.direct = port.Token, "http://"+net.JoinHostPort(address, strconv.Itoa(proxyPort))
	w.preview = fmt.Sprintf("https://%d-%s.%s", proxyPort, vm.ID, at.PreviewDomain)
	stream, err := s.c.Start(ctx, vm.ID, api.StartExecution{Command: api.Command{Args: []string{program, roleGuest}}}, client.StreamOptions{})
	if err != nil {
		return nil, err
	}
	ev, err := stream.Next(ctx)
	if err == nil && string(ev.Data) != "ready\n" {
		err = fmt.Errorf("the server in the VM says %q", ev.Data)
	}
	return func() { stream.Close() }, err
}

// openMinimal starts the minimal proxy, in a process of its own as ours is.
func (w *ways) openMinimal(ctx context.Context) (address string, stop func(), err error) {
	lines, stop, err := play(ctx, roleMinimal, w.direct)
	if err != nil {
		return "", nil, err
	}
	var text strings.Builder
	for lines.Scan() {
		if address == "" {
			address = lines.Text()
			continue
		}
		text.WriteString(lines.Text() + "\n")
		if strings.HasPrefix(lines.Text(), "-----END") {
			break
		}
	}
	if !w.roots.AppendCertsFromPEM([]byte(text.String())) {
		stop()
		return "", nil, errors.New("the minimal proxy did not start")
	}
	return address, stop, nil
}

// client speaks one version of HTTP over TLS, and finds previews without a resolver.
func (w *ways) client(version int) *http.Client {
	var p http.Protocols
	p.SetHTTP1(true) // the direct way has no other
	p.SetHTTP2(version == 2)
	var d net.Dialer
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: w.roots, MinVersion: tls.VersionTLS12}, Protocols: &p, DisableCompression: true,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			if strings.HasPrefix(w.preview, "https://"+strings.TrimSuffix(address, ":443")) {
				address = w.tlsAddress
			}
			return d.DialContext(ctx, network, address)
		},
	}}
}

func (w *ways) do(ctx context.Context, c *http.Client, method, target string, body io.Reader, size int64) error {
	r, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return err
	}
	if body != nil {
		r.ContentLength = size
	}
	r.Header.Set(api.HeaderPreviewToken, w.token)
	resp, err := c.Do(r)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	n, err := io.Copy(io.Discard, resp.Body)
	if err == nil && (resp.StatusCode != http.StatusOK || body == nil && n != size) {
		err = fmt.Errorf("%s: %d bytes came, %s", target, n, resp.Status)
	}
	return err
}

// zeros is a body.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func (b *bench) raceProxy(ctx context.Context, w ways, version int) ([]Result, error) {
	c := w.client(version)
	defer c.CloseIdleConnections()
	const minimal, direct = "minimal Go TLS proxy", "direct, without TLS"
	all := func(once func(ctx context.Context, target string) (time.Duration, error)) []contender {
		var cs []contender
		for _, way := range [][2]string{{"aetherium", w.preview}, {minimal, w.minimal}, {direct, w.direct}} {
			cs = append(cs, contender{way[0], func(ctx context.Context) (time.Duration, error) { return once(ctx, way[1]) }})
		}
		return cs
	}
	title := fmt.Sprintf("%sHTTP/%d: ", proxyPart, version)
	// The median of many: what is asked for is one request's, on a connection that is open.
	took, err := turns(ctx, title, b.rounds, all(func(ctx context.Context, target string) (time.Duration, error) {
		each := make([]time.Duration, proxyAsks)
		for i := range each {
			start := time.Now()
			if err := w.do(ctx, c, http.MethodGet, target+"/?n=100", nil, 100); err != nil {
				return 0, err
			}
			each[i] = time.Since(start)
		}
		slices.Sort(each)
		return each[len(each)/2], nil
	}))
	if err != nil {
		return nil, err
	}
	added := func(i int) Sample {
		more := make([]time.Duration, len(took[i]))
		for n, d := range took[i] {
			more[n] = d - took[2][n]
		}
		return sample(more)
	}
	latency := newResult(title+"what it adds to a request", "ms", added(0))
	latency.goal("0.3 ms", sample([]time.Duration{300 * time.Microsecond}), 1)
	latency.against(minimal, added(1))
	results := []Result{latency}
	for _, large := range []struct {
		name string
		once func(ctx context.Context, target string) error
	}{
		{"256 MiB out", func(ctx context.Context, target string) error {
			return w.do(ctx, c, http.MethodGet, target+"/?n="+strconv.Itoa(proxyBody), nil, proxyBody)
		}},
		{"256 MiB in", func(ctx context.Context, target string) error {
			return w.do(ctx, c, http.MethodPut, target+"/", io.LimitReader(zeros{}, proxyBody), proxyBody)
		}},
	} {
		took, err := turns(ctx, title+large.name, proxyRounds, all(func(ctx context.Context, target string) (time.Duration, error) {
			start := time.Now()
			err := large.once(ctx, target)
			return time.Since(start), err
		}))
		if err != nil {
			return results, err
		}
		r := newResult(title+large.name, "ms", sample(took[0]))
		r.goal(minimal, sample(took[1]), 0.7)
		r.against(direct, sample(took[2]))
		results = append(results, r)
	}
	return results, nil
}
