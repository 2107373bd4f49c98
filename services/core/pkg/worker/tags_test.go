package worker_test

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

func TestTagsAreMoved(t *testing.T) {
	t.Parallel()
	b := newMemoryBed(t)
	var builds []domain.ID
	for range 2 {
		req := vmm.BuildTemplate{ID: domain.NewID(), Name: "app"}
		if task := b.build(req); task.State != domain.TaskSucceeded {
			t.Fatalf("%+v", task.Error)
		}
		builds = append(builds, req.ID)
	}
	first, second := builds[0], builds[1]
	shown := func() string {
		t.Helper()
		list, err := b.TemplateTags(b.ctx, b.by, "app")
		must(t, err)
		var out []string
		for _, tag := range list {
			out = append(out, fmt.Sprintf("%s=%d", tag.Name, map[domain.ID]int{first: 1, second: 2}[tag.Build.ID]))
		}
		return strings.Join(out, " ")
	}
	tag := func(ref, want string, tags ...string) {
		t.Helper()
		if _, err := b.TagTemplate(b.ctx, b.by, vmm.TagTemplate{Ref: ref, Tags: tags}); err != nil {
			t.Fatal(err)
		}
		if got := shown(); got != want {
			t.Errorf("%s tagged %v: %s, want %s", ref, tags, got, want)
		}
	}
	tag("app", "latest=2 stable=2 v2=2", "v2", "stable")
	tag(first.String(), "latest=2 stable=1 v1=1 v2=2", "v1", "stable")
	tag("app:v1", "latest=1 stable=1 v1=1 v2=2", "latest")
	if vm := b.running(vmm.CreateVM{Template: "app"}); vm.Spec.BuildID != first {
		t.Errorf("app is build %s", vm.Spec.BuildID)
	}
	for range 2 { // what is done is no error
		must(t, b.UntagTemplate(b.ctx, b.by, "app", []string{"v1", "stable"}))
	}
	if got := shown(); got != "latest=1 v2=2" {
		t.Errorf("untagged: %s", got)
	}
	if _, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{Template: "app:v1"}); !errors.HasCode(err, errors.NotFound) {
		t.Errorf("by a tag that is gone: %v", err)
	}

	other := vmm.Caller{ProjectID: domain.NewID(), Name: "other"}
	many := make([]string, 17)
	for i := range many {
		many[i] = fmt.Sprint("t", i)
	}
	for _, c := range []struct {
		by   vmm.Caller
		ref  string
		tags []string
		want errors.Code
	}{
		{b.by, "app", nil, errors.InvalidArgument},
		{b.by, "app", []string{"no tag"}, errors.InvalidArgument},
		{b.by, "app", many, errors.InvalidArgument},
		{b.by, "No*name", []string{"x"}, errors.InvalidArgument},
		{b.by, "none", []string{"x"}, errors.NotFound},
		{b.by, "app:none", []string{"x"}, errors.NotFound},
		{b.by, domain.NewID().String(), []string{"x"}, errors.NotFound},
		{other, "app", []string{"x"}, errors.NotFound},
		{other, first.String(), []string{"x"}, errors.NotFound},
	} {
		if _, err := b.TagTemplate(b.ctx, c.by, vmm.TagTemplate{Ref: c.ref, Tags: c.tags}); !errors.HasCode(err, c.want) {
			t.Errorf("tagging %s %v: %v, want %s", c.ref, c.tags, err, c.want)
		}
	}
	if err := b.UntagTemplate(b.ctx, b.by, "app", []string{"latest"}); !errors.HasCode(err, errors.InvalidArgument) {
		t.Errorf("removing the default tag: %v", err)
	}
	if err := b.UntagTemplate(b.ctx, other, "app", []string{"v2"}); !errors.HasCode(err, errors.NotFound) {
		t.Errorf("another project's: %v", err)
	}
	var err error
	for i := 0; err == nil && i < 300; i += 10 {
		tags := make([]string, 10)
		for j := range tags {
			tags[j] = fmt.Sprint("n", i+j)
		}
		_, err = b.TagTemplate(b.ctx, b.by, vmm.TagTemplate{Ref: "app", Tags: tags})
	}
	if !errors.HasCode(err, errors.Conflict) {
		t.Errorf("tags without end: %v", err)
	}
	if list, err := b.TemplateTags(b.ctx, b.by, "app"); err != nil || len(list) > 256 {
		t.Errorf("%d tags, %v", len(list), err)
	}
}

// Where a template is named, its builds alone are tagged, however they are named.
func TestTagsOfOneTemplate(t *testing.T) {
	t.Parallel()
	b := newMemoryBed(t)
	var builds []domain.ID
	for _, name := range []string{"app", "app", "other"} {
		req := vmm.BuildTemplate{ID: domain.NewID(), Name: name}
		if task := b.build(req); task.State != domain.TaskSucceeded {
			t.Fatalf("%+v", task.Error)
		}
		builds = append(builds, req.ID)
	}
	app, err := b.GetTemplate(b.ctx, b.by, "app")
	must(t, err)
	other, err := b.GetTemplate(b.ctx, b.by, "other")
	must(t, err)
	for _, c := range []struct {
		ref, of, tag string
		want         domain.ID
	}{
		{builds[0].String(), "app", "V1", builds[0]},
		{"latest", "app", "v2", builds[1]},
		{"V1", app.Template.ID.String(), "latest", builds[0]},
	} {
		if got, err := b.TagTemplate(b.ctx, b.by, vmm.TagTemplate{Ref: c.ref, Of: c.of, Tags: []string{c.tag}}); err != nil || got != c.want {
			t.Errorf("%+v: %s, %v", c, got, err)
		}
	}
	stranger := vmm.Caller{ProjectID: domain.NewID(), Name: "other"}
	for _, c := range []struct {
		by      vmm.Caller
		ref, of string
		want    errors.Code
	}{
		{b.by, builds[2].String(), "app", errors.InvalidArgument},
		{b.by, app.Template.ID.String(), "app", errors.NotFound}, // which is no build
		{b.by, other.Template.ID.String(), "app", errors.NotFound},
		{b.by, domain.NewID().String(), "app", errors.NotFound},
		{b.by, "none", "app", errors.NotFound},
		{b.by, "latest", "none", errors.NotFound},
		{b.by, "latest", builds[0].String(), errors.NotFound},
		{b.by, "latest", "No*name", errors.InvalidArgument},
		{stranger, "latest", "app", errors.NotFound},
		{stranger, builds[0].String(), app.Template.ID.String(), errors.NotFound},
	} {
		if _, err := b.TagTemplate(b.ctx, c.by, vmm.TagTemplate{Ref: c.ref, Of: c.of, Tags: []string{"x"}}); !errors.HasCode(err, c.want) {
			t.Errorf("%s of %s: %v, want %s", c.ref, c.of, err, c.want)
		}
	}
	_, err = b.TagTemplate(b.ctx, b.by, vmm.TagTemplate{Ref: builds[2].String(), Of: "app", Tags: []string{"x"}})
	if e := errors.Public(err); e.Field != "build" || e.Message != fmt.Sprintf("the build %s is not one of the template %q", builds[2], "app") {
		t.Errorf("%+v", e)
	}
	for name, want := range map[string]map[string]domain.ID{
		"app": {"latest": builds[0], "V1": builds[0], "v2": builds[1]}, "other": {"latest": builds[2]},
	} {
		if got, err := b.GetTemplate(b.ctx, b.by, name); err != nil || !maps.Equal(got.Template.Tags, want) {
			t.Errorf("%s: %v, want %v (%v)", name, got.Template.Tags, want, err)
		}
	}
}
