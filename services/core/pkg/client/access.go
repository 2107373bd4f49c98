package client

import (
	"context"
	"iter"
	"net/http"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
)

// Me tells who the client's credentials stand for, and what they give.
func (c *Client) Me(ctx context.Context) (api.Me, error) { return fetch[api.Me](ctx, c, get("me")) }

// Token gets a short-lived access token. Returns PermissionDenied for scopes
// that the caller lacks.
func (c *Client) Token(ctx context.Context, req api.CreateToken) (api.Token, error) {
	return fetch[api.Token](ctx, c, post(req, "auth", "token").repeatable())
}

// Keys lists the API keys of the project, ended ones as well.
func (c *Client) Keys(ctx context.Context, p Page) iter.Seq2[api.Key, error] {
	return all[api.Key](ctx, c, get("keys"), p)
}

// Key gets an API key. Returns NotFound.
func (c *Client) Key(ctx context.Context, id string) (api.Key, error) {
	return fetch[api.Key](ctx, c, get("keys", id))
}

// CreateKey makes an API key. It is not repeated when the answer is lost: the
// key's text was told once, and would be nobody's.
func (c *Client) CreateKey(ctx context.Context, req api.CreateKey) (api.NewKey, error) {
	return fetch[api.NewKey](ctx, c, post(req, "keys"))
}

// RotateKey gives an API key another secret; the old one counts for an overlap still.
func (c *Client) RotateKey(ctx context.Context, id string, overlap time.Duration) (api.NewKey, error) {
	return fetch[api.NewKey](ctx, c, post(api.RotateKey{OverlapMS: overlap.Milliseconds()}, "keys", id, "rotate"))
}

// RevokeKey ends an API key; doing it again is success. Returns NotFound.
func (c *Client) RevokeKey(ctx context.Context, id string) error {
	return c.perform(ctx, remove("keys", id))
}

// Projects lists projects, for administrators.
func (c *Client) Projects(ctx context.Context, p Page) iter.Seq2[api.Project, error] {
	return all[api.Project](ctx, c, get("projects"), p)
}

// Project gets a project by name or ID. Returns NotFound.
func (c *Client) Project(ctx context.Context, name string) (api.Project, error) {
	return fetch[api.Project](ctx, c, get("projects", name))
}

// CreateProject makes a project. Returns AlreadyExists.
func (c *Client) CreateProject(ctx context.Context, name string) (api.Project, error) {
	return fetch[api.Project](ctx, c, create(api.CreateProject{Name: name}, "projects"))
}

// RenameProject gives a project another name. Returns NotFound, AlreadyExists.
func (c *Client) RenameProject(ctx context.Context, project, name string) (api.Project, error) {
	return fetch[api.Project](ctx, c, call{method: http.MethodPatch, path: []string{"projects", project}, body: api.PatchProject{Name: name}})
}

// DeleteProject removes a project with everything of it. Returns NotFound,
// Conflict while it has VMs, or is the last.
func (c *Client) DeleteProject(ctx context.Context, name string) error {
	return c.perform(ctx, remove("projects", name))
}

// Users lists users, for administrators.
func (c *Client) Users(ctx context.Context, p Page) iter.Seq2[api.User, error] {
	return all[api.User](ctx, c, get("users"), p)
}

// User gets a user by name or ID. Returns NotFound.
func (c *Client) User(ctx context.Context, name string) (api.User, error) {
	return fetch[api.User](ctx, c, get("users", name))
}

// CreateUser makes a user. Returns AlreadyExists.
func (c *Client) CreateUser(ctx context.Context, req api.CreateUser) (api.User, error) {
	return fetch[api.User](ctx, c, create(req, "users"))
}

// PatchUser changes a user. Returns NotFound, AlreadyExists.
func (c *Client) PatchUser(ctx context.Context, name string, req api.PatchUser) (api.User, error) {
	return fetch[api.User](ctx, c, call{method: http.MethodPatch, path: []string{"users", name}, body: req, safe: req.Name == nil})
}

// DeleteUser removes a user; keys and memberships end. Returns NotFound.
func (c *Client) DeleteUser(ctx context.Context, name string) error {
	return c.perform(ctx, remove("users", name))
}

// Members lists the members of the project.
func (c *Client) Members(ctx context.Context) ([]api.Member, error) {
	l, err := fetch[api.List[api.Member]](ctx, c, get("members"))
	return l.Items, err
}

// SetMember gives a user a role in the project. Returns NotFound.
func (c *Client) SetMember(ctx context.Context, user, role string) (api.Member, error) {
	return fetch[api.Member](ctx, c, call{method: http.MethodPut, path: []string{"members", user}, body: api.SetMember{Role: role}, safe: true})
}

// RemoveMember ends a user's membership in the project. Returns NotFound.
func (c *Client) RemoveMember(ctx context.Context, user string) error {
	return c.perform(ctx, remove("members", user))
}
