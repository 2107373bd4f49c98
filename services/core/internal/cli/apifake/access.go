package apifake

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
)

// access is what the fake knows of who may do what: it gives nobody less.
type access struct {
	keys     []api.Key
	projects []api.Project
	users    []api.User
	members  []api.Member
}

func seedAccess() access {
	now := time.Now()
	used, gone := now.Add(-time.Minute), now.Add(-time.Hour)
	return access{
		keys: []api.Key{
			{ID: "keyaaaaaaaaaaaaaaaaa", Name: "ci", Prefix: "aeth_1f3a", State: "active", Scopes: []string{"run"}, CreatedBy: "first key", CreatedAt: now.Add(-48 * time.Hour), LastUsedAt: &used},
			{ID: "keybbbbbbbbbbbbbbbbb", Name: "old", Prefix: "aeth_0000", State: "revoked", Scopes: []string{"read"}, CreatedAt: now.Add(-72 * time.Hour), RevokedAt: &gone},
		},
		projects: []api.Project{{ID: project, Name: "default", CreatedAt: now.Add(-72 * time.Hour)}},
	}
}

func keySecret(prefix string, n int) string {
	return prefix + strings.Repeat(string(rune('0'+n%10)), 40)
}

func (s *Server) accessRoutes(handle register) {
	s.keyRoutes(handle)
	s.projectRoutes(handle)
	s.userRoutes(handle)
	s.memberRoutes(handle)
	handle("GET /me", func(w http.ResponseWriter, r *http.Request) error {
		name := r.Header.Get(api.HeaderProject)
		if name == "" {
			name = "default"
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		i := slices.IndexFunc(s.access.projects, func(p api.Project) bool { return p.Name == name || p.ID == name })
		if i < 0 {
			return errors.New(errors.NotFound, "there is no project %q", name)
		}
		p := s.access.projects[i]
		writeJSON(w, http.StatusOK, api.Me{Project: p.Name, ProjectID: p.ID, Name: "first key", KeyID: "keyfffffffffffffffff", Scopes: []string{"admin"}})
		return nil
	})
	handle("POST /auth/token", func(w http.ResponseWriter, r *http.Request) error {
		var req api.CreateToken
		if err := readJSON(r, &req); err != nil {
			return err
		}
		if len(req.Scopes) == 0 {
			req.Scopes = []string{"admin"}
		}
		writeJSON(w, http.StatusCreated, api.Token{Token: "eyJ.fake." + strings.Join(req.Scopes, "-"), ID: "t", ProjectID: project, Scopes: req.Scopes, ExpiresAt: time.Now().Add(time.Duration(req.TTLMS) * time.Millisecond)})
		return nil
	})
}

func (s *Server) keyRoutes(handle register) {
	find := func(id string) (*api.Key, error) {
		for i := range s.access.keys {
			if s.access.keys[i].ID == id {
				return &s.access.keys[i], nil
			}
		}
		return nil, errors.New(errors.NotFound, "API key %s does not exist", id)
	}
	handle("GET /keys", func(w http.ResponseWriter, _ *http.Request) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		writeJSON(w, http.StatusOK, api.List[api.Key]{Items: s.access.keys})
		return nil
	})
	handle("POST /keys", func(w http.ResponseWriter, r *http.Request) error {
		var req api.CreateKey
		if err := readJSON(r, &req); err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		k := api.NewKey{
			Key:    api.Key{ID: newID(), Name: req.Name, State: "active", Scopes: req.Scopes, UserID: req.User, CreatedBy: "first key", CreatedAt: time.Now(), ExpiresAt: req.ExpiresAt},
			Secret: keySecret("aeth_", len(s.access.keys)),
		}
		if req.TTLMS > 0 {
			at := k.CreatedAt.Add(time.Duration(req.TTLMS) * time.Millisecond)
			k.ExpiresAt = &at
		}
		if len(k.Scopes) == 0 {
			k.Scopes = []string{"run"}
		}
		if req.Format == "e2b" {
			k.Secret = keySecret("e2b_", len(s.access.keys))
		}
		k.Prefix = k.Secret[:9]
		s.access.keys = append(s.access.keys, k.Key)
		writeJSON(w, http.StatusCreated, k)
		return nil
	})
	handle("GET /keys/{id}", func(w http.ResponseWriter, r *http.Request) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		k, err := find(r.PathValue("id"))
		if err != nil {
			return err
		}
		writeJSON(w, http.StatusOK, k)
		return nil
	})
	handle("POST /keys/{id}/rotate", func(w http.ResponseWriter, r *http.Request) error {
		var req api.RotateKey
		if err := readJSON(r, &req); err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		k, err := find(r.PathValue("id"))
		if err != nil {
			return err
		}
		now := time.Now()
		k.RotatedAt, k.OldSecretUntil = &now, nil
		if req.OverlapMS > 0 {
			at := now.Add(time.Duration(req.OverlapMS) * time.Millisecond)
			k.OldSecretUntil = &at
		}
		writeJSON(w, http.StatusOK, api.NewKey{Key: *k, Secret: keySecret("aeth_", 9)})
		return nil
	})
	handle("DELETE /keys/{id}", func(w http.ResponseWriter, r *http.Request) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		k, err := find(r.PathValue("id"))
		if err != nil {
			return err
		}
		now := time.Now()
		k.State, k.RevokedAt = "revoked", &now
		w.WriteHeader(http.StatusNoContent)
		return nil
	})
}

func (s *Server) projectRoutes(handle register) {
	find := func(name string) (int, error) {
		i := slices.IndexFunc(s.access.projects, func(p api.Project) bool { return p.Name == name || p.ID == name })
		if i < 0 {
			return i, errors.New(errors.NotFound, "no project is named %q", name)
		}
		return i, nil
	}
	handle("GET /projects", func(w http.ResponseWriter, _ *http.Request) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		writeJSON(w, http.StatusOK, api.List[api.Project]{Items: s.access.projects})
		return nil
	})
	handle("POST /projects", func(w http.ResponseWriter, r *http.Request) error {
		var req api.CreateProject
		if err := readJSON(r, &req); err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if _, err := find(req.Name); err == nil {
			return errors.New(errors.AlreadyExists, "a project named %q exists already", req.Name)
		}
		p := api.Project{ID: newID(), Name: req.Name, CreatedAt: time.Now()}
		s.access.projects = append(s.access.projects, p)
		writeJSON(w, http.StatusCreated, p)
		return nil
	})
	one := func(status int, f func(r *http.Request, i int) error) func(http.ResponseWriter, *http.Request) error {
		return func(w http.ResponseWriter, r *http.Request) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			i, err := find(r.PathValue("project"))
			if err == nil {
				err = f(r, i)
			}
			if err != nil {
				return err
			}
			if status == http.StatusNoContent {
				w.WriteHeader(status)
				return nil
			}
			writeJSON(w, status, s.access.projects[i])
			return nil
		}
	}
	handle("GET /projects/{project}", one(http.StatusOK, func(*http.Request, int) error { return nil }))
	handle("PATCH /projects/{project}", one(http.StatusOK, func(r *http.Request, i int) error {
		var req api.PatchProject
		err := readJSON(r, &req)
		s.access.projects[i].Name = req.Name
		return err
	}))
	handle("DELETE /projects/{project}", one(http.StatusNoContent, func(_ *http.Request, i int) error {
		if len(s.access.projects) == 1 {
			return errors.New(errors.Conflict, "the project %s is the last", s.access.projects[i].Name).WithHint("make another one first")
		}
		s.access.projects = slices.Delete(s.access.projects, i, i+1)
		return nil
	}))
}

func (s *Server) findUser(name string) (*api.User, error) {
	for i := range s.access.users {
		if u := &s.access.users[i]; u.Name == strings.ToLower(name) || u.ID == name {
			return u, nil
		}
	}
	return nil, errors.New(errors.NotFound, "no user is named %q", name)
}

// withUser runs f with the user of the path and the lock held.
func (s *Server) withUser(f func(http.ResponseWriter, *http.Request, *api.User) error) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		u, err := s.findUser(r.PathValue("user"))
		if err != nil {
			return err
		}
		return f(w, r, u)
	}
}

func (s *Server) userRoutes(handle register) {
	handle("GET /users", func(w http.ResponseWriter, _ *http.Request) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		writeJSON(w, http.StatusOK, api.List[api.User]{Items: append([]api.User{}, s.access.users...)})
		return nil
	})
	handle("POST /users", func(w http.ResponseWriter, r *http.Request) error {
		var req api.CreateUser
		if err := readJSON(r, &req); err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		u := api.User{ID: newID(), Name: strings.ToLower(req.Name), Issuer: req.Issuer, Subject: req.Subject, Admin: req.Admin, CreatedAt: time.Now(), UpdatedAt: time.Now()}
		s.access.users = append(s.access.users, u)
		writeJSON(w, http.StatusCreated, u)
		return nil
	})
	handle("GET /users/{user}", s.withUser(func(w http.ResponseWriter, _ *http.Request, u *api.User) error {
		writeJSON(w, http.StatusOK, u)
		return nil
	}))
	handle("PATCH /users/{user}", s.withUser(func(w http.ResponseWriter, r *http.Request, u *api.User) error {
		var req api.PatchUser
		if err := readJSON(r, &req); err != nil {
			return err
		}
		if req.Name != nil {
			u.Name = *req.Name
		}
		if req.Admin != nil {
			u.Admin = *req.Admin
		}
		if req.Issuer != nil && req.Subject != nil {
			u.Issuer, u.Subject = *req.Issuer, *req.Subject
		}
		if req.Disabled != nil {
			u.DisabledAt = nil
			if now := time.Now(); *req.Disabled {
				u.DisabledAt = &now
			}
		}
		writeJSON(w, http.StatusOK, u)
		return nil
	}))
	handle("DELETE /users/{user}", s.withUser(func(w http.ResponseWriter, _ *http.Request, u *api.User) error {
		id := u.ID
		s.access.users = slices.DeleteFunc(s.access.users, func(u api.User) bool { return u.ID == id })
		w.WriteHeader(http.StatusNoContent)
		return nil
	}))
}

func (s *Server) memberRoutes(handle register) {
	handle("GET /members", func(w http.ResponseWriter, _ *http.Request) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		writeJSON(w, http.StatusOK, api.List[api.Member]{Items: append([]api.Member{}, s.access.members...)})
		return nil
	})
	handle("PUT /members/{user}", s.withUser(func(w http.ResponseWriter, r *http.Request, u *api.User) error {
		var req api.SetMember
		if err := readJSON(r, &req); err != nil {
			return err
		}
		m := api.Member{UserID: u.ID, Name: u.Name, Role: req.Role, CreatedAt: time.Now()}
		s.access.members = append(slices.DeleteFunc(s.access.members, func(m api.Member) bool { return m.UserID == u.ID }), m)
		writeJSON(w, http.StatusOK, m)
		return nil
	}))
	handle("DELETE /members/{user}", func(w http.ResponseWriter, r *http.Request) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		name := r.PathValue("user")
		if !slices.ContainsFunc(s.access.members, func(m api.Member) bool { return m.Name == name }) {
			return errors.New(errors.NotFound, "no member is named %q", name)
		}
		s.access.members = slices.DeleteFunc(s.access.members, func(m api.Member) bool { return m.Name == name })
		w.WriteHeader(http.StatusNoContent)
		return nil
	})
}
