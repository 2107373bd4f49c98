package app

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/seal"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/access"
	"github.com/aetherium/aetherium/services/core/pkg/archive"
	"github.com/aetherium/aetherium/services/core/pkg/audit"
	"github.com/aetherium/aetherium/services/core/pkg/image"
	"github.com/aetherium/aetherium/services/core/pkg/installation"
	"github.com/aetherium/aetherium/services/core/pkg/journal"
	"github.com/aetherium/aetherium/services/core/pkg/queue/memory"
	"github.com/aetherium/aetherium/services/core/pkg/runner"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/storage/sqlite"
	"github.com/aetherium/aetherium/services/core/pkg/storage/sqlitetest"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/fake"
	"github.com/aetherium/aetherium/services/core/pkg/watch"
	"github.com/aetherium/aetherium/services/core/pkg/webhook"
	"github.com/aetherium/aetherium/services/core/pkg/worker"
	"github.com/aetherium/aetherium/services/gateway/pkg/answers"
	"github.com/aetherium/aetherium/services/gateway/pkg/auth"
	"github.com/aetherium/aetherium/services/gateway/pkg/gateway"
	"github.com/aetherium/aetherium/services/gateway/pkg/serve"
	gatewaysettings "github.com/aetherium/aetherium/services/gateway/pkg/settings"
)

// house is an installation with several tenants: everything is real but the
// machines, which are the fake driver's.
type house struct {
	t      *testing.T
	ctx    context.Context
	store  storage.Store // without the books
	asked  *books
	log    *lockedBuffer
	addr   string
	client *http.Client
	sealer seal.Sealer
}

// tenant is who holds a key of a project.
type tenant struct {
	*house
	project domain.ID
	key     string
}

func newHouse(t *testing.T, options ...func(*fake.Node)) *house {
	t.Helper()
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	h := &house{t: t, ctx: ctx, log: new(lockedBuffer)}
	logger := slog.New(slog.NewJSONHandler(h.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	store, err := sqlitetest.Open(ctx, filepath.Join(dir, "db"), sqlite.Options{Logger: logger})
	h.must(err)
	t.Cleanup(func() { h.must(store.Close()) })
	h.store, h.asked = store, &books{Store: store}
	ring, err := seal.LoadFile(filepath.Join(dir, "key"))
	h.must(err)
	journals, err := journal.OpenStore(filepath.Join(dir, "journals"), journal.Options{})
	h.must(err)
	t.Cleanup(func() { h.must(journals.Close()) })
	machines := fake.NewNode(t.TempDir())
	t.Cleanup(func() { h.must(machines.Close()) })
	for _, o := range options {
		o(machines)
	}
	changes, sealer := new(watch.Hub[domain.ID]), seal.New(ring)
	h.sealer = sealer
	w := worker.New(worker.Config{
		Name: "node", Platform: "linux/amd64", DataDir: dir, ReadyTimeout: 10 * time.Second, StopGrace: 2 * time.Second,
		Capacity: domain.Resources{MilliCPU: 32000, MemoryBytes: 32 << 30, DiskBytes: 256 << 30, PIDs: 1 << 20},
	}, worker.Deps{
		Store: store, Drivers: map[string]vmm.Driver{"fake": fake.New(machines)}, Images: &directories{built: map[string]image.Result{}},
		Journals: journals, Sealer: sealer, Queue: memory.New(16, nil, logger), Changes: changes, Log: logger,
	})
	h.must(w.Start(ctx))
	t.Cleanup(func() { h.must(w.Stop(context.WithoutCancel(ctx))) })
	runs := memory.New(16, nil, logger)
	s := service.New(service.Config{
		DefaultTemplate: "base", DefaultDriver: "fake", DefaultNetwork: domain.NetworkNone, Platform: "linux/amd64",
		Defaults:   domain.Resources{MilliCPU: 1000, MemoryBytes: 256 << 20, DiskBytes: 256 << 20, PIDs: 256},
		Overcommit: service.Overcommit{Memory: 1, Disk: 1},
	}, service.Deps{Store: h.asked, Nodes: service.OneNode{Only: w}, Sealer: sealer, Changes: changes, Runs: runner.Waker{Queue: runs, Log: logger}, Log: logger})
	attendant := runner.New(runner.Config{}, runner.Deps{Store: store, Service: s, Sealer: sealer, Queue: runs, Changes: changes, Log: logger})
	h.must(attendant.Start(ctx))
	t.Cleanup(func() { h.must(attendant.Stop(context.WithoutCancel(ctx))) })
	who, err := serve.OpenAccess(gatewaysettings.DefaultFront().Auth, &installation.Installation{Store: h.asked, Sealer: sealer, ID: "house"}, s, logger)
	h.must(err)
	log, shut, err := serve.OpenAudit(ctx, audit.Options{Dir: filepath.Join(dir, "audit"), Store: store, Log: logger})
	h.must(err)
	t.Cleanup(func() { h.must(shut()) })
	kept := answers.New(store, sealer, nil)
	g, err := gateway.New(gateway.Config{Address: "127.0.0.1:0", Version: "1.2.3-test", StopGrace: 5 * time.Second}, gateway.Deps{
		VMs: s, Tasks: s, Authenticator: who.Authenticator, Projects: who.Lookup, Access: who.Service, Tokens: who.Tokens, Idempotency: kept, Notes: kept,
		Audit: log, Logger: logger, Webhooks: webhook.New(webhook.Deps{Store: h.asked, Sealer: sealer}), Collectors: w.Collectors(), Status: func(context.Context) (wire.Status, error) { return wire.Status{VMs: map[string]int{}}, nil },
	})
	h.must(err)
	server := gateway.NewServer(g)
	h.must(server.Start(ctx))
	h.addr = server.Addr().String()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", h.addr) // every name leads here, as those of previews do
	}}
	h.client = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		h.must(server.Stop(context.WithoutCancel(ctx)))
	})
	return h
}

func (h *house) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

// tenant makes a project and a key of it.
func (h *house) tenant(name string, scope domain.Scope) *tenant {
	h.t.Helper()
	p := &domain.Project{ID: domain.NewID(), Name: name, CreatedAt: time.Now()}
	h.must(h.store.Update(h.ctx, func(tx storage.Tx) error { return tx.Projects().Insert(h.ctx, p) }))
	return (&tenant{house: h, project: p.ID}).with(name, scope)
}

// with is the same project with another key.
func (c *tenant) with(name string, scope domain.Scope) *tenant {
	c.t.Helper()
	text, hash := auth.MintKey()
	c.must(c.store.Update(c.ctx, func(tx storage.Tx) error {
		return tx.Keys().Insert(c.ctx, &domain.APIKey{
			ID: domain.NewID(), ProjectID: c.project, Name: name, Prefix: access.Shown(text), Hash: hash, Scopes: domain.Scopes{scope}, CreatedAt: time.Now(),
		})
	}))
	return &tenant{house: c.house, project: c.project, key: text}
}

// ask is a request below the API's path, or to a URL.
type ask struct {
	method, path string
	body         any // string or []byte as they are, else JSON
	header       map[string]string
	socket       bool   // by WebSocket
	first        string // the first message on it
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   string
}

func (c *tenant) do(q ask) answer {
	c.t.Helper()
	var body io.Reader
	media := "application/json"
	switch b := q.body.(type) {
	case nil:
		media = ""
	case string:
		body = strings.NewReader(b)
	case []byte:
		body, media = bytes.NewReader(b), "application/octet-stream"
	default:
		text, err := json.Marshal(b)
		c.must(err)
		body = bytes.NewReader(text)
	}
	url := q.path
	if !strings.HasPrefix(url, "http") {
		url = "http://" + c.addr + wire.BasePath + url
	}
	r, err := http.NewRequestWithContext(c.ctx, q.method, url, body)
	c.must(err)
	if media != "" {
		r.Header.Set("Content-Type", media)
	}
	if c.key != "" {
		r.Header.Set(wire.HeaderAPIKey, c.key)
	}
	for k, v := range q.header {
		r.Header.Set(k, v)
	}
	if q.socket {
		for k, v := range map[string]string{"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Protocol": wire.Subprotocol} {
			r.Header.Set(k, v)
		}
	}
	resp, err := c.client.Do(r)
	if err != nil {
		c.t.Fatalf("%s %s: %v", q.method, q.path, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if w, ok := resp.Body.(io.Writer); ok && resp.StatusCode == http.StatusSwitchingProtocols && q.first != "" {
		_, err := w.Write(textFrame(q.first))
		c.must(err)
	}
	read := io.ReadAll
	if resp.StatusCode == http.StatusSwitchingProtocols {
		read = readMessages
	}
	text, err := read(resp.Body)
	if err != nil {
		c.t.Fatalf("%s %s: %v", q.method, q.path, err)
	}
	return answer{resp.StatusCode, resp.Header, string(text)}
}

// textFrame is a client's message on a WebSocket (RFC 6455 §5.2), masked by zeros.
func textFrame(text string) []byte {
	f := binary.BigEndian.AppendUint16([]byte{0x81, 0xfe}, uint16(len(text)))
	return append(append(f, 0, 0, 0, 0), text...)
}

// streamed reads server-sent events until one has a text.
func (c *tenant) streamed(path, until string) string {
	c.t.Helper()
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.addr+wire.BasePath+path, nil)
	c.must(err)
	r.Header.Set(wire.HeaderAPIKey, c.key)
	r.Header.Set("Accept", "text/event-stream")
	resp, err := c.client.Do(r)
	c.must(err)
	defer func() { _ = resp.Body.Close() }()
	var all strings.Builder
	for lines := bufio.NewScanner(resp.Body); !strings.Contains(all.String(), until); {
		if !lines.Scan() {
			c.t.Fatalf("%s ended: %v %s", path, lines.Err(), all.String())
		}
		all.WriteString(lines.Text() + "\n")
	}
	return all.String()
}

// readMessages reads what a server says on a WebSocket, until it closes it.
func readMessages(r io.Reader) (all []byte, err error) {
	for {
		head := make([]byte, 2)
		if _, err := io.ReadFull(r, head); err != nil {
			return all, err
		}
		length := uint64(head[1] & 0x7f)
		for extra, n := range map[uint64]int{126: 2, 127: 8} {
			if length != extra {
				continue
			}
			more := make([]byte, 8)
			if _, err := io.ReadFull(r, more[8-n:]); err != nil {
				return all, err
			}
			length = binary.BigEndian.Uint64(more)
			break
		}
		message, err := io.ReadAll(io.LimitReader(r, int64(length)))
		if all = append(all, message...); err != nil || head[0]&0xf == 8 {
			return all, err
		}
	}
}

// ok does a request that succeeds, and decodes its answer.
func ok[T any](c *tenant, q ask) T {
	c.t.Helper()
	a := c.do(q)
	if a.status >= 300 {
		c.t.Fatalf("%s %s: %d %s", q.method, q.path, a.status, a.body)
	}
	var v T
	if a.body != "" {
		if err := json.Unmarshal([]byte(a.body), &v); err != nil {
			c.t.Fatalf("%s %s: %v in %s", q.method, q.path, err, a.body)
		}
	}
	return v
}

// lockedBuffer is the server's log.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// books writes down what the service asks the store for. The worker's own
// questions go past it.
type books struct {
	storage.Store
	mu   sync.Mutex
	seen []string
}

func (b *books) note(what string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seen = append(b.seen, what)
}

// read gives what was asked since the last time.
func (b *books) read() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	seen := strings.Join(b.seen, " ")
	b.seen = nil
	return seen
}

func (b *books) View(ctx context.Context, f func(storage.Tx) error) error {
	b.note("view")
	return b.Store.View(ctx, func(tx storage.Tx) error { return f(noted{tx, b}) })
}

func (b *books) Read(ctx context.Context, f func(storage.Tx) error) error {
	b.note("view")
	return b.Store.Read(ctx, func(tx storage.Tx) error { return f(noted{tx, b}) })
}

func (b *books) Update(ctx context.Context, f func(storage.Tx) error) error {
	b.note("update")
	return b.Store.Update(ctx, func(tx storage.Tx) error { return f(noted{tx, b}) })
}

// noted names the repositories that hold tenants' things.
type noted struct {
	storage.Tx
	books *books
}

func (n noted) VMs() storage.VMs               { n.books.note("VMs"); return n.Tx.VMs() }
func (n noted) Executions() storage.Executions { n.books.note("Executions"); return n.Tx.Executions() }
func (n noted) Templates() storage.Templates   { n.books.note("Templates"); return n.Tx.Templates() }
func (n noted) Builds() storage.Builds         { n.books.note("Builds"); return n.Tx.Builds() }
func (n noted) Snapshots() storage.Snapshots   { n.books.note("Snapshots"); return n.Tx.Snapshots() }
func (n noted) Names() storage.Names           { n.books.note("Names"); return n.Tx.Names() }
func (n noted) Tasks() storage.Tasks           { n.books.note("Tasks"); return n.Tx.Tasks() }
func (n noted) Secrets() storage.Secrets       { n.books.note("Secrets"); return n.Tx.Secrets() }
func (n noted) Keys() storage.Keys             { n.books.note("Keys"); return n.Tx.Keys() }
func (n noted) Outbox() storage.Outbox         { n.books.note("Outbox"); return n.Tx.Outbox() }
func (n noted) Users() storage.Users           { n.books.note("Users"); return n.Tx.Users() }
func (n noted) Members() storage.Members       { n.books.note("Members"); return n.Tx.Members() }
func (n noted) Projects() storage.Projects     { n.books.note("Projects"); return n.Tx.Projects() }

// directories is a store of root filesystems that are directories and nothing
// more: the machines of the fake driver run on the host's own.
type directories struct {
	mu    sync.Mutex
	built map[string]image.Result
}

func (d *directories) Get(_ context.Context, id string) (image.Result, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r, ok := d.built[id]
	if !ok {
		return r, errors.New(errors.NotFound, "there is no build %q", id)
	}
	return r, nil
}

func (d *directories) Build(_ context.Context, id string, src domain.TemplateSource, progress image.Progress) (image.Result, error) {
	progress(image.Line{Step: "copy", Text: "the log of " + src.Dir})
	d.mu.Lock()
	defer d.mu.Unlock()
	d.built[id] = image.Result{ID: id, RootFS: src.Dir, Digest: "sha256:0"}
	return d.built[id], nil
}

func (d *directories) BuildBase(ctx context.Context, id string, progress image.Progress) (image.Result, error) {
	return d.Build(ctx, id, domain.TemplateSource{Dir: "/rootfs"}, progress)
}

func (d *directories) Delete(context.Context, string) error { return nil }

// belongings are what a tenant has of everything, and things of the same form
// that never were.
type belongings map[string]struct{ mine, nobodys []string }

// secrets of the tenant, which nobody else may see anywhere.
const (
	envSecret     = "env-5f2c81d0"
	storedSecret  = "stored-77ab12ee"
	outputSecret  = "output-c0ffee42"
	commandSecret = "command-1b2d3f60"
	fileSecret    = "file-90aa31bc"
)

// settle gives a tenant one of everything.
func (c *tenant) settle(root *tenant) belongings {
	c.t.Helper()
	b := belongings{}
	thing := func(kind string, mine ...string) {
		var nobodys []string
		for _, m := range mine {
			if domain.IsID(m) {
				nobodys = append(nobodys, domain.NewID().String())
			} else {
				name, tag, tagged := strings.Cut(m, ":")
				if tagged {
					tag = ":" + tag
				}
				nobodys = append(nobodys, strings.Repeat("z", len(name))+tag)
			}
		}
		b[kind] = struct{ mine, nobodys []string }{mine, nobodys}
	}
	task := ok[wire.Accepted](root, ask{method: "POST", path: "/templates", body: wire.BuildTemplate{Name: "a-template", Source: wire.TemplateSource{Dir: "/rootfs"}}}).Task
	c.ended(task.ID)
	template := ok[wire.Template](c, ask{method: "GET", path: "/templates/a-template"})
	ok[wire.Secret](c, ask{method: "PUT", path: "/secrets/a-secret", body: wire.SetSecret{Value: storedSecret}})
	vm := ok[wire.VM](c, ask{method: "POST", path: "/vms", body: wire.CreateVM{
		Name: "a-machine", Template: "a-template", Env: map[string]string{"TOKEN": envSecret}, Metadata: map[string]string{"whose": "a"},
		Secrets: []wire.SecretUse{{Name: "a-secret", Env: "STORED"}},
	}})
	ran := ok[wire.ExecuteResult](c, ask{method: "POST", path: "/vms/" + vm.ID + "/execute", body: wire.Execute{Command: wire.Command{Args: []string{"sh", "-c", "echo " + outputSecret + "; : " + commandSecret}}}})
	runs := ok[wire.Execution](c, ask{method: "POST", path: "/vms/" + vm.ID + "/executions", body: wire.StartExecution{Command: wire.Command{Args: []string{"cat"}}, Stdin: true}})
	ok[any](c, ask{method: "PUT", path: "/vms/" + vm.ID + "/files?path=kept", body: []byte(fileSecret)})
	snapshot := ok[wire.Snapshot](c, ask{method: "POST", path: "/vms/" + vm.ID + "/snapshots", body: wire.CreateSnapshot{Name: "a-snapshot"}})
	upload := ok[wire.Upload](c, ask{method: "PUT", path: "/uploads", body: []byte("a tar")})
	ended := time.Now().UTC().Truncate(time.Microsecond)
	tools := &domain.Task{
		ID: domain.NewID(), ProjectID: c.project, Kind: service.TaskTools, State: domain.TaskFailed, Args: json.RawMessage(`{"tools":["node"]}`),
		MaxAttempts: 1, CreatedAt: ended, UpdatedAt: ended, RunAt: ended, EndedAt: &ended,
	}
	volume := &domain.Volume{ID: domain.NewID(), ProjectID: c.project, Name: "a-volume", WorkerID: domain.ID(ok[wire.VM](c, ask{method: "GET", path: "/vms/" + vm.ID}).WorkerID), DiskBytes: 1 << 20, TokenSealed: []byte("of nobody"), CreatedAt: ended}
	c.must(c.store.Update(c.ctx, func(tx storage.Tx) error {
		return errors.Join(tx.Tasks().Insert(c.ctx, tools), tx.Volumes().Insert(c.ctx, volume),
			archive.Archiver{Sealer: c.sealer, Worker: volume.WorkerID}.Add(c.ctx, tx, ended, nil, archive.Records{Tasks: []*domain.Task{tools}}))
	}))
	made := ok[wire.TaskGroup](c, ask{method: "POST", path: "/task-groups", body: wire.CreateTaskGroup{Tasks: []wire.CreateTask{{
		VM: &wire.CreateVM{Template: "a-template", Env: map[string]string{"TOKEN": envSecret}}, Command: wire.Command{Args: []string{"echo", outputSecret}},
	}}}})
	commanded := ok[wire.List[wire.Task]](c, ask{method: "GET", path: "/tasks?group=" + made.ID}).Items[0].ID
	c.ended(commanded)
	ok[wire.VM](c, ask{method: "DELETE", path: "/vms/" + ok[wire.Task](c, ask{method: "GET", path: "/tasks/" + commanded}).VMID}) // has ended, too
	user := ok[wire.User](root, ask{method: "POST", path: "/users", body: wire.CreateUser{Name: "carol"}})
	ok[wire.Member](c, ask{method: "PUT", path: "/members/carol", body: wire.SetMember{Role: "viewer"}})
	key := ok[wire.NewKey](c, ask{method: "POST", path: "/keys", body: wire.CreateKey{Name: "a-key"}})
	thing("user", user.ID, "carol")
	thing("key", key.ID)
	thing("vm", vm.ID, "a-machine")
	thing("execution", runs.ID, ran.Execution.ID)
	thing("template", template.ID, "a-template")
	thing("build", template.Builds[0].ID)
	thing("snapshot", snapshot.ID)
	thing("source", template.ID, "a-template", template.Builds[0].ID, snapshot.ID, "a-snapshot", "a-template:latest")
	thing("task", task.ID, tools.ID.String(), commanded)
	thing("run", commanded)
	thing("group", made.ID)
	thing("installation", tools.ID.String())
	thing("secret", "a-secret")
	thing("upload", upload.ID)
	thing("volume", volume.ID.String(), volume.Name)
	hook := ok[wire.NewWebhook](c, ask{method: "POST", path: "/webhooks", body: wire.CreateWebhook{URL: "https://localhost:1/none"}}) // which is not connected to
	thing("webhook", hook.ID)
	thing("archive", ok[wire.List[wire.Archive]](c, ask{method: "GET", path: "/archives"}).Items[0].ID)
	thing("project", c.project.String(), "alice")
	return b
}

// ended waits for a task by its events.
func (c *tenant) ended(task string) {
	c.t.Helper()
	for {
		changed := c.store.Changed()
		if t := ok[wire.Task](c, ask{method: "GET", path: "/tasks/" + task}); slices.Contains([]string{"succeeded", "failed", "canceled"}, t.State) {
			return
		}
		select {
		case <-changed:
		case <-c.ctx.Done():
			c.t.Fatalf("the task %s does not end", task)
		}
	}
}

// told waits until so many executions have been told to have started and ended:
// that is written beside them, not before they answer.
func (c *tenant) told(started, ended int) {
	c.t.Helper()
	for {
		changed := c.store.Changed()
		events := c.do(ask{method: "GET", path: "/events?limit=1000"}).body
		if strings.Count(events, `"execution.started"`) == started && strings.Count(events, `"execution.exited"`) == ended {
			return
		}
		select {
		case <-changed:
		case <-c.ctx.Done():
			c.t.Fatalf("%d executions that started and %d that ended are not told: %s", started, ended, events)
		}
	}
}

// everything is what the tenant sees of its things.
func (c *tenant) everything(b belongings) string {
	c.t.Helper()
	var all strings.Builder
	vm := b["vm"].mine[0]
	for _, path := range []string{
		"/vms?include_deleted=true", "/vms/" + vm, "/vms/" + vm + "/executions", "/executions/" + b["execution"].mine[0], "/executions/" + b["execution"].mine[1],
		"/vms/" + vm + "/egress", "/vms/" + vm + "/files?path=kept", "/templates", "/templates/a-template", "/snapshots", "/tasks", "/secrets", "/volumes", "/volumes/a-volume", "/webhooks", "/quota", "/members", "/keys/" + b["key"].mine[0], "/events?limit=1000",
		"/executions/" + b["execution"].mine[1] + "/output", "/templates/builds/" + b["build"].mine[0] + "/log",
	} {
		a := c.do(ask{method: "GET", path: path})
		if a.status != http.StatusOK {
			c.t.Fatalf("%s: %d %s", path, a.status, a.body)
		}
		fmt.Fprintf(&all, "%s: %s\n", path, a.body)
	}
	return all.String()
}
