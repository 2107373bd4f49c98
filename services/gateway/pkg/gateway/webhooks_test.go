package gateway_test

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/webhook"
	"github.com/aetherium/aetherium/services/gateway/pkg/gateway"
)

// A webhook's secret is told once, and nothing of a webhook to another project.
func TestWebhooks(t *testing.T) {
	t.Parallel()
	ring := newKeyRing(t, slog.New(slog.DiscardHandler))
	l := newLab(t, recorded(t), func(_ *gateway.Config, d *gateway.Deps) {
		d.Webhooks = webhook.New(webhook.Deps{Store: ring.store, Sealer: ring.sealer})
	})
	ring.update(func(ctx context.Context, tx storage.Tx) error {
		return tx.Projects().Insert(ctx, &domain.Project{ID: l.project, Name: "p", CreatedAt: time.Now()})
	})
	create := func(url string, types ...string) req {
		return req{method: "POST", path: "/webhooks", body: wire.CreateWebhook{URL: url, Types: types}}
	}
	const url = "https://example.com/hook"
	w := get[wire.NewWebhook](l, 201, create(url, "vm.running", "task.failed", "vm.running"))
	if !strings.HasPrefix(w.Secret, "whsec_") || len(w.Secret) != len("whsec_")+44 || w.URL != url || w.State != "active" || !slices.Equal(w.Types, []string{"task.failed", "vm.running"}) {
		t.Errorf("%+v", w)
	}
	if other := get[wire.NewWebhook](l, 201, create(url)); other.Secret == w.Secret || other.Types == nil {
		t.Errorf("%+v", other)
	}
	path := "/webhooks/" + w.ID
	for _, p := range []string{"/webhooks", path, path + "/deliveries"} {
		if _, body := l.want(200, req{method: "GET", path: p}); strings.Contains(string(body), "whsec_") {
			t.Errorf("%s tells the secret: %s", p, body)
		}
	}
	if list := get[wire.List[wire.Webhook]](l, 200, req{method: "GET", path: "/webhooks", key: l.other}); len(list.Items) != 0 {
		t.Errorf("another project sees %+v", list.Items)
	}
	for _, q := range []req{
		{method: "GET", path: path}, {method: "DELETE", path: path}, {method: "GET", path: path + "/deliveries"},
		{method: "POST", path: path + "/secret"}, {method: "POST", path: path + "/enable"}, {method: "POST", path: path + "/disable"},
	} {
		q.key = l.other
		l.problem(404, errors.NotFound, q)
	}
	rotated := get[wire.NewWebhook](l, 200, req{method: "POST", path: path + "/secret"})
	if rotated.ID != w.ID || rotated.Secret == w.Secret || !strings.HasPrefix(rotated.Secret, "whsec_") {
		t.Errorf("%+v", rotated)
	}
	for _, ms := range []int64{-1, 7*24*3600*1000 + 1} {
		l.problem(400, errors.InvalidArgument, req{method: "POST", path: path + "/secret", body: wire.RotateWebhookSecret{OverlapMS: &ms}})
	}
	for _, ask := range []string{"disable", "enable"} {
		state := map[string]string{"disable": "disabled", "enable": "active"}[ask]
		got := get[wire.Webhook](l, 200, req{method: "POST", path: path + "/" + ask})
		if got.State != state || (got.DisabledReason == "asked") != (ask == "disable") {
			t.Errorf("%s: %+v", ask, got)
		}
	}
	for _, bad := range []string{
		"http://example.com/", "https://127.0.0.1/", "https://169.254.169.254/", "https://[::ffff:10.0.0.1]/", "https://user:pass@example.com/", "gopher://example.com", "/hook", "https://" + strings.Repeat("a", 2041),
	} {
		l.problem(400, errors.InvalidArgument, create(bad))
	}
	l.problem(400, errors.InvalidArgument, create(url, "worker.away"))
	l.want(204, req{method: "DELETE", path: path})
	l.problem(404, errors.NotFound, req{method: "GET", path: path})
	var recordedAs []string
	for _, r := range l.records("subject=" + w.ID) {
		recordedAs = append(recordedAs, r.SubjectKind+" "+r.Operation+" "+r.Result)
	}
	slices.Sort(recordedAs)
	if !slices.Contains(recordedAs, "webhook create-webhook done") || !slices.Contains(recordedAs, "webhook delete-webhook done") {
		t.Errorf("recorded are %q", recordedAs)
	}
	if strings.Contains(l.log.String(), "whsec_") {
		t.Error("the log tells the secret")
	}
	for range domain.MaxWebhooks - 1 {
		get[wire.NewWebhook](l, 201, create(url))
	}
	l.problem(409, errors.Conflict, create(url))
}
