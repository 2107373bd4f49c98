package apifake

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/coder/websocket"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/internal/cli/pack"
	"github.com/aetherium/aetherium/services/core/internal/cli/unpack"
)

// Dir is the directory that is a VM's file system, for tests to look into.
func (s *Server) Dir(vm string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, err := s.find(vm)
	if err != nil {
		s.tb.Fatal(err)
	}
	return v.dir
}

func (s *Server) fileRoutes(handle register) {
	s.filesIn(handle, "/vms/{vm}/files", func(r *http.Request) (string, error) {
		v, err := s.find(r.PathValue("vm"))
		if err != nil {
			return "", err
		}
		return v.dir, nil
	})
	s.filesIn(handle, "/volumes/{volume}/files", func(r *http.Request) (string, error) {
		v, err := s.volume(r.PathValue("volume"))
		return filepath.Join(s.dir, v.ID), err
	})
}

// filesIn serves the files below the directory that find, which is called with
// the lock held, says.
func (s *Server) filesIn(handle register, at string, find func(*http.Request) (string, error)) {
	dirOf := func(r *http.Request) (string, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return find(r)
	}
	with := func(f func(w http.ResponseWriter, r *http.Request, name string) error) func(http.ResponseWriter, *http.Request) error {
		return func(w http.ResponseWriter, r *http.Request) error {
			dir, err := dirOf(r)
			if err != nil {
				return err
			}
			err = f(w, r, filepath.Join(dir, filepath.Join("/", r.URL.Query().Get("path"))))
			if errors.Is(err, fs.ErrNotExist) {
				return errors.New(errors.NotFound, "there is no file %q", r.URL.Query().Get("path")).WithField("path")
			}
			return err
		}
	}
	handle("GET "+at+"/stat", with(func(w http.ResponseWriter, _ *http.Request, name string) error {
		info, err := os.Lstat(name)
		if err != nil {
			return err
		}
		kind := "file"
		switch {
		case info.IsDir():
			kind = "dir"
		case info.Mode()&fs.ModeSymlink != 0:
			kind = "symlink"
		}
		writeJSON(w, 200, api.FileInfo{Name: info.Name(), Path: name, Type: kind, SizeBytes: info.Size(), ModifiedAt: info.ModTime()})
		return nil
	}))
	handle("GET "+at, with(func(w http.ResponseWriter, r *http.Request, name string) error {
		w.Header().Set("ETag", `"e1"`)
		if s.FileBytes != nil {
			http.ServeContent(w, r, "x", time.Time{}, bytes.NewReader(s.FileBytes))
			return nil
		}
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		http.ServeContent(w, r, "x", time.Time{}, f)
		return nil
	}))
	handle("PUT "+at, with(func(w http.ResponseWriter, r *http.Request, name string) error {
		data, err := io.ReadAll(r.Body)
		if err != nil {
			return err
		}
		mode, err := strconv.ParseUint(r.URL.Query().Get("mode"), 8, 32)
		if err != nil {
			mode = 0o644
		}
		if err := os.WriteFile(name, data, fs.FileMode(mode)); err != nil {
			return err
		}
		writeJSON(w, 201, api.FileInfo{Name: filepath.Base(name), Path: name, Type: "file", SizeBytes: int64(len(data))})
		return nil
	}))
	handle("GET "+at+"/tar", with(func(w http.ResponseWriter, r *http.Request, name string) error {
		if s.Tar != nil {
			_, err := w.Write(s.Tar)
			return err
		}
		return pack.Tree(r.Context(), w, name, pack.Options{})
	}))
	handle("PUT "+at+"/tar", with(func(w http.ResponseWriter, r *http.Request, name string) error {
		root, err := os.OpenRoot(name)
		if err != nil {
			return err
		}
		defer func() { _ = root.Close() }()
		if _, err := unpack.Extract(r.Context(), root, r.Body, unpack.Options{}); err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	}))
	handle("POST "+at+"/mkdir", func(w http.ResponseWriter, r *http.Request) error {
		var req api.MakeDir
		if err := readJSON(r, &req); err != nil {
			return err
		}
		dir, err := dirOf(r)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Join(dir, filepath.Join("/", req.Path)), 0o755); err != nil {
			return errors.New(errors.Conflict, "%s", err)
		}
		writeJSON(w, 201, api.FileInfo{Path: req.Path, Type: "dir"})
		return nil
	})
}

// BuildLog is what a template build says.
const BuildLog = "installing git\nunpacking\x1b[31m\nready\n"

func (s *Server) otherRoutes(handle register) {
	reply := func(f func(r *http.Request) (int, any, error)) func(http.ResponseWriter, *http.Request) error {
		return func(w http.ResponseWriter, r *http.Request) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			status, v, err := f(r)
			if err == nil && v != nil {
				writeJSON(w, status, v)
			} else if err == nil {
				w.WriteHeader(status)
			}
			return err
		}
	}
	handle("GET /status", reply(func(*http.Request) (int, any, error) {
		return 200, api.Status{
			Version: "1.2.3", PID: 4711, URL: "http://127.0.0.1:7070", PreviewDomain: "aeth.localhost", DataDir: "/var/lib/aetherium",
			UptimeMS: 3_723_000, VMs: map[string]int{"running": 2, "paused": 1}, Workers: 1,
		}, nil
	}))
	handle("GET /endpoints", reply(func(*http.Request) (int, any, error) { return 200, s.endpoints, nil }))
	handle("GET /drivers", reply(func(*http.Request) (int, any, error) {
		return 200, api.List[api.Driver]{Items: []api.Driver{
			{Name: "oci", Version: "runc 1.1.5", Isolation: "container", Usable: true, Capabilities: []string{"pause:freeze", "fork"}},
			{Name: "firecracker", Isolation: "microvm", Reason: "there is no /dev/kvm", Capabilities: []string{}},
		}}, nil
	}))
	handle("GET /templates", func(w http.ResponseWriter, r *http.Request) error { return page(w, r, s.templates) })
	handle("GET /templates/{name}", reply(func(*http.Request) (int, any, error) { return 200, s.templates[0], nil }))
	handle("DELETE /templates/{name}", reply(func(r *http.Request) (int, any, error) {
		if r.PathValue("name") != "base" {
			return 0, nil, errors.New(errors.NotFound, "there is no template %q", r.PathValue("name"))
		}
		return 204, nil, nil
	}))
	handle("PUT /templates/{name}/tags/{tag}", reply(func(r *http.Request) (int, any, error) {
		var req api.TagTemplate
		if err := readJSON(r, &req); err != nil {
			return 0, nil, err
		}
		t, tag := s.templates[0], r.PathValue("tag")
		switch {
		case t.Name != r.PathValue("name"):
			return 0, nil, errors.New(errors.NotFound, "no template is named %q", r.PathValue("name"))
		case req.Tag != "" && t.Tags[req.Tag] == "":
			return 0, nil, errors.New(errors.NotFound, "the template %q has no build tagged %q", t.Name, req.Tag)
		case req.Build != "" && req.Build != BuildID:
			return 0, nil, errors.New(errors.InvalidArgument, "the build %s is not one of the template %q", req.Build, t.Name).WithField("build")
		}
		t.Tags[tag] = BuildID
		return 200, api.TemplateTag{Tag: tag, BuildID: BuildID}, nil
	}))
	handle("DELETE /templates/{name}/tags/{tag}", reply(func(r *http.Request) (int, any, error) {
		t, tag := s.templates[0], r.PathValue("tag")
		if t.Tags[tag] == "" {
			return 0, nil, errors.New(errors.NotFound, "the template %q has no tag %q", t.Name, tag)
		}
		delete(t.Tags, tag)
		return 204, nil, nil
	}))
	handle("POST /templates", reply(func(r *http.Request) (int, any, error) {
		var req api.BuildTemplate
		if err := readJSON(r, &req); err != nil {
			return 0, nil, err
		}
		t := api.Task{ID: newID(), Kind: "template.build", Subject: BuildID, State: "succeeded", CreatedAt: time.Now()}
		s.tasks = append(s.tasks, t)
		s.templates[0].Name = req.Name
		return 202, api.Accepted{Task: t}, nil
	}))
	handle("GET /templates/builds/{id}/log", func(w http.ResponseWriter, r *http.Request) error {
		offset, _ := strconv.Atoi(r.URL.Query().Get("offset"))
		_, err := io.WriteString(w, BuildLog[offset:])
		return err
	})
	handle("GET /tools", reply(func(*http.Request) (int, any, error) {
		at := time.Now().Add(-time.Hour)
		return 200, api.List[api.Tool]{Items: []api.Tool{
			{ID: "node@22.23.3", Name: "node", Version: "22.23.3", Backend: "core:node", SizeBytes: 130 << 20, Files: 3362, VMs: 2, InstalledAt: at},
			{ID: "npm-prettier-48ef094b@3.1.0", Name: "npm:prettier", Version: "3.1.0", Backend: "npm:prettier", SizeBytes: 11 << 20, Files: 60, InstalledAt: at},
		}}, nil
	}))
	handle("POST /tools", reply(func(r *http.Request) (int, any, error) {
		var req api.InstallTools
		if err := readJSON(r, &req); err != nil {
			return 0, nil, err
		}
		t := api.Task{ID: newID(), Kind: "tools.install", State: "succeeded", CreatedAt: time.Now()}
		s.tasks = append(s.tasks, t)
		return 202, api.Accepted{Task: t}, nil
	}))
	handle("GET /tools/installations/{id}/log", func(w http.ResponseWriter, r *http.Request) error {
		const log = "installing\nready\n"
		offset, _ := strconv.Atoi(r.URL.Query().Get("offset"))
		_, err := io.WriteString(w, log[offset:])
		return err
	})
	handle("DELETE /tools/{id}", reply(func(r *http.Request) (int, any, error) {
		if id := r.PathValue("id"); id != "node@22.23.3" && id != "npm-prettier-48ef094b" {
			return 0, nil, errors.New(errors.NotFound, "there is no installed tool %q", id)
		}
		return 204, nil, nil
	}))
	handle("PUT /uploads", func(w http.ResponseWriter, r *http.Request) error {
		n, err := io.Copy(io.Discard, r.Body)
		writeJSON(w, 201, api.Upload{ID: newID(), SizeBytes: n})
		return err
	})
	handle("GET /snapshots", func(w http.ResponseWriter, r *http.Request) error { return page(w, r, s.snapshots) })
	handle("POST /vms/{vm}/snapshots", s.withVM(func(w http.ResponseWriter, r *http.Request, v *vm) error {
		var req api.CreateSnapshot
		if err := readJSON(r, &req); err != nil {
			return err
		}
		kind := "disk"
		if req.Memory {
			kind = "memory"
		}
		writeJSON(w, 201, api.Snapshot{ID: newID(), VMID: v.ID, Name: req.Name, Kind: kind, State: "ready"})
		return nil
	}))
	handle("DELETE /snapshots/{id}", reply(func(r *http.Request) (int, any, error) {
		if r.PathValue("id") != SnapshotID {
			return 0, nil, errors.New(errors.NotFound, "there is no snapshot %q", r.PathValue("id"))
		}
		return 204, nil, nil
	}))
	handle("GET /tasks", func(w http.ResponseWriter, r *http.Request) error {
		kind, group := r.URL.Query().Get("kind"), r.URL.Query().Get("group")
		var found []api.Task
		for _, t := range s.tasks {
			if (kind == "" || t.Kind == kind) && (group == "" || t.GroupID == group) {
				found = append(found, t)
			}
		}
		return page(w, r, found)
	})
	task := func(id string) (*api.Task, error) {
		for i := range s.tasks {
			if s.tasks[i].ID == id {
				return &s.tasks[i], nil
			}
		}
		return nil, errors.New(errors.NotFound, "there is no task %q", id)
	}
	handle("GET /tasks/{id}", reply(func(r *http.Request) (int, any, error) {
		t, err := task(r.PathValue("id"))
		return 200, t, err
	}))
	handle("POST /tasks/{id}/cancel", reply(func(r *http.Request) (int, any, error) {
		if _, err := task(r.PathValue("id")); err != nil {
			return 0, nil, err
		}
		return 0, nil, errors.New(errors.Conflict, "the task has ended")
	}))
	s.handleRuns(handle)
	handle("GET /events", reply(func(r *http.Request) (int, any, error) {
		after, _ := strconv.Atoi(r.URL.Query().Get("after"))
		items := append([]api.Event{}, s.events[min(after, len(s.events)):]...)
		return 200, api.EventList{Items: items, Last: int64(after + len(items))}, nil
	}))
	handle("GET /events/stream", s.followEvents)
}

func (s *Server) followEvents(w http.ResponseWriter, r *http.Request) error {
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{api.Subprotocol}})
	if err != nil {
		return nil
	}
	defer func() { _ = ws.CloseNow() }()
	s.mu.Lock()
	after := len(s.events)
	if r.URL.Query().Has("after") {
		after, _ = strconv.Atoi(r.URL.Query().Get("after"))
	}
	s.mu.Unlock()
	ctx := ws.CloseRead(context.Background())
	for {
		s.mu.Lock()
		batch, changed := append([]api.Event(nil), s.events[min(after, len(s.events)):]...), s.changed
		s.mu.Unlock()
		for _, ev := range batch {
			text, err := json.Marshal(ev)
			if err != nil || ws.Write(ctx, websocket.MessageText, text) != nil {
				return nil
			}
			after++
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// Authority is what the fake says is to be trusted: no program of the tests does.
const Authority = "-----BEGIN CERTIFICATE-----\nb3Vycw==\n-----END CERTIFICATE-----\n"

func seedEndpoints() api.Endpoints {
	return api.Endpoints{URL: "http://127.0.0.1:7300", TLSURL: "https://127.0.0.1:7443", PreviewDomain: "aeth.localhost", Certificates: Authority}
}
