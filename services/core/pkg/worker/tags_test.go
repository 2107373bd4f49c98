package worker_test

import (
	"fmt"
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
		if _, err := b.TagTemplate(b.ctx, b.by, ref, tags); err != nil {
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
		if _, err := b.TagTemplate(b.ctx, c.by, c.ref, c.tags); !errors.HasCode(err, c.want) {
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
		_, err = b.TagTemplate(b.ctx, b.by, "app", tags)
	}
	if !errors.HasCode(err, errors.Conflict) {
		t.Errorf("tags without end: %v", err)
	}
	if list, err := b.TemplateTags(b.ctx, b.by, "app"); err != nil || len(list) > 256 {
		t.Errorf("%d tags, %v", len(list), err)
	}
}
