package fake

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// DialPort implements vmm.Ports.
func (o *Orchestrator) DialPort(ctx context.Context, id domain.ID, port uint16) (net.Conn, error) {
	o.mu.Lock()
	v, ok := o.vms[id]
	if !ok {
		o.mu.Unlock()
		return nil, errors.New(errors.NotFound, "there is no VM %s", id)
	}
	v, err := o.running(vmm.Caller{ProjectID: v.ProjectID}, id)
	if err != nil {
		o.mu.Unlock()
		return nil, err
	}
	addr, ok := v.ports[port]
	o.mu.Unlock()
	if !ok {
		return nil, errors.New(errors.Unavailable, "nothing listens on port %d", port)
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, errors.Wrap(err, errors.Unavailable, "nothing listens on port %d", port)
	}
	o.locked(func() { v.conns[c] = struct{}{} })
	return c, nil
}

// Awake implements vmm.Ports.
func (o *Orchestrator) Awake(_ context.Context, id domain.ID) (here bool, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	v, ok := o.vms[id]
	if !ok {
		return false, errors.New(errors.NotFound, "there is no VM %s", id)
	}
	_, err = o.running(vmm.Caller{ProjectID: v.ProjectID}, id)
	return !o.Elsewhere, err
}

// Preview implements vmm.Ports.
func (o *Orchestrator) Preview(_ context.Context, id domain.ID) (vmm.Preview, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	v, ok := o.vms[id]
	if !ok || v.Observed == domain.Deleted {
		return vmm.Preview{}, errors.New(errors.NotFound, "there is no VM %s", id)
	}
	return vmm.Preview{Previews: v.Spec.Previews, Token: v.token}, nil
}

// DialAgent implements vmm.Agents: the agent is what is exposed on its port.
func (o *Orchestrator) DialAgent(ctx context.Context, id domain.ID, _ bool) (net.Conn, error) {
	return o.DialPort(ctx, id, vmm.AgentPort)
}

// AgentAccess implements vmm.Agents.
func (o *Orchestrator) AgentAccess(_ context.Context, id domain.ID) (vmm.AgentAccess, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	v, ok := o.vms[id]
	if !ok || v.Observed == domain.Deleted {
		return vmm.AgentAccess{}, errors.New(errors.NotFound, "there is no VM %s", id)
	}
	return vmm.AgentAccess{Token: "agent" + v.token, ProjectID: v.ProjectID}, nil
}

// CreateSnapshot implements vmm.Snapshots.
func (o *Orchestrator) CreateSnapshot(_ context.Context, by vmm.Caller, id domain.ID, req vmm.CreateSnapshot) (*domain.Snapshot, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	v, err := o.find(by, id)
	if err != nil {
		return nil, err
	}
	hasMemory := v.Observed == domain.Running || v.Observed == domain.Paused && v.PauseMode == domain.PauseMemory
	switch {
	case !slices.Contains([]domain.ObservedState{domain.Running, domain.Paused, domain.Stopped}, v.Observed):
		return nil, errors.New(errors.Conflict, "the VM is %s", v.Observed)
	case o.refused[req.Kind] != nil:
		return nil, o.refused[req.Kind]
	case req.Kind == domain.SnapshotMemory && !o.memory:
		return nil, errors.New(errors.Unsupported, "the driver keeps no memory in snapshots").WithField("kind")
	case req.Kind == domain.SnapshotMemory && !hasMemory:
		return nil, errors.New(errors.Conflict, "the VM is %s: it has no memory to keep", v.Observed).WithField("kind")
	}
	s := &domain.Snapshot{ID: domain.NewID(), ProjectID: by.ProjectID, VMID: id, Name: req.Name, Driver: "fake", Kind: req.Kind, State: domain.BuildReady, Bytes: 4096, CreatedAt: time.Now().UTC()}
	o.snaps[s.ID] = s
	return s, nil
}

// GetSnapshot implements vmm.Snapshots.
func (o *Orchestrator) GetSnapshot(_ context.Context, by vmm.Caller, id domain.ID) (*domain.Snapshot, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s, ok := o.snaps[id]
	if !ok || s.ProjectID != by.ProjectID {
		return nil, errors.New(errors.NotFound, "there is no snapshot %s", id)
	}
	return s, nil
}

// ListSnapshots implements vmm.Snapshots.
func (o *Orchestrator) ListSnapshots(_ context.Context, by vmm.Caller, id domain.ID, p vmm.Page) (vmm.List[*domain.Snapshot], error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var all []*domain.Snapshot
	for _, s := range o.snaps {
		if s.ProjectID == by.ProjectID && (id == "" || s.VMID == id) {
			all = append(all, s)
		}
	}
	return page(all, p)
}

// DeleteSnapshot implements vmm.Snapshots.
func (o *Orchestrator) DeleteSnapshot(ctx context.Context, by vmm.Caller, id domain.ID) error {
	if _, err := o.GetSnapshot(ctx, by, id); err != nil {
		return err
	}
	o.locked(func() { delete(o.snaps, id) })
	return nil
}

// SaveUpload implements vmm.Templates.
func (o *Orchestrator) SaveUpload(_ context.Context, by vmm.Caller, name string, r io.Reader) (*domain.Upload, error) {
	content, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	if len(content) == 0 {
		return nil, errors.New(errors.InvalidArgument, "the upload is empty").WithField("body")
	}
	now, sum := time.Now().UTC(), sha256.Sum256(content)
	u := &domain.Upload{
		ID: domain.NewID(), ProjectID: by.ProjectID, Name: name, SizeBytes: int64(len(content)), SHA256: hex.EncodeToString(sum[:]),
		CreatedAt: now, ExpiresAt: now.Add(24 * time.Hour),
	}
	o.locked(func() { o.uploads = append(o.uploads, sent{u, content}) })
	return u, nil
}

// sent is an upload with its content.
type sent struct {
	*domain.Upload
	content []byte
}

func (o *Orchestrator) sent(by vmm.Caller, is func(*domain.Upload) bool) (u sent, err error) {
	err = errors.New(errors.NotFound, "there is no such upload")
	o.locked(func() {
		for _, s := range o.uploads {
			if s.ProjectID == by.ProjectID && is(s.Upload) {
				u, err = s, nil
			}
		}
	})
	return u, err
}

// LoseUploads has all that were sent be on a worker that is away.
func (o *Orchestrator) LoseUploads() {
	o.locked(func() {
		for i := range o.uploads {
			o.uploads[i].content = nil
		}
	})
}

// NamedUpload implements vmm.Templates.
func (o *Orchestrator) NamedUpload(_ context.Context, by vmm.Caller, name string) (*domain.Upload, error) {
	u, err := o.sent(by, func(u *domain.Upload) bool { return u.Name == name })
	return u.Upload, err
}

// OpenUpload implements vmm.Templates.
func (o *Orchestrator) OpenUpload(_ context.Context, by vmm.Caller, id domain.ID) (io.ReadCloser, error) {
	u, err := o.sent(by, func(u *domain.Upload) bool { return u.ID == id })
	if err != nil {
		return nil, err
	}
	if u.content == nil {
		return nil, errors.New(errors.Unavailable, "the worker is away")
	}
	return io.NopCloser(bytes.NewReader(u.content)), nil
}

// BuildTemplate implements vmm.Templates: the build is ready at once.
func (o *Orchestrator) BuildTemplate(_ context.Context, by vmm.Caller, req vmm.BuildTemplate) (*domain.Task, error) {
	for _, id := range []string{req.Source.Tar, req.Source.Context} {
		if domain.IsID(id) {
			if _, err := o.sent(by, func(u *domain.Upload) bool { return u.ID == domain.ID(id) }); err != nil {
				return nil, err
			}
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.built = append(o.built, req)
	now := time.Now().UTC()
	id := domain.NewID()
	if req.ID == "" {
		req.ID = domain.NewID()
	}
	b := &domain.Build{ID: req.ID, TemplateID: id, State: domain.BuildReady, Source: req.Source, Platform: "linux/amd64", CreatedAt: now, ReadyAt: &now}
	if t := o.temps[req.Name]; t != nil && t.Template.ProjectID == by.ProjectID {
		b.TemplateID = t.Template.ID
		t.Template.Tags[domain.DefaultTag], t.Builds = b.ID, append([]*domain.Build{b}, t.Builds...)
	} else {
		made := &domain.Template{ID: id, ProjectID: by.ProjectID, Name: req.Name, Tags: map[string]domain.ID{domain.DefaultTag: b.ID}, CreatedAt: now, UpdatedAt: now}
		o.temps[req.Name] = &vmm.TemplateInfo{Template: made, Builds: []*domain.Build{b}}
	}
	t := o.task(by, "template.build", id)
	o.finish(t)
	return t, nil
}

func (o *Orchestrator) task(by vmm.Caller, kind string, subject domain.ID) *domain.Task {
	now := time.Now().UTC()
	t := &domain.Task{ID: domain.NewID(), ProjectID: by.ProjectID, Kind: kind, Subject: subject, State: domain.TaskRunning, MaxAttempts: 1, Attempts: 1, CreatedAt: now, UpdatedAt: now, RunAt: now}
	o.tasks[t.ID] = t
	return t
}

func (o *Orchestrator) finish(t *domain.Task) {
	now := time.Now().UTC()
	t.State, t.EndedAt, t.UpdatedAt = domain.TaskSucceeded, &now, now
}

// GetTemplate implements vmm.Templates.
func (o *Orchestrator) GetTemplate(_ context.Context, _ vmm.Caller, nameOrID string) (*vmm.TemplateInfo, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	t, ok := o.temps[nameOrID]
	if !ok {
		return nil, errors.New(errors.NotFound, "there is no template %q", nameOrID)
	}
	return shown(t), nil
}

// shown is a template as it is now: what a caller has does not change any more.
func shown(t *vmm.TemplateInfo) *vmm.TemplateInfo {
	info, template := *t, *t.Template
	template.Tags = maps.Clone(template.Tags)
	info.Template, info.Builds = &template, slices.Clone(t.Builds)
	return &info
}

// ListTemplates implements vmm.Templates.
func (o *Orchestrator) ListTemplates(_ context.Context, _ vmm.Caller, p vmm.Page) (vmm.List[*vmm.TemplateInfo], error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var all []*vmm.TemplateInfo
	for _, t := range o.temps {
		all = append(all, shown(t))
	}
	return page(all, p)
}

// TemplateTags implements vmm.Templates.
func (o *Orchestrator) TemplateTags(ctx context.Context, by vmm.Caller, nameOrID string) ([]vmm.TemplateTag, error) {
	t, err := o.GetTemplate(ctx, by, nameOrID)
	if err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	var out []vmm.TemplateTag
	for _, tag := range slices.Sorted(maps.Keys(t.Template.Tags)) {
		i := slices.IndexFunc(t.Builds, func(b *domain.Build) bool { return b.ID == t.Template.Tags[tag] })
		out = append(out, vmm.TemplateTag{Name: tag, Build: t.Builds[i]})
	}
	return out, nil
}

// ownTemplate finds a template of the project's by name, under the lock.
func (o *Orchestrator) ownTemplate(project domain.ID, name string) (*vmm.TemplateInfo, error) {
	if t := o.temps[name]; t != nil && t.Template.ProjectID == project {
		return t, nil
	}
	return nil, errors.New(errors.NotFound, "there is no template %q", name)
}

// TagTemplate implements vmm.Templates.
func (o *Orchestrator) TagTemplate(_ context.Context, by vmm.Caller, req vmm.TagTemplate) (domain.ID, error) {
	name, tag, tagged := req.Of, req.Ref, true
	if req.Of == "" {
		name, tag, tagged = strings.Cut(req.Ref, ":")
	}
	if !tagged {
		tag = domain.DefaultTag
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	t, err := o.ownTemplate(by.ProjectID, name)
	if err != nil {
		return "", err
	}
	build, known := t.Template.Tags[tag]
	if domain.IsID(tag) {
		build = domain.ID(tag)
		known = slices.ContainsFunc(t.Builds, func(b *domain.Build) bool { return b.ID == build })
	}
	switch {
	case known:
	case domain.IsID(tag):
		return "", errors.New(errors.InvalidArgument, "the build %s is not one of the template %q", tag, name).WithField("build")
	default:
		return "", errors.New(errors.NotFound, "the template %q has no build tagged %q", name, tag)
	}
	for _, tag := range req.Tags {
		t.Template.Tags[tag] = build
	}
	return build, nil
}

// UntagTemplate implements vmm.Templates.
func (o *Orchestrator) UntagTemplate(_ context.Context, by vmm.Caller, nameOrID string, tags []string) error {
	if slices.Contains(tags, domain.DefaultTag) {
		return errors.New(errors.InvalidArgument, "the tag %q is what the name alone means", domain.DefaultTag).WithField("tags")
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	t, err := o.ownTemplate(by.ProjectID, nameOrID)
	if err != nil {
		return err
	}
	for _, tag := range tags {
		delete(t.Template.Tags, tag)
	}
	return nil
}

// DeleteTemplate implements vmm.Templates.
func (o *Orchestrator) DeleteTemplate(ctx context.Context, by vmm.Caller, nameOrID string) error {
	if _, err := o.GetTemplate(ctx, by, nameOrID); err != nil {
		return err
	}
	o.locked(func() { delete(o.temps, nameOrID) })
	return nil
}

// BuildLog implements vmm.Templates.
func (o *Orchestrator) BuildLog(_ context.Context, _ vmm.Caller, build domain.ID, from int64, _ bool) (io.ReadCloser, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.noLogs {
		return nil, errors.New(errors.Unavailable, "the build's worker is away")
	}
	for _, t := range o.temps {
		if t.Builds[0].ID == build {
			log := "step 1\nstep 2\n"
			return io.NopCloser(strings.NewReader(log[min(from, int64(len(log))):])), nil
		}
	}
	return nil, errors.New(errors.NotFound, "there is no build %s", build)
}

// ListTools implements vmm.Tools.
func (o *Orchestrator) ListTools(context.Context, vmm.Caller) ([]vmm.ToolInfo, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.tools), nil
}

// InstallTools implements vmm.Tools: they are there at once.
func (o *Orchestrator) InstallTools(_ context.Context, by vmm.Caller, tools []string) (*domain.Task, error) {
	refs, err := domain.ParseTools("tools", tools)
	if err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, ref := range refs {
		o.tools = append(o.tools, vmm.ToolInfo{Name: ref.Name, Version: ref.Version, Backend: "fake", Bytes: 4096, Files: 1, InstalledAt: time.Now().UTC()})
	}
	t := o.task(by, "tools.install", "")
	o.finish(t)
	return t, nil
}

// ToolLog implements vmm.Tools.
func (o *Orchestrator) ToolLog(_ context.Context, by vmm.Caller, task domain.ID, from int64, _ bool) (io.ReadCloser, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if t := o.tasks[task]; t == nil || t.ProjectID != by.ProjectID || t.Kind != "tools.install" {
		return nil, errors.New(errors.NotFound, "there is no installation %s", task)
	}
	log := "installing\nready\n"
	return io.NopCloser(strings.NewReader(log[min(from, int64(len(log))):])), nil
}

// RemoveTool implements vmm.Tools.
func (o *Orchestrator) RemoveTool(_ context.Context, by vmm.Caller, dir, version string) error {
	if !by.Admin {
		return errors.New(errors.PermissionDenied, "tools are removed by administrators")
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	before := len(o.tools)
	o.tools = slices.DeleteFunc(o.tools, func(t vmm.ToolInfo) bool {
		return domain.Tool{Name: t.Name}.Dir() == dir && (version == "" || version == t.Version)
	})
	if len(o.tools) == before {
		return errors.New(errors.NotFound, "there is no installed tool %q", dir)
	}
	return nil
}

// ListWorkers implements vmm.Fleet.
func (o *Orchestrator) ListWorkers(ctx context.Context, by vmm.Caller) ([]*domain.Worker, error) {
	d, err := o.Drivers(ctx, by)
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.worker == nil {
		o.worker = &domain.Worker{ID: domain.NewID(), Name: "node", State: domain.WorkerReady, Platform: "linux/amd64", Drivers: d}
	}
	w := *o.worker
	return []*domain.Worker{&w}, err
}

// GetWorker implements vmm.Fleet.
func (o *Orchestrator) GetWorker(ctx context.Context, by vmm.Caller, idOrName string) (*domain.Worker, error) {
	all, err := o.ListWorkers(ctx, by)
	if err != nil {
		return nil, err
	}
	if w := all[0]; idOrName == w.Name || idOrName == w.ID.String() {
		return w, nil
	}
	return nil, errors.New(errors.NotFound, "no worker is named %q", idOrName)
}

// CordonWorker implements vmm.Fleet.
func (o *Orchestrator) CordonWorker(ctx context.Context, by vmm.Caller, idOrName string) (*domain.Worker, error) {
	return o.changeWorker(ctx, by, idOrName, func(w *domain.Worker) { w.Cordoned = true })
}

// UncordonWorker implements vmm.Fleet.
func (o *Orchestrator) UncordonWorker(ctx context.Context, by vmm.Caller, idOrName string) (*domain.Worker, error) {
	return o.changeWorker(ctx, by, idOrName, func(w *domain.Worker) { w.Cordoned, w.DrainAt, w.Moving = false, nil, false })
}

// DrainWorker implements vmm.Fleet.
func (o *Orchestrator) DrainWorker(ctx context.Context, by vmm.Caller, idOrName string, d vmm.DrainWorker) (*domain.Worker, error) {
	at := time.Now().Add(d.Within).UTC()
	return o.changeWorker(ctx, by, idOrName, func(w *domain.Worker) { w.Cordoned, w.DrainAt, w.Moving = true, &at, d.Move })
}

// RemoveWorker implements vmm.Fleet.
func (o *Orchestrator) RemoveWorker(ctx context.Context, by vmm.Caller, idOrName string, _ bool) (*domain.Worker, error) {
	w, err := o.GetWorker(ctx, by, idOrName)
	if err == nil {
		err = errors.New(errors.Conflict, "the worker %s is %s: only one that is away can be removed", w.Name, w.State)
	}
	return nil, err
}

func (o *Orchestrator) changeWorker(ctx context.Context, by vmm.Caller, idOrName string, change func(*domain.Worker)) (*domain.Worker, error) {
	if _, err := o.GetWorker(ctx, by, idOrName); err != nil {
		return nil, err
	}
	o.locked(func() {
		change(o.worker)
		o.worker.State = o.worker.Standing()
	})
	return o.GetWorker(ctx, by, idOrName)
}

// Drivers implements vmm.Fleet.
func (o *Orchestrator) Drivers(context.Context, vmm.Caller) ([]domain.DriverInfo, error) {
	return []domain.DriverInfo{{Name: "fake", Version: "1", Isolation: domain.IsolationContainer, Usable: true, Capabilities: []string{"fork"}}}, nil
}

// ListEvents implements vmm.Events.
func (o *Orchestrator) ListEvents(_ context.Context, by vmm.Caller, after int64, limit int) ([]domain.Event, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var out []domain.Event
	for _, e := range o.events {
		if e.Seq > max(after, o.forgot) && e.ProjectID == by.ProjectID && len(out) < limit {
			out = append(out, e)
		}
	}
	return out, nil
}

// EventBounds implements vmm.Events.
func (o *Orchestrator) EventBounds(context.Context) (oldest, newest int64, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.forgot + 1, int64(len(o.events)), nil
}

// ForgetEvents lets events be kept no longer, up to one that is not the newest.
func (o *Orchestrator) ForgetEvents(to int64) { o.locked(func() { o.forgot = to }) }

// EventsChanged implements vmm.Events.
func (o *Orchestrator) EventsChanged() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.changed
}

// GetTask implements vmm.TaskService.
func (o *Orchestrator) GetTask(_ context.Context, by vmm.Caller, id domain.ID) (*domain.Task, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	t, ok := o.tasks[id]
	if !ok || t.ProjectID != by.ProjectID {
		return nil, errors.New(errors.NotFound, "there is no task %s", id)
	}
	if v, ok := o.vms[t.Subject]; ok && t.State == domain.TaskRunning && v.Observed == domain.Running {
		o.finish(t)
	}
	c := *t
	return &c, nil
}

// ListTasks implements vmm.TaskService.
func (o *Orchestrator) ListTasks(_ context.Context, by vmm.Caller, f vmm.TaskFilter) (vmm.List[*domain.Task], error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var all []*domain.Task
	for _, t := range o.tasks {
		if t.ProjectID == by.ProjectID && (len(f.States) == 0 || slices.Contains(f.States, t.State)) &&
			(f.Kind == "" || t.Kind == f.Kind) && (f.GroupID == "" || t.GroupID == f.GroupID) {
			c := *t
			all = append(all, &c)
		}
	}
	return page(all, f.Page)
}

// CancelTask implements vmm.TaskService.
func (o *Orchestrator) CancelTask(ctx context.Context, by vmm.Caller, id domain.ID) (*domain.Task, error) {
	t, err := o.GetTask(ctx, by, id)
	if err != nil {
		return nil, err
	}
	if t.State.Ended() {
		return nil, errors.New(errors.Conflict, "the task has ended")
	}
	o.locked(func() { o.tasks[id].CancelAsked, o.tasks[id].State = true, domain.TaskCanceled })
	return o.GetTask(ctx, by, id)
}

// WaitTask implements vmm.TaskService.
func (o *Orchestrator) WaitTask(ctx context.Context, by vmm.Caller, id domain.ID) (*domain.Task, error) {
	for {
		changed := o.EventsChanged()
		t, err := o.GetTask(ctx, by, id)
		if err != nil || t.State.Ended() {
			return t, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return t, ctx.Err()
		}
	}
}

// TaskForVM implements vmm.TaskService.
func (o *Orchestrator) TaskForVM(_ context.Context, by vmm.Caller, kind string, id domain.ID, _ json.RawMessage) (*domain.Task, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	c := *o.task(by, "vm."+kind, id)
	return &c, nil
}

// CreateRuns implements vmm.Runs. They have run at once.
func (o *Orchestrator) CreateRuns(_ context.Context, by vmm.Caller, req vmm.CreateRuns) ([]*domain.Task, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var made []*domain.Task
	group := domain.NewID()
	for _, r := range req.Runs {
		t := o.task(by, "run", "")
		t.Name, t.Step, t.VMID, t.ExecutionID = r.Name, domain.StepDone, domain.NewID(), domain.NewID()
		if req.Group {
			t.GroupID = group
		}
		o.finish(t)
		c := *t
		made = append(made, &c)
	}
	return made, nil
}

// RetryTask implements vmm.Runs.
func (o *Orchestrator) RetryTask(ctx context.Context, by vmm.Caller, id domain.ID) (*domain.Task, error) {
	t, err := o.GetTask(ctx, by, id)
	if err == nil {
		err = errors.New(errors.Conflict, "the task is %s", t.State)
	}
	return nil, err
}

// TaskExecution implements vmm.Runs.
func (o *Orchestrator) TaskExecution(ctx context.Context, by vmm.Caller, id domain.ID, _ bool) (domain.ID, error) {
	t, err := o.GetTask(ctx, by, id)
	if err == nil {
		err = errors.New(errors.Conflict, "the task %s has no output", t.ID)
	}
	return "", err
}

// GetTaskGroup implements vmm.Runs.
func (o *Orchestrator) GetTaskGroup(_ context.Context, by vmm.Caller, id domain.ID) (vmm.TaskGroup, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	g := vmm.TaskGroup{ID: id, Counts: map[domain.TaskState]int{}}
	for _, t := range o.tasks {
		if t.ProjectID == by.ProjectID && t.GroupID == id {
			g.Counts[t.State]++
		}
	}
	if len(g.Counts) == 0 {
		return g, errors.New(errors.NotFound, "there is no group of tasks %s", id)
	}
	return g, nil
}

// CancelTaskGroup implements vmm.Runs.
func (o *Orchestrator) CancelTaskGroup(ctx context.Context, by vmm.Caller, id domain.ID) (vmm.TaskGroup, error) {
	return o.GetTaskGroup(ctx, by, id)
}
