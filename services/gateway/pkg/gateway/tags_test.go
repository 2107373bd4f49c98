package gateway_test

import (
	"fmt"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
)

func TestTemplateTags(t *testing.T) {
	t.Parallel()
	l := newLab(t, recorded(t))
	build := func(name string) {
		t.Helper()
		l.want(202, req{method: "POST", path: "/templates", key: l.user, body: `{"name":"` + name + `","source":{"image":"a"}}`})
	}
	shown := func(name string) wire.Template {
		t.Helper()
		return get[wire.Template](l, 200, req{method: "GET", path: "/templates/" + name, key: l.user})
	}
	build("app")
	first := shown("app").Builds[0].ID
	build("app")
	second := shown("app").Builds[0].ID
	build("other")
	foreign := shown("other").Builds[0].ID
	set := func(name, tag string, body any) req {
		return req{method: "PUT", path: "/templates/" + name + "/tags/" + tag, key: l.user, body: body}
	}
	if got := get[wire.TemplateTag](l, 200, set("app", "v1", wire.TagTemplate{Build: first})); got != (wire.TemplateTag{Tag: "v1", BuildID: first}) {
		t.Errorf("%+v", got)
	}
	for range 2 { // what is done is no error
		get[wire.TemplateTag](l, 200, set("app", "Stable", wire.TagTemplate{Tag: "latest"}))
	}
	get[wire.TemplateTag](l, 200, set("app", "latest", wire.TagTemplate{Tag: "v1"}))
	if got, want := shown("app").Tags, (map[string]string{"v1": first, "Stable": second, "latest": first}); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", got, want)
	}

	if p := l.problem(400, errors.InvalidArgument, set("app", "v2", wire.TagTemplate{Build: foreign})); p.Field != "build" || p.Detail != "the build "+foreign+` is not one of the template "app"` {
		t.Errorf("%+v", p)
	}
	for _, body := range []string{
		`{}`, `{"build":"` + first + `","tag":"v1"}`, `{"build":"v1"}`, `{"tag":"a/b"}`, `{"tag":"v1","more":1}`, `"v1"`,
	} {
		l.problem(400, errors.InvalidArgument, set("app", "v2", body))
	}
	l.problem(400, errors.InvalidArgument, set("app", "a%2Fb", wire.TagTemplate{Tag: "v1"}))
	l.problem(404, errors.NotFound, set("app", "v2", wire.TagTemplate{Tag: "none"}))
	l.problem(404, errors.NotFound, set("none", "v2", wire.TagTemplate{Tag: "latest"}))
	l.problem(404, errors.NotFound, set("base", "v2", wire.TagTemplate{Tag: "latest"})) // others' is not to be changed

	del := func(tag string) req {
		return req{method: "DELETE", path: "/templates/app/tags/" + tag, key: l.user}
	}
	theirs, deletion := set("app", "v1", wire.TagTemplate{Build: second}), del("v1")
	theirs.key, deletion.key = l.other, l.other
	l.problem(404, errors.NotFound, theirs)
	l.problem(404, errors.NotFound, deletion)
	l.want(204, del("v1"))
	l.problem(404, errors.NotFound, del("v1"))
	l.problem(400, errors.InvalidArgument, del("latest"))
	if got, want := shown("app").Tags, (map[string]string{"Stable": second, "latest": first}); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", got, want)
	}

	// The log has which tag of which template.
	got := map[string]int{}
	for _, r := range l.records("subject=" + "app:v1") {
		got[fmt.Sprint(r.Operation, " ", r.SubjectKind, " ", r.Status)]++
	}
	if want := (map[string]int{"tag-template template 200": 1, "tag-template template 404": 1, "untag-template template 404": 2, "untag-template template 204": 1}); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", got, want)
	}
}
