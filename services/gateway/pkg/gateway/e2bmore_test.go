package gateway_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// What the first SDKs sent still works.
func TestE2BFirstGeneration(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	made := l.sandbox(`{"templateID":"base","timeout":60}`)
	path := l.e2b("/sandboxes/" + made.SandboxID)
	left := func() time.Duration {
		t.Helper()
		return time.Until(get[sandboxDetail](l, 200, req{method: "GET", path: path, key: l.user}).EndAt)
	}
	refresh := func(body string) req {
		return req{method: "POST", path: path + "/refreshes", key: l.user, body: body}
	}
	for _, shorter := range []string{"", `{}`, `{"duration":5}`} {
		l.want(204, refresh(shorter))
		if d := left(); d < 30*time.Second {
			t.Errorf("%q shortened its time to %v", shorter, d)
		}
	}
	l.want(204, refresh(`{"duration":600}`))
	if d := left(); d < 500*time.Second {
		t.Errorf("refreshed for %v", d)
	}
	for _, bad := range []string{`{"duration":-1}`, `{"duration":99999999999}`, `{`} {
		l.fails(400, refresh(bad))
	}

	resume := req{method: "POST", path: path + "/resume", key: l.user, body: `{"timeout":900}`}
	l.want(204, req{method: "POST", path: path + "/pause", key: l.user})
	if again := get[sandboxAnswer](l, 201, resume); again.SandboxID != made.SandboxID || again.EnvdAccessToken != made.EnvdAccessToken {
		t.Errorf("resumed: %+v", again)
	}
	if d := left(); d < 800*time.Second {
		t.Errorf("resumed for %v", d)
	}
	reader := l.ring.mint(l.project, "reader", domain.ScopeRead)
	for _, q := range []req{resume, refresh(`{}`)} {
		q.key = reader
		l.fails(403, q)
		q.key = l.other
		l.fails(404, q)
	}
	l.want(204, req{method: "DELETE", path: path, key: l.user})
	for _, q := range []req{resume, refresh(`{}`)} {
		l.fails(404, q)
	}
}

func TestE2BListsByTemplateAndTime(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	id := get[templateAnswer](l, 202, req{method: "POST", path: l.e2b("/v3/templates"), key: l.user, body: `{"name":"mine"}`}).BuildID
	l.want(202, req{method: "POST", path: l.e2b("/v2/templates/mine/builds/" + id), key: l.user, body: `{"fromTemplate":"base"}`})
	first := l.sandbox(`{"templateID":"base"}`)
	second := l.sandbox(`{"templateID":"mine"}`)
	third := l.sandbox(`{"templateID":"base"}`)
	since := get[sandboxDetail](l, 200, req{method: "GET", path: l.e2b("/sandboxes/" + second.SandboxID), key: l.user}).StartedAt
	list := func(query string) string {
		t.Helper()
		var ids []string
		for _, s := range get[[]sandboxDetail](l, 200, req{method: "GET", path: l.e2b("/v2/sandboxes?order=asc&" + query), key: l.user}) {
			ids = append(ids, s.SandboxID)
		}
		return strings.Join(ids, " ")
	}
	for query, want := range map[string]string{
		"template=base": first.SandboxID + " " + third.SandboxID,
		"template=mine": second.SandboxID,
		"template=none": "",
		"startedAfter=" + url.QueryEscape(since.Add(-time.Hour).Format(time.RFC3339)): first.SandboxID + " " + second.SandboxID + " " + third.SandboxID,
		"startedAfter=" + url.QueryEscape(since.Add(time.Hour).Format(time.RFC3339)):  "",
	} {
		if got := list(query); got != want {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
	}
	// Times are told to the millisecond, so that the second itself is after its own.
	if got := list("startedAfter=" + url.QueryEscape(since.Format(time.RFC3339Nano))); !strings.HasSuffix(got, second.SandboxID+" "+third.SandboxID) {
		t.Errorf("from the second on: %q", got)
	}
	// Of the newest first what follows an old one is older: there is no next page.
	resp, _ := l.want(200, req{method: "GET", path: l.e2b("/v2/sandboxes?limit=1&startedAfter=" + url.QueryEscape(since.Add(time.Hour).Format(time.RFC3339))), key: l.user})
	if next := resp.Header.Get("X-Next-Token"); next != "" {
		t.Errorf("a next page: %q", next)
	}
	l.fails(400, req{method: "GET", path: l.e2b("/v2/sandboxes?startedAfter=yesterday"), key: l.user})
}

type forkAnswer struct {
	Sandbox *sandboxAnswer `json:"sandbox"`
	Error   *failureAnswer `json:"error"`
}

func TestE2BFork(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	made := l.sandbox(`{"templateID":"base"}`)
	fork := req{method: "POST", path: l.e2b("/sandboxes/" + made.SandboxID + "/fork"), key: l.user, body: `{"count":3,"timeout":600}`}
	seen := map[string]bool{made.SandboxID: true}
	for _, f := range get[[]forkAnswer](l, 201, fork) {
		if f.Error != nil || f.Sandbox == nil || f.Sandbox.EnvdAccessToken == "" || f.Sandbox.EnvdAccessToken == made.EnvdAccessToken || seen[f.Sandbox.SandboxID] {
			t.Fatalf("%+v", f)
		}
		seen[f.Sandbox.SandboxID] = true
		info := get[sandboxDetail](l, 200, req{method: "GET", path: l.e2b("/sandboxes/" + f.Sandbox.SandboxID), key: l.user})
		if d := info.EndAt.Sub(info.StartedAt); info.State != "running" || d != 10*time.Minute {
			t.Errorf("%+v for %v", info, d)
		}
	}
	if len(seen) != 4 {
		t.Errorf("there are %v", seen)
	}
	one := fork
	one.body = ""
	if list := get[[]forkAnswer](l, 201, one); len(list) != 1 {
		t.Errorf("by default there are %d", len(list))
	}

	// One that fails is told of beside the others, and is not left.
	l.core.FailNext("its agent never answered")
	before := l.core.Creates()
	list := get[[]forkAnswer](l, 201, fork)
	if len(list) != 3 || list[0].Sandbox != nil || list[0].Error == nil || list[1].Sandbox == nil || list[2].Sandbox == nil || l.core.Creates() != before+3 {
		t.Fatalf("%+v", list)
	}
	if e := list[0].Error; e.Code != http.StatusInternalServerError || e.ErrorCode != string(errors.GuestFault) || !strings.Contains(e.Message, "its agent never answered") {
		t.Errorf("%+v", e)
	}
	if left := get[[]sandboxDetail](l, 200, req{method: "GET", path: l.e2b("/v2/sandboxes"), key: l.user}); len(left) != 7 {
		t.Errorf("%d are left", len(left))
	}

	for _, bad := range []string{`{"timeout":-1}`, `{"count":0}`, `{"count":101}`, `{`} {
		q := fork
		q.body = bad
		l.fails(400, q)
	}
	for path, key := range map[string]string{
		"/sandboxes/" + domain.NewID().String() + "/fork": l.user, "/sandboxes/not-an-id/fork": l.user, "/sandboxes/" + made.SandboxID + "/fork": l.other,
	} {
		l.fails(404, req{method: "POST", path: l.e2b(path), key: key, body: `{}`})
	}
	reader := fork
	reader.key = l.ring.mint(l.project, "reader", domain.ScopeRead)
	l.fails(403, reader)
	l.want(204, req{method: "DELETE", path: l.e2b("/sandboxes/" + made.SandboxID), key: l.user})
	l.fails(404, fork)
}
