package api

import (
	"context"
	"net/http"
	"time"

	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/access"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/gateway/pkg/auth"
	"github.com/aetherium/aetherium/services/gateway/pkg/trail"
)

// Access is who may do what, as one value. Its errors are what
// access.Service promises.
type Access interface {
	Keys
	Projects
	Users
	Members
}

// Keys makes and ends API keys in the caller's project.
type Keys interface {
	CreateKey(ctx context.Context, by vmm.Caller, req access.CreateKey) (access.NewKey, error)
	GetKey(ctx context.Context, by vmm.Caller, id domain.ID) (*domain.APIKey, error)
	ListKeys(ctx context.Context, by vmm.Caller, p vmm.Page) (vmm.List[*domain.APIKey], error)
	RotateKey(ctx context.Context, by vmm.Caller, id domain.ID, overlap time.Duration) (access.NewKey, error)
	RevokeKey(ctx context.Context, by vmm.Caller, id domain.ID) error
}

// Projects makes and removes projects.
type Projects interface {
	CreateProject(ctx context.Context, by vmm.Caller, name string) (*domain.Project, error)
	GetProject(ctx context.Context, by vmm.Caller, nameOrID string) (*domain.Project, error)
	ListProjects(ctx context.Context, by vmm.Caller, p vmm.Page) (vmm.List[*domain.Project], error)
	RenameProject(ctx context.Context, by vmm.Caller, nameOrID, name string) (*domain.Project, error)
	DeleteProject(ctx context.Context, by vmm.Caller, nameOrID string) error
}

// Users makes and ends users.
type Users interface {
	CreateUser(ctx context.Context, by vmm.Caller, req access.CreateUser) (*domain.User, error)
	GetUser(ctx context.Context, by vmm.Caller, nameOrID string) (*domain.User, error)
	ListUsers(ctx context.Context, by vmm.Caller, p vmm.Page) (vmm.List[*domain.User], error)
	PatchUser(ctx context.Context, by vmm.Caller, nameOrID string, p access.PatchUser) (*domain.User, error)
	DeleteUser(ctx context.Context, by vmm.Caller, nameOrID string) error
}

// Members gives users roles in the caller's project.
type Members interface {
	ListMembers(ctx context.Context, by vmm.Caller) ([]access.Member, error)
	PutMember(ctx context.Context, by vmm.Caller, user string, role domain.Role) (access.Member, error)
	RemoveMember(ctx context.Context, by vmm.Caller, user string) error
}

// Tokens makes access tokens.
type Tokens interface {
	Issue(ctx context.Context, by vmm.Caller, req auth.IssueToken) (auth.Issued, error)
	Rotate(ctx context.Context, by vmm.Caller, forget bool) error
}

type (
	// UserPath names a user in a path.
	UserPath struct {
		User string `path:"user" maxLength:"254" doc:"ID or name of a user"`
	}
	keyOutput      struct{ Body wire.Key }
	keysOutput     struct{ Body *wire.List[wire.Key] }
	newKeyOutput   struct{ Body wire.NewKey }
	createKeyInput struct{ Body wire.CreateKey }
	rotateKeyInput struct {
		IDPath
		Body *wire.RotateKey
	}
	projectOutput      struct{ Body wire.Project }
	projectsOutput     struct{ Body *wire.List[wire.Project] }
	createProjectInput struct {
		KeyHeader
		Body wire.CreateProject
	}
	patchProjectInput struct {
		ProjectPath
		Body wire.PatchProject
	}
	userOutput      struct{ Body wire.User }
	usersOutput     struct{ Body *wire.List[wire.User] }
	createUserInput struct {
		KeyHeader
		Body wire.CreateUser
	}
	patchUserInput struct {
		UserPath
		Body wire.PatchUser
	}
	memberOutput   struct{ Body wire.Member }
	membersOutput  struct{ Body *wire.List[wire.Member] }
	setMemberInput struct {
		UserPath
		Body wire.SetMember
	}
	meOutput         struct{ Body wire.Me }
	createTokenInput struct{ Body *wire.CreateToken }
	tokenOutput      struct{ Body wire.Token }
	rotateTokenInput struct{ Body *wire.RotateTokenKey }
)

func (a *API) accessRoutes() {
	a.keyRoutes()
	a.projectRoutes()
	a.userRoutes()
	a.memberRoutes()
	a.tokenRoutes()
}

func scopes(s domain.Scopes) []string {
	return mapped(s, func(s domain.Scope) string { return string(s) })
}

func scopesFrom(words []string) domain.Scopes {
	return mapped(words, func(s string) domain.Scope { return domain.Scope(s) })
}

func (a *API) keyRoutes() {
	const tag = "Keys"
	create := operation("create-key", http.MethodPost, "/keys", tag, "Make an API key", "Its text is told this once. It gives no more than the caller has.")
	create.DefaultStatus = http.StatusCreated
	register(a, create, options{scope: domain.ScopeManage, secret: true}, a.createKey)
	register(a, operation("list-keys", http.MethodGet, "/keys", tag, "List API keys", "Those that have expired or were revoked as well."), options{scope: domain.ScopeManage},
		func(ctx context.Context, in *PageQuery) (*keysOutput, error) {
			l, err := a.Access.ListKeys(ctx, auth.CallerFrom(ctx), in.page())
			if err != nil {
				return nil, err
			}
			return &keysOutput{listOf(l, a.key)}, nil
		})
	register(a, operation("get-key", http.MethodGet, "/keys/{id}", tag, "Get an API key", ""), options{scope: domain.ScopeManage},
		func(ctx context.Context, in *IDPath) (*keyOutput, error) {
			k, err := a.Access.GetKey(ctx, auth.CallerFrom(ctx), in.id())
			if err != nil {
				return nil, err
			}
			return &keyOutput{a.key(k)}, nil
		})
	register(a, operation("rotate-key", http.MethodPost, "/keys/{id}/rotate", tag, "Give an API key another secret", "The new text is told this once. What the old one has opened ends with it."),
		options{scope: domain.ScopeManage, secret: true},
		func(ctx context.Context, in *rotateKeyInput) (*newKeyOutput, error) {
			k, err := a.Access.RotateKey(ctx, auth.CallerFrom(ctx), in.id(), fromMS(given(in.Body).OverlapMS))
			if err != nil {
				return nil, err
			}
			return &newKeyOutput{wire.NewKey{Key: a.key(k.Key), Secret: k.Text}}, nil
		})
	register(a, operation("revoke-key", http.MethodDelete, "/keys/{id}", tag, "End an API key", "At once and for good, with the streams it has opened. Revoking it again is success."),
		options{scope: domain.ScopeManage},
		func(ctx context.Context, in *IDPath) (*empty, error) {
			return nil, a.Access.RevokeKey(ctx, auth.CallerFrom(ctx), in.id())
		})
}

func (a *API) createKey(ctx context.Context, in *createKeyInput) (*newKeyOutput, error) {
	req := access.CreateKey{
		Name: in.Body.Name, Scopes: scopesFrom(in.Body.Scopes), ExpiresAt: in.Body.ExpiresAt, E2B: in.Body.Format == "e2b", User: in.Body.User,
	}
	if in.Body.TTLMS > 0 {
		if req.ExpiresAt != nil {
			return nil, exclude("body.ttl_ms", "expires_at and ttl_ms")
		}
		at := a.Now().Add(fromMS(in.Body.TTLMS))
		req.ExpiresAt = &at
	}
	k, err := a.Access.CreateKey(ctx, auth.CallerFrom(ctx), req)
	if err != nil {
		return nil, err
	}
	trail.Subject(ctx, "key", k.Key.ID.String())
	return &newKeyOutput{wire.NewKey{Key: a.key(k.Key), Secret: k.Text}}, nil
}

func (a *API) key(k *domain.APIKey) wire.Key {
	now := a.Now()
	out := wire.Key{
		ID: k.ID.String(), Name: k.Name, Prefix: k.Prefix, State: "active", Scopes: scopes(k.Allowed()), UserID: k.UserID.String(),
		CreatedBy: k.CreatedBy, CreatedAt: k.CreatedAt, RotatedAt: k.RotatedAt, ExpiresAt: k.ExpiresAt, LastUsedAt: k.LastUsedAt, RevokedAt: k.RevokedAt,
	}
	switch {
	case k.RevokedAt != nil:
		out.State = "revoked"
	case !k.Usable(now):
		out.State = "expired"
	case k.OldUntil != nil && now.Before(*k.OldUntil):
		out.OldSecretUntil = k.OldUntil
	}
	return out
}

func (a *API) projectRoutes() {
	const tag = "Projects"
	create := operation("create-project", http.MethodPost, "/projects", tag, "Make a project", "An administrator works in it by the header "+wire.HeaderProject+", and makes its first key so.")
	create.DefaultStatus = http.StatusCreated
	register(a, create, options{scope: domain.ScopeAdmin}, func(ctx context.Context, in *createProjectInput) (*projectOutput, error) {
		p, err := a.Access.CreateProject(ctx, auth.CallerFrom(ctx), in.Body.Name)
		if err == nil {
			trail.Subject(ctx, "project", p.ID.String())
		}
		return projectOr(p, err)
	})
	register(a, operation("list-projects", http.MethodGet, "/projects", tag, "List projects", ""), options{scope: domain.ScopeAdmin},
		func(ctx context.Context, in *PageQuery) (*projectsOutput, error) {
			l, err := a.Access.ListProjects(ctx, auth.CallerFrom(ctx), in.page())
			if err != nil {
				return nil, err
			}
			return &projectsOutput{listOf(l, project)}, nil
		})
	register(a, operation("get-project", http.MethodGet, "/projects/{project}", tag, "Get a project", ""), options{scope: domain.ScopeAdmin},
		func(ctx context.Context, in *ProjectPath) (*projectOutput, error) {
			return projectOr(a.Access.GetProject(ctx, auth.CallerFrom(ctx), in.Project))
		})
	register(a, operation("patch-project", http.MethodPatch, "/projects/{project}", tag, "Rename a project", ""), options{scope: domain.ScopeAdmin},
		func(ctx context.Context, in *patchProjectInput) (*projectOutput, error) {
			return projectOr(a.Access.RenameProject(ctx, auth.CallerFrom(ctx), in.Project, in.Body.Name))
		})
	register(a, operation("delete-project", http.MethodDelete, "/projects/{project}", tag, "Delete a project with everything of it", "Not while it has VMs, nor the last one."),
		options{scope: domain.ScopeAdmin},
		func(ctx context.Context, in *ProjectPath) (*empty, error) {
			return nil, a.Access.DeleteProject(ctx, auth.CallerFrom(ctx), in.Project)
		})
}

func project(p *domain.Project) wire.Project {
	return wire.Project{ID: p.ID.String(), Name: p.Name, CreatedAt: p.CreatedAt}
}

func projectOr(p *domain.Project, err error) (*projectOutput, error) {
	if err != nil {
		return nil, err
	}
	return &projectOutput{project(p)}, nil
}
