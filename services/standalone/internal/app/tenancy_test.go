package app

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

// probe is how an operation is asked for another's thing; %s in query and body
// is the thing.
type probe struct {
	kind   string // of belongings
	query  string
	body   any // string with %s, []byte
	header map[string]string
	socket bool
	first  string
}

const noCommand = `{"args":["true"]}`

// probes are the operations of the API that lead to a tenant's things, each in
// every way that it does.
func probes() map[string][]probe {
	events := map[string]string{"Accept": "text/event-stream"}
	file := func(query string) []probe { return []probe{{kind: "vm", query: query}} }
	raw := func(query string) []probe { return []probe{{kind: "vm", query: query, body: []byte("x")}} }
	vm := func(body any) []probe { return []probe{{kind: "vm", body: body}} }
	volume := func(query string, body any) []probe { return []probe{{kind: "volume", query: query, body: body}} }
	of := func(kind string) []probe { return []probe{{kind: kind}} }
	return map[string][]probe{
		"get-vm": {{kind: "vm"}, {kind: "vm", query: "trace=true"}}, "delete-vm": vm(nil), "patch-vm": vm(`{"name":"taken"}`), "start-vm": vm(nil), "stop-vm": vm(nil),
		"pause-vm": vm(nil), "resume-vm": vm(nil), "fork-vm": vm(`{"count":1}`), "get-vm-usage": vm(nil),
		"get-vm-egress": vm(nil), "set-vm-egress": vm(`{"deny":["*"]}`), "get-vm-egress-log": vm(nil), "get-vm-egress-learned": vm(nil),
		"execute": vm(noCommand), "start-execution": {{kind: "vm", body: noCommand}, {kind: "vm", body: noCommand, header: events}},
		"list-executions": vm(nil), "create-snapshot": vm(`{"name":"taken"}`), "list-vm-snapshots": vm(nil),
		"run-stream":  {{kind: "vm", socket: true, first: `{"type":"start","args":["true"]}`}},
		"watch-files": {{kind: "vm", query: "path=/tmp", socket: true}, {kind: "vm", query: "path=/tmp", header: events}},
		"read-file":   file("path=kept"), "head-file": file("path=kept"), "write-file": raw("path=kept"), "remove-file": file("path=kept"),
		"list-files": file("path=."), "make-dir": {{kind: "vm", body: `{"path":"d"}`}}, "move-file": {{kind: "vm", body: `{"from":"kept","to":"gone"}`}}, "stat-file": file("path=kept"),
		"read-tar": file("path=."), "write-tar": raw("path=."),
		"get-port": vm(nil), "create-link": vm(nil), "forward-port": vm(nil),
		"get-execution": of("execution"), "get-output": {{kind: "execution"}, {kind: "execution", header: events}}, "resize-execution": {{kind: "execution", body: `{"cols":80,"rows":24}`}},
		"signal-execution": {{kind: "execution", body: `{"signal":"KILL"}`}}, "write-stdin": {{kind: "execution", body: []byte("x")}}, "close-stdin": of("execution"),
		"stream-execution": {{kind: "execution", socket: true}}, "stream-execution-events": {{kind: "execution", header: events}},
		"get-snapshot": of("snapshot"), "delete-snapshot": of("snapshot"),
		"get-task": of("task"), "cancel-task": of("task"), "retry-task": of("task"), "get-task-output": of("run"), "get-task-group": of("group"), "cancel-task-group": of("group"),
		"create-task":       {{kind: "task", body: `{"args":["true"],"after":["%s"]}`}}, // its VM is made as by create-vm, later
		"create-task-group": {{kind: "task", body: `{"tasks":[{"args":["true"],"after":["%s"]}]}`}},
		"get-template":      of("template"), "delete-template": of("template"), "get-build-log": of("build"), "get-installation-log": of("installation"),
		"tag-template": {{kind: "template", body: `{"tag":"latest"}`}}, "untag-template": of("template"),
		"delete-secret": of("secret"),
		"get-volume":    of("volume"), "delete-volume": of("volume"), "read-volume-file": volume("path=kept", nil), "head-volume-file": volume("path=kept", nil),
		"write-volume-file": volume("path=kept", []byte("x")), "remove-volume-file": volume("path=kept", nil), "stat-volume-file": volume("path=kept", nil),
		"list-volume-files": volume("path=/", nil), "make-volume-dir": volume("", `{"path":"d"}`),
		"read-archive": of("archive"),
		"get-webhook":  of("webhook"), "enable-webhook": of("webhook"), "disable-webhook": of("webhook"), "rotate-webhook-secret": of("webhook"), "delete-webhook": of("webhook"), "list-webhook-deliveries": of("webhook"),
		"get-project-quota": of("project"), "set-project-quota": {{kind: "project", body: `{"vms":1}`}},
		"list-audit":  {{kind: "project", query: "project=%s"}, {kind: "vm", query: "subject=%s"}, {kind: "user", query: "actor=%s"}},
		"get-project": of("project"), "patch-project": {{kind: "project", body: `{"name":"taken"}`}}, "delete-project": of("project"),
		"get-user": of("user"), "patch-user": {{kind: "user", body: `{"disabled":true}`}}, "delete-user": of("user"), "remove-member": of("user"),
		"get-key": of("key"), "revoke-key": of("key"), "rotate-key": of("key"), "create-key": {{kind: "user", body: `{"name":"k","user":"%s"}`}},
		"create-vm": {
			{kind: "source", body: `{"template":"%s"}`}, {kind: "volume", body: `{"volumes":[{"volume":"%s","path":"/mnt/x"}]}`}, {kind: "secret", body: `{"secrets":[{"name":"%s","env":"X"}]}`},
			{kind: "secret", body: `{"secrets":[{"name":"%s","env":"X","hosts":["example.com"]}],"network":"nat"}`},
		},
		"build-template": {
			{kind: "upload", body: `{"name":"taken","source":{"tar":"%s"}}`}, {kind: "upload", body: `{"name":"taken","source":{"steps":"FROM base\nCOPY a b\n","context":"%s"}}`},
		},
	}
}

// others are the operations that lead to no thing of a tenant's, with why.
var others = map[string]string{
	"health": "no tenant's", "ready": "no tenant's", "openapi-json": "the document", "openapi-yaml": "the document",
	"metrics": "administrators'", "get-status": "administrators'", "list-workers": "administrators'", "get-worker": "administrators'", "cordon-worker": "administrators'", "uncordon-worker": "administrators'", "drain-worker": "administrators'", "remove-worker": "administrators'", "list-join-tokens": "administrators'", "create-join-token": "administrators'", "revoke-join-token": "administrators'", "join-worker": "the installation's", "renew-worker": "the installation's", "get-queue": "administrators'", "list-jobs": "administrators'", "retry-job": "administrators'", "delete-job": "administrators'", "list-logs": "administrators'", "stream-logs": "administrators'", "delete-tool": "administrators'",
	"list-drivers": "the host's", "get-endpoints": "the server's", "list-tools": "the host's", "install-tools": "names nothing that anybody has", "upload": "names nothing that anybody has",
	"rotate-token-key": "administrators'", "list-projects": "administrators'", "create-project": "administrators'", "list-users": "administrators'", "create-user": "administrators'",
	"get-me": "the asker's own", "create-token": "the asker's own", "set-member": "users are the installation's: who manages a project takes in whom it likes",
	"list-keys": "a list", "list-members": "a list",
	"get-quota": "the asker's own", "set-secret": "the asker's own: TestSameNamesAreDifferentThings",
	// TestListsShowOwnThings
	"list-vms": "a list", "list-archives": "a list", "list-snapshots": "a list", "list-tasks": "a list", "list-templates": "a list", "list-secrets": "a list", "list-volumes": "a list", "list-webhooks": "a list", "create-webhook": "names nothing that anybody has", "create-volume": "the asker's own: names are each project's", "list-events": "a list", "stream-events": "a list",
}

type described struct {
	id, method, path string
}

// operations walks the OpenAPI document as the server gives it out.
func (c *tenant) operations() []described {
	c.t.Helper()
	var doc struct {
		Paths map[string]map[string]struct {
			OperationID string `json:"operationId"`
		} `json:"paths"`
	}
	c.must(json.Unmarshal([]byte(c.do(ask{method: "GET", path: "/openapi.json"}).body), &doc))
	var all []described
	for _, path := range slices.Sorted(maps.Keys(doc.Paths)) {
		for _, method := range slices.Sorted(maps.Keys(doc.Paths[path])) {
			all = append(all, described{doc.Paths[path][method].OperationID, strings.ToUpper(method), path})
		}
	}
	if len(all) < 60 {
		c.t.Fatalf("the document has only %d operations", len(all))
	}
	return all
}

var parameter = regexp.MustCompile(`\{(\w+)\}`)

// with puts a thing into a probe of an operation.
func (p probe) with(op described, thing string) ask {
	path := parameter.ReplaceAllStringFunc(op.path, func(name string) string {
		switch name {
		case "{port}":
			return "8080"
		case "{path}", "{tag}":
			return "x"
		}
		return thing
	})
	if p.query != "" {
		path += "?" + strings.ReplaceAll(p.query, "%s", url.QueryEscape(thing))
	}
	q := ask{method: op.method, path: path, body: p.body, header: p.header, socket: p.socket, first: p.first}
	if text, ok := p.body.(string); ok {
		q.body = strings.ReplaceAll(text, "%s", thing)
	}
	return q
}

// alike is an answer without what differs between any two requests, and
// without the thing that was asked for.
func (a answer) alike(thing string) string {
	header := a.header.Clone()
	for _, h := range []string{"Date", wire.HeaderRequestID} {
		header.Del(h)
	}
	for name := range header {
		if strings.HasPrefix(strings.ToLower(name), "ratelimit") || strings.HasPrefix(strings.ToLower(name), "x-ratelimit") {
			header.Del(name)
		}
	}
	body := regexp.MustCompile(`"request_id":"[^"]*"`).ReplaceAllString(a.body, `"request_id":""`)
	text := fmt.Sprintf("%d %v %s", a.status, header, body)
	bare, _, _ := strings.Cut(thing, ":")
	return strings.NewReplacer(thing, "THING", bare, "THING").Replace(text)
}

// Every operation answers another tenant about a thing as about one that never
// was: in status, code, text and headers, and after the same questions to the
// store. A new operation without a probe fails the test.
func TestAnothersThingsAreNotThere(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	a, b := h.tenant("alice", domain.ScopeManage), h.tenant("bob", domain.ScopeManage)
	things := a.settle(a.with("root", domain.ScopeAdmin))
	b.template()
	a.told(3, 2)
	before := a.everything(things)
	cases := probes()
	for _, op := range a.operations() {
		all, has := cases[op.id]
		if _, none := others[op.id]; has == none {
			t.Errorf("%s %s (%s) is not tried: add how another's thing is asked for", op.method, op.path, op.id)
		}
		for _, p := range all {
			kind := things[p.kind]
			if len(kind.mine) == 0 {
				t.Fatalf("%s: nothing of the kind %q is there", op.id, p.kind)
			}
			for i, mine := range kind.mine {
				h.asked.read()
				theirs := b.do(p.with(op, mine))
				asked := h.asked.read()
				nobodys := b.do(p.with(op, kind.nobodys[i]))
				askedOfNobodys := h.asked.read()
				got, want := theirs.alike(mine), nobodys.alike(kind.nobodys[i])
				if got != want {
					t.Errorf("%s of another's %s %s:\n%s\nof nobody's:\n%s", op.id, p.kind, mine, got, want)
				}
				if empty := strings.Contains(theirs.body, `"items":[]`); theirs.status < 400 && !empty && theirs.status != http.StatusSwitchingProtocols {
					t.Errorf("%s of another's %s %s: %d %s", op.id, p.kind, mine, theirs.status, theirs.body)
				}
				if asked != askedOfNobodys {
					t.Errorf("%s of another's %s %s asks the store for %q, of nobody's for %q", op.id, p.kind, mine, asked, askedOfNobodys)
				}
				for _, secret := range secrets(things) {
					if secret != mine && strings.Contains(theirs.body, secret) {
						t.Errorf("%s of another's %s %s tells %s: %s", op.id, p.kind, mine, secret, theirs.body)
					}
				}
			}
		}
	}
	// Nor does naming the project help.
	for i, project := range things["project"].mine {
		named := func(project string) ask {
			return ask{method: "GET", path: "/vms", header: map[string]string{wire.HeaderProject: project}}
		}
		got, want := b.do(named(project)).alike(project), b.do(named(things["project"].nobodys[i])).alike(things["project"].nobodys[i])
		if got != want || !strings.HasPrefix(got, "404 ") {
			t.Errorf("in another's project %s:\n%s\nin nobody's:\n%s", project, got, want)
		}
	}
	if after := a.everything(things); after != before {
		t.Errorf("the owner's things changed from\n%s\nto\n%s", before, after)
	}
	// The probes are good ones: they lead the owner to its things.
	for _, op := range a.operations() {
		for _, p := range cases[op.id] {
			if op.method != http.MethodGet || p.socket || p.header != nil || op.id == "forward-port" || slices.Contains([]string{"get-installation-log", "get-project", "get-user"}, op.id) {
				continue
			}
			if got := a.do(p.with(op, things[p.kind].mine[0])); got.status >= 300 && got.status != http.StatusConflict && !strings.Contains(got.body, "unsupported") {
				t.Errorf("%s of one's own %s: %d %s", op.id, p.kind, got.status, got.body)
			}
		}
	}
}

// template gives a tenant a base of its own to make VMs from.
func (c *tenant) template() {
	c.t.Helper()
	task := ok[wire.Accepted](c.with("root", domain.ScopeAdmin), ask{method: "POST", path: "/templates", body: wire.BuildTemplate{Name: "base", Source: wire.TemplateSource{Dir: "/rootfs"}}}).Task
	c.ended(task.ID)
}

// secrets are everything of a tenant that another must not be told.
func secrets(b belongings) []string {
	all := []string{envSecret, storedSecret, outputSecret, commandSecret, fileSecret}
	for _, kind := range b {
		for _, m := range kind.mine {
			if domain.IsID(m) {
				all = append(all, m)
			}
		}
	}
	return all
}

func (c *tenant) tellsNothing(what, text string, b belongings) {
	c.t.Helper()
	for _, secret := range append(secrets(b), "a-machine", "a-template", "a-snapshot", "a-secret") {
		if strings.Contains(text, secret) {
			c.t.Errorf("%s tells %s: %s", what, secret, text)
		}
	}
}

// Lists, events and their cursors show a tenant its own things, whatever
// cursor it brings.
func TestListsShowOwnThings(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	a, b := h.tenant("alice", domain.ScopeManage), h.tenant("bob", domain.ScopeManage)
	things := a.settle(a.with("root", domain.ScopeAdmin))
	b.template()
	for range 2 {
		ok[wire.VM](b, ask{method: "POST", path: "/vms", body: wire.CreateVM{}})
		ok[wire.VM](a, ask{method: "POST", path: "/vms", body: wire.CreateVM{Template: "a-template"}})
	}
	lists := []string{"/vms", "/vms?include_deleted=true", "/snapshots", "/tasks", "/templates", "/secrets", "/volumes", "/webhooks", "/archives", "/events", "/quota", "/tools", "/drivers", "/keys", "/members", "/me", "/audit", "/vms?name=a-machine", "/vms?metadata=whose:a", "/vms?template=a-template"}
	for _, path := range lists {
		if got := b.do(ask{method: "GET", path: path}); got.status != http.StatusOK {
			t.Errorf("%s: %d %s", path, got.status, got.body)
		} else {
			b.tellsNothing(path, got.body, things)
		}
	}
	// A cursor is a place in an order, not a key to what is there.
	for _, path := range []string{"/vms?limit=1", "/vms?limit=1&order=asc", "/tasks?limit=1", "/events?limit=1"} {
		var page struct {
			Next   string `json:"next_cursor"`
			Cursor int64  `json:"cursor"`
		}
		c := a.do(ask{method: "GET", path: path})
		a.must(json.Unmarshal([]byte(c.body), &page))
		if page.Next == "" && !strings.Contains(path, "events") {
			t.Errorf("%s has no next page: %s", path, c.body)
		}
		for _, cursor := range []string{page.Next, page.Next + "x", "AAAA", "e30", "../..", strings.Repeat("A", 1024), "0", "9999999"} {
			got := b.do(ask{method: "GET", path: path + "&cursor=" + url.QueryEscape(cursor) + "&after=" + url.QueryEscape(cursor)})
			if got.status != http.StatusOK && got.status != http.StatusBadRequest {
				t.Errorf("%s from %q: %d %s", path, cursor, got.status, got.body)
			}
			b.tellsNothing(path+" from "+cursor, got.body, things)
		}
	}
	vm := ok[wire.VM](b, ask{method: "POST", path: "/vms", body: wire.CreateVM{}})
	b.tellsNothing("the stream of events", b.streamed("/events/stream?after=0", vm.ID), things)
	for _, path := range []string{"/metrics", "/workers", "/workers/tokens", "/queue", "/queue/jobs", "/logs", "/logs/stream", "/status"} {
		if got := b.do(ask{method: "GET", path: path}); got.status != http.StatusForbidden {
			t.Errorf("%s: %d", path, got.status)
		}
	}
}

// The same names, idempotency keys and IDs of executions in two projects are
// different things.
func TestSameNamesAreDifferentThings(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	a, b := h.tenant("alice", domain.ScopeManage), h.tenant("bob", domain.ScopeManage)
	things := a.settle(a.with("root", domain.ScopeAdmin))
	b.template()
	key := map[string]string{wire.HeaderIdempotencyKey: "the-same"}
	create := func(c *tenant, template string) wire.VM {
		return ok[wire.VM](c, ask{method: "POST", path: "/vms", body: wire.CreateVM{Name: "same", Template: template}, header: key})
	}
	one := create(a, "a-template")
	two := create(b, "base")
	if one.ID == two.ID || create(a, "a-template").ID != one.ID || create(b, "base").ID != two.ID {
		t.Errorf("VMs %s and %s by the same key", one.ID, two.ID)
	}
	// A kept answer is not another's: the same request by the other runs anew.
	async := map[string]string{wire.HeaderIdempotencyKey: "another", wire.HeaderPrefer: "respond-async"}
	first := a.do(ask{method: "POST", path: "/vms", body: `{"template":"a-template"}`, header: async})
	if again := a.do(ask{method: "POST", path: "/vms", body: `{"template":"a-template"}`, header: async}); again.header.Get(wire.HeaderReplayed) != "true" || again.body != first.body {
		t.Errorf("the owner's repeated request: %+v", again)
	}
	if got := b.do(ask{method: "POST", path: "/vms", body: `{"template":"a-template"}`, header: async}); got.status != http.StatusNotFound || got.header.Get(wire.HeaderReplayed) != "" {
		t.Errorf("the other's request by the same key: %d %s", got.status, got.body)
	}
	// Executions by the same key, and by the very ID of another's.
	run := func(c *tenant, vm, body string) answer {
		return c.do(ask{method: "POST", path: "/vms/" + vm + "/execute", body: body, header: key})
	}
	mine, theirs := run(a, one.ID, `{"args":["echo","alice"]}`), run(b, two.ID, `{"args":["echo","bob"]}`)
	if !strings.Contains(mine.body, `"alice\n"`) || !strings.Contains(theirs.body, `"bob\n"`) {
		t.Errorf("executions by the same key: %s %s", mine.body, theirs.body)
	}
	a.told(4, 3)
	before := a.everything(things)
	for _, x := range things["execution"].mine {
		for _, path := range []string{"/execute", "/executions"} {
			got := b.do(ask{method: "POST", path: "/vms/" + two.ID + path, body: `{"id":"` + x + `","args":["echo","bob"]}`})
			if got.status != http.StatusConflict || strings.Contains(got.body, "alice") {
				t.Errorf("an execution with the ID of another's: %d %s", got.status, got.body)
			}
			b.tellsNothing("an execution with the ID of another's", strings.ReplaceAll(got.body, x, ""), things)
		}
		got := b.do(ask{method: "GET", path: "/vms/" + two.ID + "/stream", socket: true, first: `{"type":"start","id":"` + x + `","args":["echo","bob"]}`})
		if !strings.Contains(got.body, "already_exists") {
			t.Errorf("a stream with the ID of another's execution: %d %q", got.status, got.body)
		}
	}
	ok[wire.Secret](b, ask{method: "PUT", path: "/secrets/a-secret", body: wire.SetSecret{Value: "bobs"}})
	ok[any](b, ask{method: "DELETE", path: "/secrets/a-secret"})
	if after := a.everything(things); after != before {
		t.Errorf("the owner's things changed from\n%s\nto\n%s", before, after)
	}
	if got := a.do(ask{method: "POST", path: "/vms/a-machine/execute", body: `{"args":["sh","-c","echo $STORED"]}`}); !strings.Contains(got.body, storedSecret) {
		t.Errorf("the owner's secret: %s", got.body)
	}
}

// A public template can be used by every project, and is only its owner's to
// change; its private neighbours stay so.
func TestPublicTemplates(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	a, b := h.tenant("alice", domain.ScopeManage), h.tenant("bob", domain.ScopeManage)
	things := a.settle(a.with("root", domain.ScopeAdmin))
	a.template()
	base := ok[wire.Template](a, ask{method: "GET", path: "/templates/base"})
	h.must(h.store.Update(h.ctx, func(tx storage.Tx) error {
		row, err := tx.Templates().Get(h.ctx, a.project, domain.ID(base.ID))
		if err != nil {
			return err
		}
		row.Public = true
		return tx.Templates().Update(h.ctx, row)
	}))
	ok[wire.VM](b, ask{method: "POST", path: "/vms", body: wire.CreateVM{}})
	if got := b.do(ask{method: "DELETE", path: "/templates/base"}); got.status != http.StatusNotFound {
		t.Errorf("another's public template was deleted: %d %s", got.status, got.body)
	}
	list := b.do(ask{method: "GET", path: "/templates"})
	if !strings.Contains(list.body, `"base"`) {
		t.Errorf("the public template is not listed: %s", list.body)
	}
	b.tellsNothing("the list of templates", list.body, things)
	// The same name makes the project's own.
	b.template()
	if own := ok[wire.Template](b, ask{method: "GET", path: "/templates/base"}); own.ID == base.ID || own.Public {
		t.Errorf("%+v", own)
	}
	if still := ok[wire.Template](a, ask{method: "GET", path: "/templates/base"}); still.ID != base.ID || len(still.Builds) != len(base.Builds) {
		t.Errorf("%+v", still)
	}
}

// What a tenant builds from is not asked for in the name of the host.
func TestTenantsImagesAreUntrusted(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	b := h.tenant("bob", domain.ScopeManage)
	root := b.with("root", domain.ScopeAdmin)
	for name, who := range map[string]*tenant{"theirs": b, "operators": root} {
		task := ok[wire.Accepted](who, ask{method: "POST", path: "/templates", body: wire.BuildTemplate{Name: name, Source: wire.TemplateSource{Image: "registry.test/image"}}}).Task
		who.ended(task.ID)
		var build *domain.Build
		h.must(h.store.View(h.ctx, func(tx storage.Tx) (err error) {
			build, err = tx.Builds().Get(h.ctx, b.project, domain.ID(task.Subject))
			return err
		}))
		if build.Source.Untrusted != (who == b) {
			t.Errorf("%s: %+v", name, build.Source)
		}
	}
}

// Previews open to whoever has the VM's token or its one-time link, and tell
// nobody else whether there is a VM.
func TestPreviewsAreTheirOwners(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	a, b := h.tenant("alice", domain.ScopeManage), h.tenant("bob", domain.ScopeManage)
	a.settle(a.with("root", domain.ScopeAdmin))
	b.template()
	vmA := ok[wire.VM](a, ask{method: "GET", path: "/vms/a-machine"})
	vmB := ok[wire.VM](b, ask{method: "POST", path: "/vms", body: wire.CreateVM{}})
	type port struct {
		URL   string `json:"url"`
		Token string `json:"token"`
	}
	own := ok[port](b, ask{method: "GET", path: "/vms/" + vmB.ID + "/ports/8080"})
	its := ok[port](a, ask{method: "GET", path: "/vms/" + vmA.ID + "/ports/8080"})
	if own.Token == "" || its.Token == "" || own.Token == its.Token {
		t.Fatalf("tokens %+v %+v", own, its)
	}
	nobody := strings.Replace(its.URL, vmA.ID, domain.NewID().String(), 1)
	for what, header := range map[string]map[string]string{
		"no token":           nil,
		"another VM's token": {wire.HeaderPreviewToken: own.Token},
		"a made up token":    {wire.HeaderPreviewToken: strings.Repeat("a", len(own.Token))},
		"a key":              {"Authorization": "Bearer " + b.key},
		"another's cookie":   {"Cookie": "aeth_preview=9999999999." + own.Token},
	} {
		visitor := &tenant{house: h}
		got := visitor.do(ask{method: "GET", path: its.URL, header: header})
		want := visitor.do(ask{method: "GET", path: nobody, header: header})
		if got.status != http.StatusUnauthorized && got.status != http.StatusForbidden && got.status != http.StatusNotFound {
			t.Errorf("%s: %d %s", what, got.status, got.body)
		}
		id := strings.SplitN(strings.TrimPrefix(nobody, "http://8080-"), ".", 2)[0]
		if got.alike(vmA.ID) != want.alike(id) {
			t.Errorf("%s: a VM that is there:\n%s\none that never was:\n%s", what, got.alike(vmA.ID), want.alike(id))
		}
	}
	// A link is for its VM and port, once.
	var link struct {
		URL string `json:"url"`
	}
	a.must(json.Unmarshal([]byte(a.do(ask{method: "POST", path: "/vms/" + vmA.ID + "/ports/8080/links", body: `{}`}).body), &link))
	elsewhere := strings.Replace(link.URL, vmA.ID, vmB.ID, 1)
	visitor := &tenant{house: h}
	if got := visitor.do(ask{method: "GET", path: elsewhere}); got.status < 400 && got.header.Get("Set-Cookie") != "" {
		t.Errorf("a link opened another VM: %d %v", got.status, got.header)
	}
}

// What the server logs and measures names no secret of a tenant's.
func TestNothingOfTenantsIsLogged(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	a, b := h.tenant("alice", domain.ScopeManage), h.tenant("bob", domain.ScopeManage)
	things := a.settle(a.with("root", domain.ScopeAdmin))
	b.template()
	for _, q := range []ask{
		{method: "GET", path: "/vms/a-machine"}, {method: "POST", path: "/vms/a-machine/execute", body: `{"args":["/missing/program","` + commandSecret + `"],"env":{"X":"` + envSecret + `"}}`},
		{method: "PUT", path: "/secrets/bad name", body: `{"value":"` + storedSecret + `"}`}, {method: "PUT", path: "/secrets/s", body: `{"value":["` + storedSecret + `"]}`},
		{method: "POST", path: "/vms", body: `{"env":{"A=B":"` + envSecret + `"}}`},
	} {
		a.do(q)
		b.do(q)
	}
	log := h.log.String()
	for _, secret := range []string{envSecret, storedSecret, outputSecret, commandSecret, fileSecret, a.key, b.key} {
		if strings.Contains(log, secret) {
			t.Errorf("the log has %s", secret)
		}
	}
	metrics := a.with("root", domain.ScopeAdmin).do(ask{method: "GET", path: "/metrics"})
	if metrics.status != http.StatusOK || !strings.Contains(metrics.body, "aetherium_http_requests_total") {
		t.Fatalf("metrics: %d", metrics.status)
	}
	a.tellsNothing("metrics", metrics.body, things)
	if strings.Contains(metrics.body, "alice") || strings.Contains(metrics.body, a.project.String()) {
		t.Error("metrics name a tenant")
	}
}
