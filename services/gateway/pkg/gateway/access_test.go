package gateway_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

func (l *lab) key(by string, body wire.CreateKey) wire.NewKey {
	l.t.Helper()
	return get[wire.NewKey](l, http.StatusCreated, req{method: "POST", path: "/keys", key: by, body: body})
}

func TestKeysOverTheAPI(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	k := l.key(l.user, wire.CreateKey{Name: "ci", Scopes: []string{"run"}, TTLMS: 3_600_000})
	if !strings.HasPrefix(k.Secret, k.Prefix) || !strings.HasPrefix(k.Secret, "aeth_") || k.State != "active" || k.CreatedBy != "alice" || k.ExpiresAt == nil {
		t.Errorf("%+v", k)
	}
	e2b := l.key(l.user, wire.CreateKey{Name: "sdk", Format: "e2b"})
	if !strings.HasPrefix(e2b.Secret, "e2b_") || len(e2b.Secret) != 44 || strings.Join(e2b.Scopes, " ") != "run" {
		t.Errorf("%+v", e2b)
	}
	for _, secret := range []string{k.Secret, e2b.Secret} {
		l.want(200, req{method: "GET", path: "/vms", key: secret})
		l.problem(403, errors.PermissionDenied, req{method: "GET", path: "/keys", key: secret})
	}
	// The text is told once.
	for _, path := range []string{"/keys", "/keys/" + k.ID} {
		if _, body := l.want(200, req{method: "GET", path: path, key: l.user}); strings.Contains(string(body), k.Secret) || !strings.Contains(string(body), k.Prefix) {
			t.Errorf("%s: %s", path, body)
		}
	}
	// Also to who repeats the request: another key is another.
	again := map[string]string{wire.HeaderIdempotencyKey: "once"}
	one := get[wire.NewKey](l, 201, req{method: "POST", path: "/keys", key: l.user, header: again, body: wire.CreateKey{Name: "x"}})
	two := get[wire.NewKey](l, 201, req{method: "POST", path: "/keys", key: l.user, header: again, body: wire.CreateKey{Name: "x"}})
	if one.ID == two.ID || one.Secret == two.Secret {
		t.Error("the text of a key was told twice")
	}
	for what, q := range map[string]req{
		"a wider key":          {body: wire.CreateKey{Name: "x", Scopes: []string{"admin"}}},
		"somebody else's name": {body: `{"name":"x","user":"bob"}`},
	} {
		q.method, q.path, q.key = "POST", "/keys", l.user
		if resp, body := l.do(q); resp.StatusCode != http.StatusForbidden && resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %d %s", what, resp.StatusCode, body)
		}
	}
	l.problem(400, errors.InvalidArgument, req{method: "POST", path: "/keys", key: l.user, body: `{"name":"x","scopes":["root"]}`})
	l.problem(400, errors.InvalidArgument, req{method: "POST", path: "/keys", key: l.user, body: `{"name":"x","ttl_ms":5,"expires_at":"2100-01-01T00:00:00Z"}`})

	rotated := get[wire.NewKey](l, 200, req{method: "POST", path: "/keys/" + k.ID + "/rotate", key: l.user, body: wire.RotateKey{OverlapMS: 3_600_000}})
	if rotated.ID != k.ID || rotated.Secret == k.Secret || rotated.OldSecretUntil == nil || rotated.RotatedAt == nil {
		t.Errorf("%+v", rotated)
	}
	l.want(200, req{method: "GET", path: "/vms", key: k.Secret})
	l.want(200, req{method: "GET", path: "/vms", key: rotated.Secret})
	last := get[wire.NewKey](l, 200, req{method: "POST", path: "/keys/" + k.ID + "/rotate", key: l.user})
	l.want(401, req{method: "GET", path: "/vms", key: rotated.Secret})
	for range 2 {
		l.want(204, req{method: "DELETE", path: "/keys/" + k.ID, key: l.user})
	}
	l.problem(404, errors.NotFound, req{method: "DELETE", path: "/keys/" + k.ID, key: l.other})
	l.problem(409, errors.Conflict, req{method: "POST", path: "/keys/" + k.ID + "/rotate", key: l.user})
	if got := get[wire.Key](l, 200, req{method: "GET", path: "/keys/" + k.ID, key: l.user}); got.State != "revoked" {
		t.Errorf("%+v", got)
	}

	// Nobody learns why a key does not count.
	past := time.Now().Add(-time.Hour)
	expired := l.ring.mint(l.project, "expired", domain.ScopeRead)
	l.ring.update(func(ctx context.Context, tx storage.Tx) error {
		text, hash := mintHash()
		expired = text
		return tx.Keys().Insert(ctx, &domain.APIKey{ID: domain.NewID(), ProjectID: l.project, Name: "old", Hash: hash, CreatedAt: past, ExpiresAt: &past})
	})
	var told string
	for _, secret := range []string{last.Secret, k.Secret, expired, "aeth_" + strings.Repeat("0", 40), "e2b_" + strings.Repeat("a", 40), "nonsense", "a.b.c"} {
		p := l.problem(401, errors.Unauthenticated, req{method: "GET", path: "/vms", key: secret})
		p.RequestID = ""
		text, _ := json.Marshal(p)
		if told == "" {
			told = string(text)
		}
		if string(text) != told {
			t.Errorf("%s and %s tell keys apart", text, told)
		}
	}
	if strings.Contains(l.log.String(), k.Secret) || strings.Contains(l.log.String(), last.Secret) {
		t.Error("the log tells a key")
	}
}

// lines are an open stream of server-sent events.
func (l *lab) lines(path, key string) (*bufio.Reader, *http.Response) {
	l.t.Helper()
	resp, err := l.client.Do(l.request(req{method: "GET", path: path, key: key, header: map[string]string{"Accept": "text/event-stream"}}))
	if err != nil || resp.StatusCode != http.StatusOK {
		l.t.Fatalf("%s: %v %v", path, resp, err)
	}
	l.t.Cleanup(func() { _ = resp.Body.Close() })
	r := bufio.NewReader(resp.Body)
	if _, err := r.ReadString('\n'); err != nil {
		l.t.Fatal(err)
	}
	return r, resp
}

// What a key has opened ends with it, and nothing else does.
func TestRevocationEndsWhatIsOpen(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	hello := make(chan struct{}, 8)
	g := newGuest(t, l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			hello <- struct{}{}
			<-r.Context().Done() // answers only when its client goes away
			return
		}
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		for {
			kind, p, err := c.Read(r.Context())
			if err != nil {
				return
			}
			_ = c.Write(r.Context(), kind, p)
		}
	}))
	x := l.start(g.id, "wait")
	k := l.key(l.user, wire.CreateKey{Name: "k"})
	as := func(secret string) http.Header { return http.Header{"Authorization": {"Bearer " + secret}} }
	open := func(path, secret string) *socket {
		s, _, err := l.dial(path, nil, as(secret))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	stream, others := open("/executions/"+x.ID+"/stream", k.Secret), open("/executions/"+x.ID+"/stream", l.user)
	stream.until(wire.ControlStarted)
	others.until(wire.ControlStarted)
	follow := open("/events/stream", k.Secret)
	run := open("/vms/"+g.id+"/stream", k.Secret) // no start frame yet
	events, _ := l.lines("/events/stream", k.Secret)
	output, _ := l.lines("/executions/"+x.ID+"/events", k.Secret)
	forward, _, err := l.dial("/vms/"+g.id+"/ports/8080/", nil, as(k.Secret), "chat")
	if err != nil {
		t.Fatal(err)
	}
	waiting := make(chan error, 1)
	go func() {
		resp, err := l.client.Do(l.request(req{method: "GET", path: "/vms/" + g.id + "/ports/8080/", key: k.Secret}))
		if err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
		}
		waiting <- err
	}()
	<-hello

	l.want(204, req{method: "DELETE", path: "/keys/" + k.ID, key: l.user})

	for name, s := range map[string]*socket{"an execution's stream": stream, "the stream of events": follow, "a stream before its start": run} {
		refusal := wire.ServerControl{}
		for refusal.Type != wire.ControlError {
			f, err := s.next()
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if f.control != nil {
				refusal = *f.control
			}
		}
		if refusal.Code != string(errors.Unauthenticated) || s.closeCode() != wire.CloseRefused {
			t.Errorf("%s ends with %+v", name, refusal)
		}
	}
	for name, r := range map[string]*bufio.Reader{"events": events, "output": output} {
		rest, err := io.ReadAll(r)
		if err != nil || !strings.Contains(string(rest), "event: error\n") || !strings.Contains(string(rest), `"code":"unauthenticated"`) {
			t.Errorf("%s end with %q, %v", name, rest, err)
		}
	}
	if code := forward.closeCode(); code == websocket.StatusNormalClosure {
		t.Errorf("a forwarded WebSocket ends with %d", code)
	}
	<-waiting // whatever it got, it has ended
	l.want(401, req{method: "GET", path: "/vms", key: k.Secret})
	// Another key's stream goes on.
	others.send(wire.ClientControl{Type: wire.ControlSignal, Signal: "9"})
	others.until(wire.ControlExit)
}

func mustUser(l *lab, name string, admin bool) wire.User {
	l.t.Helper()
	return get[wire.User](l, 201, req{method: "POST", path: "/users", body: wire.CreateUser{Name: name, Admin: admin}})
}

// A role that is narrowed ends what needs more, and leaves the rest.
func TestNarrowerRolesEndWhatNeedsMore(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	x := l.start(l.vm().ID, "wait")
	mustUser(l, "bob@example.com", false)
	l.problem(403, errors.PermissionDenied, req{method: "POST", path: "/keys", body: wire.CreateKey{Name: "k", User: "bob@example.com"}})
	role := func(role string) {
		l.want(200, req{method: "PUT", path: "/members/bob%40example.com", key: l.user, body: wire.SetMember{Role: role}})
	}
	role("developer")
	k := l.key("", wire.CreateKey{Name: "k", User: "bob@example.com"})
	feed, _, err := l.dial("/executions/"+x.ID+"/stream", nil, http.Header{"Authorization": {"Bearer " + k.Secret}})
	if err != nil {
		t.Fatal(err)
	}
	feed.until(wire.ControlStarted)
	read, _, err := l.dial("/events/stream?after=0", nil, http.Header{"Authorization": {"Bearer " + k.Secret}})
	if err != nil {
		t.Fatal(err)
	}
	role("viewer")
	if code := feed.closeCode(); code != wire.CloseRefused {
		t.Errorf("a viewer's stream to a command ends with %d", code)
	}
	l.problem(403, errors.PermissionDenied, req{method: "POST", path: "/vms", key: k.Secret, body: "{}"})
	l.want(200, req{method: "GET", path: "/vms", key: k.Secret})
	l.vm() // an event for who still reads
	for {
		kind, text, err := read.conn.Read(t.Context())
		if err != nil || kind != websocket.MessageText {
			t.Fatalf("a viewer's stream of events: %v", err)
		}
		var e wire.Event
		if err := json.Unmarshal(text, &e); err != nil {
			t.Fatal(err)
		}
		if e.Seq > 1 {
			break
		}
	}
	if members := get[wire.List[wire.Member]](l, 200, req{method: "GET", path: "/members", key: l.user}); len(members.Items) != 1 || members.Items[0].Role != "viewer" {
		t.Errorf("%+v", members)
	}
	l.want(200, req{method: "PATCH", path: "/users/bob@example.com", body: `{"disabled":true}`})
	if code := read.closeCode(); code != wire.CloseRefused {
		t.Errorf("a disabled user's stream ends with %d", code)
	}
	l.want(401, req{method: "GET", path: "/vms", key: k.Secret})
	l.want(200, req{method: "PATCH", path: "/users/bob@example.com", body: `{"disabled":false}`})
	l.want(200, req{method: "GET", path: "/vms", key: k.Secret})
	l.want(204, req{method: "DELETE", path: "/members/bob@example.com", key: l.user})
	l.want(401, req{method: "GET", path: "/vms", key: k.Secret})
}

func TestProjectsOverTheAPI(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	for _, q := range []req{
		{method: "POST", path: "/projects", body: `{"name":"x"}`}, {method: "GET", path: "/projects"}, {method: "GET", path: "/projects/ours"},
		{method: "PATCH", path: "/projects/ours", body: `{"name":"x"}`}, {method: "DELETE", path: "/projects/theirs"},
		{method: "POST", path: "/users", body: `{"name":"x"}`}, {method: "GET", path: "/users"}, {method: "DELETE", path: "/users/x"},
	} {
		q.key = l.user
		l.problem(403, errors.PermissionDenied, q)
	}
	p := get[wire.Project](l, 201, req{method: "POST", path: "/projects", body: wire.CreateProject{Name: "third"}})
	l.problem(409, errors.AlreadyExists, req{method: "POST", path: "/projects", body: wire.CreateProject{Name: "third"}})
	in := func(name string) map[string]string { return map[string]string{wire.HeaderProject: name} }
	// An administrator works anywhere, by ID or name.
	mine := l.vm()
	there := get[wire.VM](l, 201, req{method: "POST", path: "/vms", header: in("third"), body: wire.CreateVM{Name: "there"}})
	if list := get[wire.List[wire.VM]](l, 200, req{method: "GET", path: "/vms", header: in(p.ID)}); len(list.Items) != 1 || list.Items[0].ID != there.ID {
		t.Errorf("%+v", list)
	}
	l.problem(404, errors.NotFound, req{method: "GET", path: "/vms/" + mine.ID, header: in("third")})
	if me := get[wire.Me](l, 200, req{method: "GET", path: "/me", header: in("third")}); me.Project != "third" || me.ProjectID != p.ID || me.Name != "root" {
		t.Errorf("%+v", me)
	}
	// Everybody else at home, and what is not theirs is as if it were not.
	l.want(200, req{method: "GET", path: "/vms/" + mine.ID, key: l.user, header: in("ours")})
	l.want(200, req{method: "GET", path: "/vms/" + mine.ID, key: l.user, header: in(l.project.String())})
	for _, name := range []string{"third", "theirs", p.ID, "nowhere", domain.NewID().String(), "../x"} {
		got := l.problem(404, errors.NotFound, req{method: "GET", path: "/vms", key: l.user, header: in(name)})
		if got.Detail != `there is no project "`+name+`"` || got.Hint != "" {
			t.Errorf("%s: %+v", name, got)
		}
	}
	l.problem(404, errors.NotFound, req{method: "GET", path: "/vms", header: in("nowhere")})
	l.problem(400, errors.InvalidArgument, req{method: "GET", path: "/vms", header: in(strings.Repeat("x", 65))})

	// A key of it is made by its administrator, and is of it alone.
	k := get[wire.NewKey](l, 201, req{method: "POST", path: "/keys", header: in("third"), body: wire.CreateKey{Name: "first", Scopes: []string{"manage"}}})
	l.want(200, req{method: "GET", path: "/vms/there", key: k.Secret})
	l.problem(404, errors.NotFound, req{method: "GET", path: "/vms/" + mine.ID, key: k.Secret})
	if got := get[wire.Project](l, 200, req{method: "PATCH", path: "/projects/third", body: wire.PatchProject{Name: "renamed"}}); got.ID != p.ID || got.Name != "renamed" {
		t.Errorf("%+v", got)
	}
	l.problem(404, errors.NotFound, req{method: "GET", path: "/projects/third"})
	events, _ := l.lines("/events/stream", k.Secret)
	l.want(204, req{method: "DELETE", path: "/projects/renamed"})
	if rest, err := io.ReadAll(events); err != nil || !strings.Contains(string(rest), `"code":"unauthenticated"`) {
		t.Errorf("the stream of a project that is gone ends with %q, %v", rest, err)
	}
	l.want(401, req{method: "GET", path: "/vms", key: k.Secret})
	l.problem(404, errors.NotFound, req{method: "GET", path: "/projects/renamed"})
}
