package apifake

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// vm is a directory.
type vm struct {
	api.VM
	dir string
	env map[string]string
}

// The seeded VMs: one that runs and one that has ended.
const (
	WebID      = "web00000000000000000"
	GoneID     = "gone0000000000000000"
	SnapshotID = "snap0000000000000000"
	BuildID    = "build000000000000000"
	TaskID     = "task0000000000000000"
	seededVMs  = 2
)

func (s *Server) seed() {
	at := s.Made.Add(-5 * time.Hour)
	ended := at.Add(time.Hour)
	r := api.Resources{MilliCPU: 1500, MemoryBytes: 512 << 20, DiskBytes: 10 << 30, PIDs: 1024}
	base := api.VM{
		State: "running", DesiredState: "running", Template: "base", Driver: "oci", Isolation: "container", Platform: "linux/amd64",
		Resources: r, Network: "nat", Hostname: "web", Metadata: map[string]string{"team": "blue"}, OnTimeout: "kill",
		CreatedAt: at, UpdatedAt: at, StartedAt: &at,
	}
	web, gone := base, base
	web.ID, web.Name = WebID, "web"
	gone.ID, gone.State, gone.DesiredState, gone.EndedAt, gone.StartedAt = GoneID, "deleted", "deleted", &ended, nil
	gone.Tombstone = &api.Tombstone{Cause: "oom", By: "worker", Detail: "memory", LastOutput: "boom\x1b[2Jbang\nlast", At: ended}
	for _, v := range []api.VM{web, gone} {
		dir := filepath.Join(s.dir, v.ID)
		if err := os.Mkdir(dir, 0o755); err != nil {
			s.tb.Fatal(err)
		}
		s.vms = append(s.vms, &vm{VM: v, dir: dir})
	}
	s.templates = []api.Template{{
		ID: "tmpl0000000000000000", Name: "base", Tags: map[string]string{"latest": BuildID, "12": BuildID}, CreatedAt: at, UpdatedAt: at,
		Builds: []api.Build{{ID: BuildID, State: "ready", Source: api.TemplateSource{Packages: []string{"git"}}, Resources: r, SizeBytes: 260 << 20}},
	}}
	s.snapshots = []api.Snapshot{{ID: SnapshotID, VMID: WebID, Name: "before", Driver: "oci", Kind: "disk", State: "ready", SizeBytes: 3 << 20, CreatedAt: at}}
	s.runs = map[string]string{}
	s.tasks = []api.Task{{
		ID: TaskID, Kind: "template.build", Subject: BuildID, State: "failed", Attempts: 1, MaxAttempts: 1,
		Error: &api.TaskError{Code: "unavailable", Message: "no registry answers"}, CreatedAt: at, UpdatedAt: at, RunAt: at,
	}}
	s.events = []api.Event{
		{Seq: 1, Type: "vm.running", Subject: WebID, VMID: WebID, At: at, Data: []byte(`{"took_ms":31}`)},
		{Seq: 2, Type: "vm.deleted", Subject: GoneID, VMID: GoneID, At: ended},
	}
}

// find finds a VM by ID or name. The caller holds mu.
func (s *Server) find(name string) (*vm, error) {
	for _, v := range s.vms {
		if v.ID == name || (name != "" && v.Name == name && v.State != "deleted") {
			return v, nil
		}
	}
	return nil, errors.New(errors.NotFound, "there is no VM %q", name).WithField("vm").WithHint("`aetherium vm ls` lists them")
}

func (s *Server) vmRoutes(handle register) {
	handle("POST /vms", s.createVM)
	handle("GET /vms", s.listVMs)
	handle("GET /vms/{vm}", s.withVM(func(w http.ResponseWriter, _ *http.Request, v *vm) error {
		writeJSON(w, 200, v.VM)
		return nil
	}))
	handle("PATCH /vms/{vm}", s.withVM(func(w http.ResponseWriter, r *http.Request, v *vm) error {
		var p api.PatchVM
		if err := readJSON(r, &p); err != nil {
			return err
		}
		if p.Name != nil {
			v.Name = *p.Name
		}
		v.setTimes(p.TimeoutMS, p.IdleTimeoutMS)
		writeJSON(w, 200, v.VM)
		return nil
	}))
	handle("DELETE /vms/{vm}", s.withVM(func(w http.ResponseWriter, r *http.Request, v *vm) error {
		now := time.Now()
		v.State, v.DesiredState, v.EndedAt = "deleted", "deleted", &now
		s.tell("vm.deleted", v.ID)
		for _, x := range s.executions {
			if x.vm == v.ID {
				go x.kill()
			}
		}
		if strings.Contains(r.Header.Get("Prefer"), "respond-async") {
			writeJSON(w, 202, api.Accepted{Task: api.Task{ID: newID(), Kind: "vm.delete", Subject: v.ID, State: "pending"}})
			return nil
		}
		writeJSON(w, 200, v.VM)
		return nil
	}))
	for action, state := range map[string]string{"start": "running", "stop": "stopped", "pause": "paused", "resume": "running"} {
		handle("POST /vms/{vm}/"+action, s.withVM(func(w http.ResponseWriter, _ *http.Request, v *vm) error {
			if v.State == "deleted" {
				return errors.New(errors.Gone, "the VM %s has ended", v.ID)
			}
			v.State = state
			writeJSON(w, 200, v.VM)
			return nil
		}))
	}
	handle("POST /vms/{vm}/forks", s.forkVM)
	handle("GET /vms/{vm}/usage", s.withVM(func(w http.ResponseWriter, _ *http.Request, v *vm) error {
		writeJSON(w, 200, api.Usage{
			VMID: v.ID, CPUTimeMS: 61_000, MemoryBytes: 96 << 20, MemoryLimitBytes: 512 << 20, PIDs: 7, DiskBytes: 4 << 20, ReceivedBytes: 2048, SentBytes: 100,
			At: time.Now(),
		})
		return nil
	}))
	handle("GET /vms/{vm}/ports/{port}", s.withVM(func(w http.ResponseWriter, r *http.Request, v *vm) error {
		n, _ := strconv.Atoi(r.PathValue("port"))
		writeJSON(w, 200, api.Port{Port: n, URL: "http://" + r.PathValue("port") + "-" + v.ID + ".aeth.localhost:7070/", Token: "tok"})
		return nil
	}))
	handle("POST /vms/{vm}/ports/{port}/links", s.withVM(func(w http.ResponseWriter, r *http.Request, v *vm) error {
		writeJSON(w, 201, api.Link{URL: "http://" + r.PathValue("port") + "-" + v.ID + ".aeth.localhost:7070/?" + api.PreviewLinkParam + "=once", ExpiresAt: time.Now().Add(time.Minute)})
		return nil
	}))
}

// withVM runs f with the VM of the path and the lock held.
func (s *Server) withVM(f func(http.ResponseWriter, *http.Request, *vm) error) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		v, err := s.find(r.PathValue("vm"))
		if err != nil {
			return err
		}
		return f(w, r, v)
	}
}

func (s *Server) make(req api.CreateVM) (*vm, error) {
	if !domain.IsolationContainer.AtLeast(domain.Isolation(req.MinIsolation)) {
		return nil, errors.New(errors.Unsupported, "no driver here isolates by %s", req.MinIsolation).WithField("min_isolation").
			WithHint("firecracker cannot be used: there is no /dev/kvm")
	}
	volumes, err := s.mounts(req.Volumes)
	if err != nil {
		return nil, err
	}
	v := &vm{env: req.Env, VM: api.VM{
		ID: newID(), Name: req.Name, State: "running", DesiredState: "running", Template: req.Template, Driver: "oci", Isolation: "container",
		Platform: "linux/amd64", Network: req.Network, Metadata: req.Metadata, Tools: req.Tools, Egress: req.Egress, Secrets: req.Secrets, Volumes: volumes, OnTimeout: "kill", CreatedAt: time.Now(), UpdatedAt: time.Now(),
	}}
	if req.Resources != nil {
		v.Resources = *req.Resources
	}
	v.setTimes(req.TimeoutMS, &req.IdleTimeoutMS)
	v.dir = filepath.Join(s.dir, v.ID)
	s.vms = append(s.vms, v)
	s.tell("vm.running", v.ID)
	return v, os.Mkdir(v.dir, 0o755)
}

// setTimes takes over what is given.
func (v *vm) setTimes(timeout, idle *int64) {
	if idle != nil {
		v.IdleTimeoutMS = *idle
	}
	if timeout == nil {
		return
	}
	v.Deadline = nil
	if *timeout > 0 {
		at := time.Now().Add(time.Duration(*timeout) * time.Millisecond)
		v.Deadline = &at
	}
}

// claim is a request that has an idempotency key.
type claim struct {
	async    bool // part of what a repetition must not change
	vm       api.VM
	answered bool
}

// createOnce creates a VM, or tells of the one that a request with the key made.
func (s *Server) createOnce(key string, async bool, req api.CreateVM) (api.VM, error) {
	s.mu.Lock()
	c := s.claims[key]
	switch {
	case c != nil && c.async && !async:
		s.mu.Unlock()
		return api.VM{}, errors.New(errors.IdempotencyMismatch, "the key was used for another request")
	case c != nil && !c.answered:
		s.mu.Unlock()
		if s.OnRepeat != nil {
			s.OnRepeat()
		}
		return api.VM{}, errors.New(errors.Conflict, "a request with this Idempotency-Key is being answered").WithRetryAfter(time.Second)
	case c != nil:
		s.mu.Unlock()
		return c.vm, nil
	}
	v, err := s.make(req)
	if err != nil {
		s.mu.Unlock()
		return api.VM{}, err
	}
	c = &claim{async: async, vm: v.VM}
	s.claims[key] = c
	s.mu.Unlock()
	if s.OnCreate != nil {
		s.OnCreate()
	}
	s.mu.Lock()
	c.answered = true
	s.mu.Unlock()
	return c.vm, nil
}

func (s *Server) createVM(w http.ResponseWriter, r *http.Request) error {
	var req api.CreateVM
	if err := readJSON(r, &req); err != nil {
		return err
	}
	if req.Template == "none-such" {
		return errors.New(errors.NotFound, "there is no template or snapshot %q", req.Template).WithField("template").WithHint("`aetherium template ls` lists templates")
	}
	key := r.Header.Get(api.HeaderIdempotencyKey)
	if key == "" {
		return errors.New(errors.InvalidArgument, "the fake wants an idempotency key")
	}
	async := strings.Contains(r.Header.Get("Prefer"), "respond-async")
	answer, err := s.createOnce(key, async, req)
	if err != nil {
		return err
	}
	if async {
		writeJSON(w, 202, api.Accepted{Task: api.Task{ID: newID(), Kind: "vm.create", Subject: answer.ID, State: "pending"}, VM: &answer})
		return nil
	}
	writeJSON(w, 201, answer)
	return nil
}

func (s *Server) forkVM(w http.ResponseWriter, r *http.Request) error {
	var req api.ForkVM
	if err := readJSON(r, &req); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	v, err := s.find(r.PathValue("vm"))
	if err != nil {
		return err
	}
	list := api.List[api.VM]{}
	for range max(1, req.Count) {
		f, err := s.make(req.CreateVM)
		if err != nil {
			return err
		}
		if err := os.CopyFS(f.dir, os.DirFS(v.dir)); err != nil {
			return err
		}
		list.Items = append(list.Items, f.VM)
	}
	writeJSON(w, 201, list)
	return nil
}

func (s *Server) listVMs(w http.ResponseWriter, r *http.Request) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := r.URL.Query()
	var items []api.VM
	for _, v := range slices.Backward(s.vms) {
		if v.State == "deleted" && q.Get("include_deleted") == "" ||
			q.Has("state") && !slices.Contains(q["state"], v.State) || q.Has("name") && q.Get("name") != v.Name {
			continue
		}
		items = append(items, v.VM)
	}
	return page(w, r, items)
}

// page answers with one page of a list; the cursor is an index.
func page[T any](w http.ResponseWriter, r *http.Request, items []T) error {
	writeJSON(w, 200, paged(r, items))
	return nil
}

// paged is the page of a list that is asked for.
func paged[T any](r *http.Request, items []T) api.List[T] {
	if r.URL.Query().Get("order") == "asc" {
		slices.Reverse(items)
	}
	from, _ := strconv.Atoi(r.URL.Query().Get("cursor"))
	limit, err := strconv.Atoi(r.URL.Query().Get("limit"))
	if err != nil || limit < 1 || limit > 1000 {
		limit = 100
	}
	to := min(from+limit, len(items))
	list := api.List[T]{Items: append([]T{}, items[min(from, to):to]...)}
	if to < len(items) {
		list.NextCursor = strconv.Itoa(to)
	}
	return list
}
