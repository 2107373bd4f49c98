package service

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/libs/types/pkg/events"
	"github.com/aetherium/aetherium/services/core/pkg/image/preset"
	"github.com/aetherium/aetherium/services/core/pkg/image/steps"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// BuildArgs are the arguments of a TaskBuild; the subject is the build.
type BuildArgs struct {
	Template domain.ID `json:"template_id"`
	Tags     []string  `json:"tags"`
	// Base asks for the base template with its own check list and fallbacks.
	Base bool `json:"base,omitempty"`
	// Of builds by steps: what their machine is made by, and whether layers that
	// are kept from earlier builds are left alone.
	Driver  string             `json:"driver,omitempty"`
	Network domain.NetworkMode `json:"network,omitempty"`
	NoCache bool               `json:"no_cache,omitempty"`
	// Login: the node was given what the registry is to be shown.
	Login bool `json:"login,omitempty"`
	// TryOn are the drivers by which start and ready command are tried before the
	// build is ready, the first that the node has; none: they are not tried.
	TryOn []string `json:"try_on,omitempty"`
}

// shownBuilds bounds how many builds TemplateInfo shows.
const shownBuilds = 20

// BuildTemplate implements vmm.Templates: rows for template, build and task in
// one transaction, then the node is woken.
func (s *Service) BuildTemplate(ctx context.Context, by vmm.Caller, req vmm.BuildTemplate) (*domain.Task, error) {
	given := req.Shape
	if err := s.checkBuild(&req); err != nil {
		return nil, err
	}
	req.Source.Untrusted = !by.Admin
	args := BuildArgs{Tags: req.Tags}
	if req.Source.Steps != "" {
		args.Driver, args.Network, args.NoCache = s.config.BuildDriver, s.config.DefaultNetwork, req.NoCache
	}
	if req.ID == "" {
		req.ID = domain.NewID()
	} else if _, err := domain.ParseID(string(req.ID)); err != nil {
		return nil, err
	}
	if req.TryStart && !req.Warm.Memory && req.Warm.Start != "" && req.Warm.Ready != "" {
		args.TryOn, args.Network = []string{s.config.DefaultDriver, s.config.BuildDriver}, s.config.DefaultNetwork
	}
	args.Login = req.Registry != vmm.RegistryLogin{}
	sent, err := s.uploadsOf(ctx, by, req.Source)
	if err != nil {
		return nil, err
	}
	now := s.time()
	task := &domain.Task{
		ID: domain.NewID(), ProjectID: by.ProjectID, Kind: TaskBuild, Subject: req.ID, State: domain.TaskPending,
		MaxAttempts: 1, CreatedAt: now, UpdatedAt: now, RunAt: now,
	}
	err = s.store.View(ctx, func(tx storage.Tx) (err error) {
		if given != (domain.Resources{}) {
			if err := s.fitsSome(ctx, tx, req.Shape); err != nil {
				return err
			}
		}
		task.WorkerID, err = s.builder(ctx, tx, args.Driver, sent)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := s.bring(ctx, task.WorkerID, sent); err != nil {
		return nil, err
	}
	if args.Login {
		node, err := s.reach(ctx, task.WorkerID)
		if err != nil {
			return nil, err
		}
		if err := node.KeepLogin(ctx, task.ID, req.Registry); err != nil {
			return nil, err
		}
	}
	err = s.store.Update(ctx, func(tx storage.Tx) error {
		tmpl, err := s.ownTemplate(ctx, tx, by, req.Name)
		if err != nil {
			return err
		}
		args.Template = tmpl.ID
		if task.Args, err = json.Marshal(args); err != nil {
			return errors.Wrap(err, errors.Internal, "the build could not be stored")
		}
		if err := s.placeWarmUp(ctx, tx, &req); err != nil {
			return err
		}
		build := &domain.Build{
			ID: task.Subject, ProjectID: by.ProjectID, TemplateID: tmpl.ID, WorkerID: task.WorkerID, State: domain.BuildWaiting, Platform: s.config.Platform,
			Source: req.Source, Warm: req.Warm, Shape: req.Shape, DefaultUser: req.User, Env: req.Env, CreatedAt: now,
		}
		if err := tx.Builds().Insert(ctx, build); err != nil {
			return err
		}
		if err := tx.Tasks().Insert(ctx, task); err != nil {
			return err
		}
		return tx.Outbox().Append(ctx, events.Task(events.TaskCreated, task, now))
	})
	if err != nil {
		if args.Login {
			s.tell(task.WorkerID, func(n Node) { n.CancelTask(task.ID) }) // which there is not
		}
		return nil, err
	}
	s.tell(task.WorkerID, func(n Node) { n.RunTask(task.ProjectID, task.ID) })
	return task, nil
}

func (s *Service) checkBuild(req *vmm.BuildTemplate) error {
	if req.Name == "" {
		return errors.New(errors.InvalidArgument, "a template needs a name").WithField("name")
	}
	if len(req.Tags) == 0 {
		req.Tags = []string{domain.DefaultTag}
	}
	if err := checkTags(req.Tags); err != nil {
		return err
	}
	if req.Source.Steps != "" {
		file, err := steps.Parse(req.Source.Steps)
		if err != nil {
			return errors.Public(err)
		}
		if req.Warm.Start == "" {
			req.Warm.Start = file.Start
		}
		if req.Warm.Ready == "" && (req.Warm.Start != "" || req.Warm.Memory) {
			req.Warm.Ready = file.Ready
		}
	}
	if req.Source.Preset != "" {
		p, err := preset.Find(req.Source.Preset)
		if err != nil {
			return err
		}
		if req.Warm.Start == "" && req.Warm.Ready == "" {
			req.Warm.Start, req.Warm.Ready = p.Start, p.Ready
		}
	}
	if err := checkLogin(req.Registry, req.Source); err != nil {
		return err
	}
	req.Shape = req.Shape.Or(s.config.Defaults)
	for _, err := range []error{
		domain.ValidateTemplateName("name", req.Name),
		domain.ValidateTemplateRef("name", req.Name),
		req.Source.Validate("source"),
		req.Shape.Validate("resources"),
		domain.ValidateUser("user", req.User),
		domain.ValidateEnv("env", req.Env),
		checkWarmUp(req.Warm),
	} {
		if err != nil {
			return err
		}
	}
	return nil
}

const (
	maxUsername = 1 << 10
	maxPassword = 64 << 10 // keys of service accounts are documents
)

func checkLogin(l vmm.RegistryLogin, of domain.TemplateSource) error {
	switch {
	case l == vmm.RegistryLogin{}:
		return nil
	case of.Steps == "":
		return errors.New(errors.Unsupported, "credentials of a registry are for builds by steps").WithField("registry")
	case l.Username == "" || len(l.Username) > maxUsername || strings.ContainsAny(l.Username, ":\r\n\x00"):
		return errors.New(errors.InvalidArgument, "the registry's user is none").WithField("registry")
	case l.Password == "" || len(l.Password) > maxPassword:
		return errors.New(errors.InvalidArgument, "the registry's password is missing, or has more than %d bytes", maxPassword).WithField("registry")
	}
	return nil
}

const (
	tagsAtOnce = 16
	maxTags    = 256 // of a template, by tagging what is built
)

func checkTags(tags []string) error {
	if len(tags) > tagsAtOnce {
		return errors.New(errors.InvalidArgument, "%d tags, at most %d are allowed", len(tags), tagsAtOnce).WithField("tags")
	}
	for _, tag := range tags {
		if err := domain.ValidateName("tags", tag); err != nil || tag == "" {
			return errors.New(errors.InvalidArgument, "%q is not a tag", tag[:min(len(tag), 64)]).WithField("tags")
		}
	}
	return nil
}

// ownTemplate finds the project's template of a name, or makes it.
func (s *Service) ownTemplate(ctx context.Context, tx storage.Tx, by vmm.Caller, name string) (*domain.Template, error) {
	tmpl, err := tx.Templates().ByName(ctx, by.ProjectID, name)
	if err == nil && tmpl.ProjectID == by.ProjectID {
		return tmpl, nil
	}
	if err != nil && !errors.HasCode(err, errors.NotFound) {
		return nil, err
	}
	now := s.time()
	tmpl = &domain.Template{ID: domain.NewID(), ProjectID: by.ProjectID, Name: name, Tags: map[string]domain.ID{}, CreatedAt: now, UpdatedAt: now}
	if err := s.withinQuota(ctx, tx, by.ProjectID, domain.Quota{Templates: 1}, ""); err != nil {
		return nil, err
	}
	return tmpl, tx.Templates().Insert(ctx, tmpl)
}

// GetTemplate implements vmm.Templates.
func (s *Service) GetTemplate(ctx context.Context, by vmm.Caller, nameOrID string) (*vmm.TemplateInfo, error) {
	var info *vmm.TemplateInfo
	err := s.store.View(ctx, func(tx storage.Tx) error {
		tmpl, err := findTemplate(ctx, tx, by, nameOrID)
		if err != nil {
			return err
		}
		info, err = describe(ctx, tx, tmpl)
		return err
	})
	return info, err
}

func findTemplate(ctx context.Context, tx storage.Tx, by vmm.Caller, nameOrID string) (*domain.Template, error) {
	if domain.IsID(nameOrID) {
		return tx.Templates().Get(ctx, by.ProjectID, domain.ID(nameOrID))
	}
	if err := domain.ValidateTemplateRef("template", nameOrID); err != nil {
		return nil, err
	}
	return tx.Templates().ByName(ctx, by.ProjectID, nameOrID)
}

func describe(ctx context.Context, tx storage.Tx, tmpl *domain.Template) (*vmm.TemplateInfo, error) {
	builds, err := tx.Builds().List(ctx, storage.BuildFilter{
		ProjectID: tmpl.ProjectID, TemplateID: tmpl.ID, Page: storage.Page{Limit: shownBuilds},
	})
	return &vmm.TemplateInfo{Template: tmpl, Builds: builds.Items}, err
}

// ListTemplates implements vmm.Templates.
func (s *Service) ListTemplates(ctx context.Context, by vmm.Caller, p vmm.Page) (vmm.List[*vmm.TemplateInfo], error) {
	var out vmm.List[*vmm.TemplateInfo]
	err := s.store.View(ctx, func(tx storage.Tx) error {
		list, err := tx.Templates().List(ctx, storage.TemplateFilter{ProjectID: by.ProjectID, IncludePublic: true, Page: p})
		if err != nil {
			return err
		}
		out.Next = list.Next
		for _, tmpl := range list.Items {
			info, err := describe(ctx, tx, tmpl)
			if err != nil {
				return err
			}
			out.Items = append(out.Items, info)
		}
		return nil
	})
	return out, err
}

// TemplateTags implements vmm.Templates.
func (s *Service) TemplateTags(ctx context.Context, by vmm.Caller, nameOrID string) ([]vmm.TemplateTag, error) {
	var out []vmm.TemplateTag
	err := s.store.View(ctx, func(tx storage.Tx) error {
		tmpl, err := findTemplate(ctx, tx, by, nameOrID)
		if err != nil {
			return err
		}
		for _, tag := range slices.Sorted(maps.Keys(tmpl.Tags)) {
			build, err := tx.Builds().Get(ctx, by.ProjectID, tmpl.Tags[tag])
			if err != nil {
				return err
			}
			out = append(out, vmm.TemplateTag{Name: tag, Build: build})
		}
		return nil
	})
	return out, err
}

// TagTemplate implements vmm.Templates.
func (s *Service) TagTemplate(ctx context.Context, by vmm.Caller, req vmm.TagTemplate) (domain.ID, error) {
	if len(req.Tags) == 0 {
		return "", errors.New(errors.InvalidArgument, "no tag is named").WithField("tags")
	}
	if err := checkTags(req.Tags); err != nil {
		return "", err
	}
	var build domain.ID
	err := s.changeTags(ctx, func(tx storage.Tx) (*domain.Template, error) {
		var tmpl *domain.Template
		var b *domain.Build
		var err error
		if req.Of == "" {
			tmpl, b, err = s.buildToTag(ctx, tx, by, req.Ref)
		} else {
			tmpl, b, err = s.buildOf(ctx, tx, by, req.Of, req.Ref)
		}
		if err != nil {
			return nil, err
		}
		build = b.ID
		for _, t := range req.Tags {
			tmpl.Tags[t] = b.ID
		}
		if len(tmpl.Tags) > maxTags {
			return nil, errors.New(errors.Conflict, "the template has %d tags, at most %d are allowed", len(tmpl.Tags), maxTags).WithField("tags")
		}
		return tmpl, nil
	})
	return build, err
}

// buildToTag finds a build, and the template of the project that it is one of.
func (s *Service) buildToTag(ctx context.Context, tx storage.Tx, by vmm.Caller, ref string) (*domain.Template, *domain.Build, error) {
	if err := domain.ValidateTemplateRef("template", ref); err != nil {
		return nil, nil, err
	}
	name, tag, tagged := strings.Cut(ref, ":")
	named, err := s.findSource(ctx, tx, by, name)
	if err != nil {
		return nil, nil, err
	}
	if named.Kind == storage.KindSnapshot {
		return nil, nil, notFound("template", name)
	}
	b, err := s.findBuild(ctx, tx, by, named, tag, tagged)
	if err != nil {
		return nil, nil, err
	}
	tmpl, err := findOwn(ctx, tx, by, string(b.TemplateID))
	return tmpl, b, err
}

// buildOf finds a build of a template of the project, by its ID or by a tag.
func (s *Service) buildOf(ctx context.Context, tx storage.Tx, by vmm.Caller, template, ref string) (*domain.Template, *domain.Build, error) {
	tmpl, err := findOwn(ctx, tx, by, template)
	if err != nil {
		return nil, nil, err
	}
	named := storage.Named{Kind: storage.KindTemplate, ID: tmpl.ID}
	if domain.IsID(ref) {
		named = storage.Named{Kind: kindBuild, ID: domain.ID(ref)}
	}
	b, err := s.findBuild(ctx, tx, by, named, ref, true)
	if err == nil && b.TemplateID != tmpl.ID {
		err = errors.New(errors.InvalidArgument, "the build %s is not one of the template %q", b.ID, tmpl.Name).WithField("build").
			WithHint("`aetherium template get %s` lists its builds", tmpl.Name)
	}
	return tmpl, b, err
}

// findOwn finds a template that the project may change: others' public ones are
// not.
func findOwn(ctx context.Context, tx storage.Tx, by vmm.Caller, nameOrID string) (*domain.Template, error) {
	tmpl, err := findTemplate(ctx, tx, by, nameOrID)
	if err == nil && tmpl.ProjectID != by.ProjectID {
		err = notFound("template", nameOrID)
	}
	return tmpl, err
}

// UntagTemplate implements vmm.Templates.
func (s *Service) UntagTemplate(ctx context.Context, by vmm.Caller, nameOrID string, tags []string) error {
	if slices.Contains(tags, domain.DefaultTag) {
		return errors.New(errors.InvalidArgument, "the tag %q is what the name alone means: it moves, and stays", domain.DefaultTag).WithField("tags")
	}
	return s.changeTags(ctx, func(tx storage.Tx) (*domain.Template, error) {
		tmpl, err := findOwn(ctx, tx, by, nameOrID)
		if err != nil {
			return nil, err
		}
		for _, t := range tags {
			delete(tmpl.Tags, t)
		}
		return tmpl, nil
	})
}

// changeTags stores a template with other tags, and has the node drop what it
// kept ready of builds that no tag names any more.
func (s *Service) changeTags(ctx context.Context, change func(tx storage.Tx) (*domain.Template, error)) error {
	err := s.store.Update(ctx, func(tx storage.Tx) error {
		tmpl, err := change(tx)
		if err != nil {
			return err
		}
		tmpl.UpdatedAt = s.time()
		return tx.Templates().Update(ctx, tmpl)
	})
	if err != nil {
		return err
	}
	s.templatesChanged(ctx)
	return nil
}

// templatesChanged tells the workers; the sweeps of those that are not reached do it.
func (s *Service) templatesChanged(ctx context.Context) {
	err := s.everywhere(ctx, func(n Node) error {
		n.TemplatesChanged(ctx)
		return nil
	})
	if err != nil {
		s.log.WarnContext(ctx, "not all workers were told that templates changed", "error", err)
	}
}

// DeleteTemplate implements vmm.Templates. Builds that a VM or snapshot still
// uses stay until the last user is gone; the worker removes them then.
func (s *Service) DeleteTemplate(ctx context.Context, by vmm.Caller, nameOrID string) error {
	err := s.store.Update(ctx, func(tx storage.Tx) error {
		tmpl, err := findOwn(ctx, tx, by, nameOrID)
		if err != nil {
			return err
		}
		return tx.Templates().Delete(ctx, by.ProjectID, tmpl.ID)
	})
	if err != nil {
		return err
	}
	s.templatesChanged(ctx)
	return nil
}

// BuildLog implements vmm.Templates.
func (s *Service) BuildLog(ctx context.Context, by vmm.Caller, build domain.ID, from int64, follow bool) (io.ReadCloser, error) {
	var made *domain.Build
	err := s.store.View(ctx, func(tx storage.Tx) (err error) {
		made, err = tx.Builds().Get(ctx, by.ProjectID, build)
		return err
	})
	if err != nil {
		return nil, err
	}
	node, err := s.reach(ctx, made.WorkerID)
	if err != nil {
		return nil, err
	}
	return node.BuildLog(ctx, build, max(0, from), follow)
}
