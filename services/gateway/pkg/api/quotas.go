package api

import (
	"context"
	"net/http"

	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/gateway/pkg/auth"
)

type (
	// ProjectPath names a project in a path.
	ProjectPath struct {
		Project string `path:"project" maxLength:"63" pattern:"^[A-Za-z0-9][A-Za-z0-9._-]*$" doc:"ID or name of a project"`
	}
	setQuotaInput struct {
		ProjectPath
		Body wire.SetQuota
	}
	quotaOutput struct{ Body wire.Quota }
)

func (a *API) quotaRoutes() {
	const tag = "Fleet"
	register(a, operation("get-quota", http.MethodGet, "/quota", tag, "What the project may have, and has", ""), options{scope: domain.ScopeRead},
		func(ctx context.Context, _ *none) (*quotaOutput, error) {
			return answerQuota(a.VMs.GetQuota(ctx, auth.CallerFrom(ctx), ""))
		})
	register(a, operation("get-project-quota", http.MethodGet, "/projects/{project}/quota", tag, "What a project may have, and has", "The caller's own, or for administrators any."),
		options{scope: domain.ScopeRead},
		func(ctx context.Context, in *ProjectPath) (*quotaOutput, error) {
			return answerQuota(a.VMs.GetQuota(ctx, auth.CallerFrom(ctx), in.Project))
		})
	register(a, operation("set-project-quota", http.MethodPut, "/projects/{project}/quota", tag, "Say what a project may have",
		"What is absent is as the installation's default. What the project has already it keeps."), options{scope: domain.ScopeAdmin},
		func(ctx context.Context, in *setQuotaInput) (*quotaOutput, error) {
			return answerQuota(a.VMs.SetQuota(ctx, auth.CallerFrom(ctx), in.Project, domain.QuotaOverride(in.Body)))
		})
}

func answerQuota(q domain.ProjectQuota, err error) (*quotaOutput, error) {
	if err != nil {
		return nil, err
	}
	return &quotaOutput{wire.Quota{
		ProjectID: q.ProjectID.String(), Limits: wire.QuotaLimits(q.Limits), Use: wire.QuotaLimits(q.Use), Override: wire.SetQuota(q.Override),
	}}, nil
}
