package gateway_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/pkg/queue"
	"github.com/aetherium/aetherium/services/core/pkg/queue/memory"
	"github.com/aetherium/aetherium/services/gateway/pkg/gateway"
)

// chore is a job that cannot be done before it is told to.
type chore struct{}

func (chore) Kind() string { return "chore" }

// Administrators see the server's jobs, and let those that are dead run again
// or forget them; whoever does is in the audit log.
func TestJobs(t *testing.T) {
	t.Parallel()
	q := memory.New(1, nil, slog.New(slog.DiscardHandler))
	inside, can := make(chan string), make(chan error)
	queue.On(q, func(_ context.Context, _ chore, job queue.Job) error {
		inside <- job.ID
		return <-can
	})
	if err := q.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := q.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	l := newLab(t, recorded(t), func(_ *gateway.Config, d *gateway.Deps) { d.Queue = q })
	for _, key := range []string{"a", "b", "c"} {
		if err := q.Enqueue(t.Context(), chore{}, queue.Options{Key: key, Tenant: string(l.project)}); err != nil {
			t.Fatal(err)
		}
	}
	first := <-inside
	if n := get[wire.Queue](l, 200, req{method: "GET", path: "/queue"}); n != (wire.Queue{Waiting: 2, Running: 1}) {
		t.Errorf("%+v", n)
	}
	jobs := func(query string) []wire.Job {
		t.Helper()
		return get[wire.List[wire.Job]](l, 200, req{method: "GET", path: "/queue/jobs" + query}).Items
	}
	if all := jobs("?limit=2"); len(all) != 2 || all[0].State != "waiting" || all[0].Subject != "b" || all[1].Subject != "c" {
		t.Errorf("%+v", all)
	}
	if all := jobs(""); len(all) != 3 || all[2].ID != first || all[2].State != "running" || all[2].ProjectID != l.project.String() || all[2].Attempt != 1 {
		t.Errorf("%+v", all)
	}
	hopeless := queue.Cancel(errors.Plain("hopeless"))
	can <- hopeless
	second := <-inside
	can <- hopeless
	<-inside
	can <- nil
	l.problem(403, errors.PermissionDenied, req{method: "POST", path: "/queue/jobs/" + first + "/retry", key: l.user})
	l.want(204, req{method: "POST", path: "/queue/jobs/" + first + "/retry"})
	if again := <-inside; again != first {
		t.Errorf("%s runs again, want %s", again, first)
	}
	if dead := jobs("?state=dead"); len(dead) != 1 || dead[0].ID != second || dead[0].Error != "hopeless" {
		t.Errorf("%+v", dead)
	}
	for _, r := range []req{{method: "POST", path: "/queue/jobs/" + first + "/retry"}, {method: "DELETE", path: "/queue/jobs/" + first}} {
		if p := l.problem(404, errors.NotFound, r); !strings.Contains(p.Detail, "no dead job") {
			t.Errorf("%+v", p)
		}
	}
	can <- nil
	l.want(204, req{method: "DELETE", path: "/queue/jobs/" + second})
	if dead := jobs("?state=dead"); len(dead) != 0 {
		t.Errorf("%+v", dead)
	}
	for _, query := range []string{"?state=gone", "?limit=0", "?limit=1001", "?limit=x"} {
		l.problem(400, errors.InvalidArgument, req{method: "GET", path: "/queue/jobs" + query})
	}
	done := map[string]string{}
	for _, r := range l.records("") {
		if r.Status == 204 {
			done[r.Operation] = r.SubjectKind + " " + r.SubjectID
		}
	}
	if len(done) != 2 || done["retry-job"] != "job "+first || done["delete-job"] != "job "+second {
		t.Errorf("recorded: %q", done)
	}
}

func TestNoJobsAreShown(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	for _, path := range []string{"/queue", "/queue/jobs"} {
		l.problem(403, errors.PermissionDenied, req{method: "GET", path: path, key: l.user})
		if p := l.problem(422, errors.Unsupported, req{method: "GET", path: path}); !strings.Contains(p.Detail, "shows no jobs") {
			t.Errorf("%+v", p)
		}
	}
}
