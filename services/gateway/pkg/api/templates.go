package api

import (
	"context"
	"io"
	"net/http"
	"path/filepath"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/apiform"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/gateway/pkg/auth"
	"github.com/aetherium/aetherium/services/gateway/pkg/middleware"
	"github.com/aetherium/aetherium/services/gateway/pkg/trail"
)

type (
	// TemplatePath names a template in a path.
	TemplatePath struct {
		Name string `path:"name" maxLength:"63" pattern:"^[a-z0-9][a-z0-9._-]*$" doc:"Name or ID of a template"`
	}
	// TagPath names a tag of a template in a path.
	TagPath struct {
		TemplatePath
		Tag string `path:"tag" maxLength:"63" pattern:"^[A-Za-z0-9][A-Za-z0-9._-]*$" patternDescription:"letters, digits, dots, dashes and underscores" doc:"A tag"`
	}
	tagInput struct {
		TagPath
		Body wire.TagTemplate
	}
	tagOutput          struct{ Body wire.TemplateTag }
	buildTemplateInput struct {
		KeyHeader
		Body wire.BuildTemplate
	}
	buildLogInput struct {
		IDPath
		Offset int64 `query:"offset" minimum:"0" maximum:"1099511627776" doc:"First byte wanted"`
		Follow bool  `query:"follow" doc:"Wait for more until the build ends"`
	}
	templateOutput  struct{ Body wire.Template }
	templatesOutput struct {
		Body *wire.List[wire.Template]
	}
	acceptedTaskOutput struct {
		Location string `header:"Location"`
		Body     wire.Accepted
	}
)

func (a *API) templateRoutes() {
	const tag = "Templates"
	register(a, operation("list-templates", http.MethodGet, "/templates", tag, "List templates", ""), options{scope: domain.ScopeRead}, a.listTemplates)
	register(a, operation("get-template", http.MethodGet, "/templates/{name}", tag, "Get a template and its newest builds", ""), options{scope: domain.ScopeRead},
		func(ctx context.Context, in *TemplatePath) (*templateOutput, error) {
			t, err := a.VMs.GetTemplate(ctx, auth.CallerFrom(ctx), in.Name)
			if err != nil {
				return nil, err
			}
			return &templateOutput{template(t)}, nil
		})
	register(a, operation("delete-template", http.MethodDelete, "/templates/{name}", tag, "Delete a template and those of its builds that nothing uses", ""), options{scope: domain.ScopeManage},
		func(ctx context.Context, in *TemplatePath) (*empty, error) {
			return nil, a.VMs.DeleteTemplate(ctx, auth.CallerFrom(ctx), in.Name)
		})
	build := operation("build-template", http.MethodPost, "/templates", tag, "Build a template", "As a task; its builds' logs tell how it goes.")
	build.DefaultStatus = http.StatusAccepted
	register(a, build, options{scope: domain.ScopeManage}, a.buildTemplate)

	register(a, operation("tag-template", http.MethodPut, "/templates/{name}/tags/{tag}", tag, "Point a tag at a build of the template", "The tag is made, or moved: from then on NAME:TAG means that build. `latest` is what the name alone means."), options{scope: domain.ScopeManage}, a.tagTemplate)
	register(a, operation("untag-template", http.MethodDelete, "/templates/{name}/tags/{tag}", tag, "Remove a tag of a template", "The build stays. `latest` moves, and cannot be removed."), options{scope: domain.ScopeManage}, a.untagTemplate)

	log := operation("get-build-log", http.MethodGet, "/templates/builds/{id}/log", tag, "Read a build's log", "")
	log.Responses = map[string]*huma.Response{"200": binaryResponse("text/plain", "The log")}
	register(a, log, options{scope: domain.ScopeRead}, a.buildLog)

	upload := operation("upload", http.MethodPut, "/uploads", tag, "Send files to build a template from", "A tar, plain or compressed: a root filesystem, whose ID is then source.tar, or what steps copy from, source.context.")
	upload.RequestBody = binaryBody("application/x-tar", "A tar")
	upload.RequestBody.Required = true
	upload.Responses = map[string]*huma.Response{"201": jsonOf[wire.Upload](a, "Kept for a day")}
	register(a, upload, options{scope: domain.ScopeManage}, a.upload)
}

func (a *API) listTemplates(ctx context.Context, in *PageQuery) (*templatesOutput, error) {
	l, err := a.VMs.ListTemplates(ctx, auth.CallerFrom(ctx), in.page())
	if err != nil {
		return nil, err
	}
	return &templatesOutput{listOf(l, listedTemplate)}, nil
}

func (a *API) buildTemplate(ctx context.Context, in *buildTemplateInput) (*acceptedTaskOutput, error) {
	by := auth.CallerFrom(ctx)
	source, err := a.source(by, in.Body.Source)
	if err != nil {
		return nil, err
	}
	t, err := a.VMs.BuildTemplate(ctx, by, vmm.BuildTemplate{
		Name: in.Body.Name, Tags: in.Body.Tags, Source: source, Shape: toResources(in.Body.Resources), User: in.Body.User, Env: in.Body.Env,
		NoCache: in.Body.NoCache,
		Warm: domain.WarmUp{
			Start: in.Body.Start, Memory: in.Body.Memory, Ready: in.Body.Ready, Driver: in.Body.Driver,
			Network: domain.NetworkMode(in.Body.Network),
		},
	})
	if err != nil {
		return nil, err
	}
	trail.Subject(ctx, "template", in.Body.Name)
	return &acceptedTaskOutput{Location: location("tasks", t.ID.String()), Body: wire.Accepted{Task: apiform.Task(t)}}, nil
}

func (a *API) tagTemplate(ctx context.Context, in *tagInput) (*tagOutput, error) {
	ref := in.Body.Build
	if (ref == "") == (in.Body.Tag == "") {
		return nil, errors.New(errors.InvalidArgument, "one of build and tag says what the tag is to point at").WithField("body")
	}
	if ref == "" {
		ref = in.Body.Tag
	}
	build, err := a.VMs.TagTemplate(ctx, auth.CallerFrom(ctx), vmm.TagTemplate{Ref: ref, Of: in.Name, Tags: []string{in.Tag}})
	if err != nil {
		return nil, err
	}
	return &tagOutput{wire.TemplateTag{Tag: in.Tag, BuildID: build.String()}}, nil
}

// untagTemplate says so where there is no such tag: it may be mistyped.
func (a *API) untagTemplate(ctx context.Context, in *TagPath) (*empty, error) {
	by := auth.CallerFrom(ctx)
	t, err := a.VMs.GetTemplate(ctx, by, in.Name)
	if err != nil {
		return nil, err
	}
	if _, there := t.Template.Tags[in.Tag]; !there {
		return nil, errors.New(errors.NotFound, "the template %q has no tag %q", t.Template.Name, in.Tag).WithField("path.tag")
	}
	return nil, a.VMs.UntagTemplate(ctx, by, in.Name, []string{in.Tag})
}

// source checks what a source names on the server. Paths there are for
// administrators: reading one is reading the host's files.
func (a *API) source(by vmm.Caller, s wire.TemplateSource) (domain.TemplateSource, error) {
	out := domain.TemplateSource{Image: s.Image, Tar: s.Tar, Dir: s.Dir, Packages: s.Packages, Suite: s.Suite, Preset: s.Preset, Steps: s.Steps, Context: s.Context}
	if err := out.Validate("body.source"); err != nil {
		return out, err
	}
	for field, path := range map[string]string{"tar": s.Tar, "dir": s.Dir, "context": s.Context} {
		switch {
		case path == "", field != "dir" && domain.IsID(path):
		case !by.Admin:
			return out, errors.New(errors.PermissionDenied, "paths on the server are for administrators").
				WithField("body.source."+field).WithHint("PUT the tar to %s/uploads and name its ID", wire.BasePath)
		case !filepath.IsAbs(path) || filepath.Clean(path) != strings.TrimSuffix(path, "/"):
			return out, errors.New(errors.InvalidArgument, "a path on the server must be absolute and clean").WithField("body.source." + field)
		}
	}
	return out, nil
}

func (a *API) buildLog(ctx context.Context, in *buildLogInput) (*huma.StreamResponse, error) {
	by := auth.CallerFrom(ctx)
	return streaming(func(w http.ResponseWriter, r *http.Request) error {
		return a.Streams.Text(w, r, "build-log", func(ctx context.Context) (io.ReadCloser, error) {
			return a.VMs.BuildLog(ctx, by, in.id(), in.Offset, in.Follow)
		})
	}), nil
}

func (a *API) upload(ctx context.Context, _ *none) (*huma.StreamResponse, error) {
	by := auth.CallerFrom(ctx)
	return streaming(func(w http.ResponseWriter, r *http.Request) error {
		if err := middleware.LimitBody(w, r, a.MaxUploadBytes); err != nil {
			return err
		}
		u, err := a.VMs.SaveUpload(r.Context(), by, "", r.Body)
		if err != nil {
			return err
		}
		return writeJSON(w, http.StatusCreated, wire.Upload{ID: u.ID.String(), SizeBytes: u.SizeBytes, SHA256: u.SHA256, ExpiresAt: u.ExpiresAt})
	}), nil
}
