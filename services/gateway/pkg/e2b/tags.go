package e2b

import (
	"net/http"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/gateway/pkg/trail"
)

// defaultTag is E2B's name of domain.DefaultTag. Clients may use either.
const defaultTag = "default"

type (
	assignBody struct {
		Target string   `json:"target"`
		Tags   []string `json:"tags"`
	}

	removeTagsBody struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}

	assigned struct {
		BuildID string   `json:"buildID"`
		Tags    []string `json:"tags"`
	}

	templateTag struct {
		Tag       string    `json:"tag"`
		BuildID   string    `json:"buildID"`
		CreatedAt time.Time `json:"createdAt"`
	}
)

func (a *API) tagRoutes(r chi.Router) {
	a.handle(r, http.MethodPost, "/templates/tags", "tag-template", domain.ScopeManage, a.assignTags)
	a.handle(r, http.MethodDelete, "/templates/tags", "untag-template", domain.ScopeManage, a.removeTags)
	a.handle(r, http.MethodGet, "/templates/{template}/tags", "get-template", domain.ScopeRead, a.tags)
}

// assignTags points tags at a build that is there.
func (a *API) assignTags(w http.ResponseWriter, r *http.Request, by vmm.Caller) error {
	var body assignBody
	if _, err := a.read(w, r, &body); err != nil {
		return err
	}
	ref := refOf(body.Target)
	trail.Subject(r.Context(), "template", ref)
	build, err := a.VMs.TagTemplate(r.Context(), by, vmm.TagTemplate{Ref: ref, Tags: tagsOf(body.Tags)})
	if err != nil {
		return err
	}
	return answer(w, http.StatusCreated, assigned{BuildID: buildID(build), Tags: body.Tags})
}

func (a *API) removeTags(w http.ResponseWriter, r *http.Request, by vmm.Caller) error {
	var body removeTagsBody
	if _, err := a.read(w, r, &body); err != nil {
		return err
	}
	trail.Subject(r.Context(), "template", body.Name)
	if err := a.VMs.UntagTemplate(r.Context(), by, body.Name, tagsOf(body.Tags)); err != nil {
		return err
	}
	return empty(w)
}

// tags lists a template's tags. When one was set isn't kept: each shows the
// time from which its build could be had.
func (a *API) tags(w http.ResponseWriter, r *http.Request, by vmm.Caller) error {
	list, err := a.VMs.TemplateTags(r.Context(), by, chi.URLParam(r, "template"))
	if errors.HasCode(err, errors.InvalidArgument) { // what can be no name is none
		err = errors.New(errors.NotFound, "there is no template of this name")
	}
	if err != nil {
		return err
	}
	out := make([]templateTag, 0, len(list))
	for _, t := range list {
		at := t.Build.CreatedAt
		if t.Build.ReadyAt != nil {
			at = *t.Build.ReadyAt
		}
		name := t.Name
		if name == domain.DefaultTag {
			name = defaultTag
		}
		out = append(out, templateTag{Tag: name, BuildID: buildID(t.Build.ID), CreatedAt: at.UTC().Truncate(time.Millisecond)})
	}
	return answer(w, http.StatusOK, out)
}

// tagsOf gives tags as we name them.
func tagsOf(given []string) []string {
	out := make([]string, 0, len(given))
	for _, tag := range given {
		if tag == defaultTag {
			tag = domain.DefaultTag
		}
		out = append(out, tag)
	}
	return out
}

// refOf gives a template's reference as we write it: a name, name:tag, or the
// ID of a build.
func refOf(text string) string {
	name, tag, tagged := strings.Cut(text, ":")
	switch {
	case !tagged:
		return fromBuildID(text)
	case tag == defaultTag:
		return name
	}
	return text
}
