package network_test

import (
	"context"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// Headers are set in the requests of the machine whose policy says so, to
// the hosts of its rules, and their values are on no disk.
func TestHeadersAreSetOnTheWay(t *testing.T) {
	if !isolated(t) {
		return
	}
	w := newWeb(t)
	cfg := w.named(t)
	m := open(t, cfg)
	said := func(value string) domain.Egress {
		p, err := domain.EgressPolicy{Deny: []string{"denied.test"}, Rules: []domain.HeaderRule{
			{Host: "*.bound.test", Headers: map[string]string{"Authorization": value}}, {Host: "denied.test", Headers: map[string]string{"Authorization": value}},
			{Host: "metadata.bound.test", Headers: map[string]string{"Authorization": value}},
		}}.Normal("egress")
		if err != nil {
			t.Fatal(err)
		}
		return domain.Egress{Policy: p.WithoutValues(), Rules: p.Rules}
	}
	set := func(e domain.Egress) {
		t.Helper()
		if err := m.SetEgress(context.Background(), "a", e); err != nil {
			t.Fatal(err)
		}
	}
	set(said(secretValue))
	a, b := acquire(t, m, "a", domain.NetworkNAT), acquire(t, m, "b", domain.NetworkNAT)
	trust := w.pool.Clone()
	trust.AppendCertsFromPEM(cfg.EgressCA.Certificate)
	c := w.guest(a, trust)
	for url, want := range map[string]string{
		"https://x.bound.test/": secretValue, "https://second.y.bound.test/": secretValue, "https://bound.test/": "mine", "https://other.test/": "mine",
		"http://x.bound.test/": "mine", // in clear it would be everybody's
	} {
		if status, text, err := fetch(c, url, "Authorization", "mine"); err != nil || status != 200 || !strings.HasSuffix(text, "auth="+want+"\n") {
			t.Errorf("%s: %d %q %v", url, status, text, err)
		}
	}
	if status, text, err := fetch(w.guest(b, trust), "https://x.bound.test/", "Authorization", "mine"); err != nil || status != 200 || !strings.HasSuffix(text, "auth=mine\n") {
		t.Errorf("the neighbour: %d %q %v", status, text, err)
	}
	// Neither a rule nor a name is a way to what is denied or refused.
	for _, url := range []string{"https://denied.test/", "https://metadata.bound.test/"} {
		if status, text, err := fetch(c, url); err == nil && (status == 200 || strings.Contains(text, secretValue)) {
			t.Errorf("%s: %d %q", url, status, text)
		}
	}
	if status, text, err := fetch(c, "https://x.bound.test/", "Host", "other.test"); err != nil || status != 421 {
		t.Errorf("another host's request: %d %q %v", status, text, err)
	}
	set(said("rotated"))
	if _, text, err := fetch(c, "https://x.bound.test/"); err != nil || !strings.HasSuffix(text, "auth=rotated\n") {
		t.Errorf("after the change: %q %v", text, err)
	}
	noSecretsOnDisk(t, cfg.RuntimeDir)
}
