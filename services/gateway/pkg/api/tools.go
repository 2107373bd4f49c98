package api

import (
	"context"
	"io"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/apiform"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/gateway/pkg/auth"
)

type (
	toolsOutput  struct{ Body *wire.List[wire.Tool] }
	installInput struct {
		KeyHeader
		Body wire.InstallTools
	}
	toolPath struct {
		Tool string `path:"tool" maxLength:"200" pattern:"^[a-z0-9][a-z0-9._-]*(?:@[A-Za-z0-9][A-Za-z0-9._+-]*)?$" doc:"ID of an installed tool; without a version: all versions"`
	}
)

func (a *API) toolRoutes() {
	const tag = "Tools"
	register(a, operation("list-tools", http.MethodGet, "/tools", tag, "List the tools that are installed", ""), options{scope: domain.ScopeRead}, a.listTools)
	install := operation("install-tools", http.MethodPost, "/tools", tag, "Install tools", "As a task, so that VMs find them there. A VM that is created with tools that are not there has them installed as well.")
	install.DefaultStatus = http.StatusAccepted
	register(a, install, options{scope: domain.ScopeRun}, a.installTools)
	register(a, operation("delete-tool", http.MethodDelete, "/tools/{tool}", tag, "Remove an installed tool", "Not while a VM has it."), options{scope: domain.ScopeAdmin},
		func(ctx context.Context, in *toolPath) (*empty, error) {
			dir, version, _ := strings.Cut(in.Tool, "@")
			return nil, a.VMs.RemoveTool(ctx, auth.CallerFrom(ctx), dir, version)
		})
	log := operation("get-installation-log", http.MethodGet, "/tools/installations/{id}/log", tag, "Read the log of an installation", "By the ID of its task.")
	log.Responses = map[string]*huma.Response{"200": binaryResponse("text/plain", "The log")}
	register(a, log, options{scope: domain.ScopeRead}, a.installationLog)
}

func (a *API) listTools(ctx context.Context, _ *none) (*toolsOutput, error) {
	l, err := a.VMs.ListTools(ctx, auth.CallerFrom(ctx))
	if err != nil {
		return nil, err
	}
	return &toolsOutput{&wire.List[wire.Tool]{Items: mapped(l, tool)}}, nil
}

func tool(t vmm.ToolInfo) wire.Tool {
	exact := domain.Tool{Name: t.Name, Version: t.Version}
	return wire.Tool{
		ID: exact.Dir() + "@" + t.Version, Name: t.Name, Version: t.Version, Backend: t.Backend,
		SizeBytes: t.Bytes, Files: t.Files, VMs: t.VMs, InstalledAt: t.InstalledAt,
	}
}

func (a *API) installTools(ctx context.Context, in *installInput) (*acceptedTaskOutput, error) {
	t, err := a.VMs.InstallTools(ctx, auth.CallerFrom(ctx), in.Body.Tools)
	if err != nil {
		return nil, err
	}
	return &acceptedTaskOutput{Location: location("tasks", t.ID.String()), Body: wire.Accepted{Task: apiform.Task(t)}}, nil
}

func (a *API) installationLog(ctx context.Context, in *buildLogInput) (*huma.StreamResponse, error) {
	by := auth.CallerFrom(ctx)
	return streaming(func(w http.ResponseWriter, r *http.Request) error {
		return a.Streams.Text(w, r, "installation-log", func(ctx context.Context) (io.ReadCloser, error) {
			return a.VMs.ToolLog(ctx, by, in.id(), in.Offset, in.Follow)
		})
	}), nil
}
