package fleet

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/tests/internal/server"
)

// free is an address of this host that nobody listens on.
func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // at once
	must(t, err)
	must(t, l.Close())
	return l.Addr().String()
}

// scraped is what is exported at an address: the sum of all series of a name.
func scraped(ctx context.Context, t *testing.T, address, token string, into map[string]float64) {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/metrics", nil)
	must(t, err)
	r.Header.Set("Authorization", "Bearer "+token)
	res, err := http.DefaultClient.Do(r)
	must(t, err)
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v, %.200s", address, res.Status, err, text)
	}
	series := regexp.MustCompile(`(?m)^([a-zA-Z_:][\w:]*)(?:\{.*\})? (\S+)$`)
	for _, m := range series.FindAllStringSubmatch(string(text), -1) {
		v, err := strconv.ParseFloat(m[2], 64)
		must(t, err)
		into[m[1]] += v
	}
}

// What the example dashboard and the alerts name is what a gateway and a worker
// export, and each phase of a VM's and a command's start is measured.
func TestMetricsThatAreNamed(t *testing.T) {
	f := newField(t)
	root, err := server.Root()
	must(t, err)
	const token = "a-token-for-prometheus"
	file := filepath.Join(t.TempDir(), "token")
	must(t, os.WriteFile(file, []byte(token), 0o600))
	atGateway, atWorker := free(t), free(t)
	g, err := f.Gateway("gateway", "AETHERIUM_LISTEN_METRICS="+atGateway, "AETHERIUM_METRICS_TOKEN_FILE="+file)
	must(t, err)
	must(t, g.Run(f.ctx))
	t.Cleanup(func() {
		must(t, g.End(context.WithoutCancel(f.ctx)))
		f.explain("gateway", g)
	})
	w := f.joining("worker", g)
	w.Env = append(w.Env, "AETHERIUM_WORKER_METRICS="+atWorker, "AETHERIUM_METRICS_TOKEN_FILE="+file)
	must(t, w.Run(f.ctx))
	if out, err := g.CLI(f.ctx, "template", "build", "first", "--dir", f.rootfs); err != nil {
		t.Fatal(err, out)
	}
	c := f.client(g)
	vm, err := c.CreateVM(f.ctx, api.CreateVM{Template: "first", Network: "none"})
	must(t, err)
	x, err := c.StartExecution(f.ctx, vm.ID, start("echo hi"))
	must(t, err)
	f.printed(g, x.ID, "hi\n")

	exported := map[string]float64{}
	scraped(f.ctx, t, atGateway, token, exported)
	scraped(f.ctx, t, atWorker, token, exported)
	for _, phase := range []string{
		"http_request", "placement", "link_call", "queue_wait", "vm_start", "vm_start_phase", "execution_start", "execution_first_output", "db_transaction",
	} {
		if name := "aetherium_" + phase + "_duration_seconds_count"; exported[name] == 0 {
			t.Errorf("%s is not measured", name)
		}
	}
	if exported["aetherium_fleet_workers"] != 1 || exported["aetherium_fleet_vms"] != 1 {
		t.Errorf("%v workers and %v VMs are told of", exported["aetherium_fleet_workers"], exported["aetherium_fleet_vms"])
	}
	named := regexp.MustCompile(`\b(?:aetherium|process)_[a-z_]+\b`)
	for _, name := range []string{"infrastructure/grafana/dashboards/aetherium.json", "infrastructure/prometheus/alerts.yml"} {
		text, err := os.ReadFile(filepath.Join(root, name))
		must(t, err)
		metrics := named.FindAllString(string(text), -1)
		if len(metrics) < 10 {
			t.Errorf("%s names %d metrics", name, len(metrics))
		}
		for _, m := range metrics {
			if _, ok := exported[m]; !ok {
				t.Errorf("%s names %s, which is not exported", name, m)
			}
		}
	}
	res, err := http.Get("http://" + atWorker + "/metrics") //nolint:noctx // at once
	must(t, err)
	text, err := io.ReadAll(res.Body)
	must(t, err)
	must(t, res.Body.Close())
	if res.StatusCode != http.StatusUnauthorized || strings.Contains(string(text), "aetherium_") {
		t.Errorf("without a token: %s, %.200s", res.Status, text)
	}
}
