package gateway_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// Archives are listed, and read as they are; by their own project alone.
func TestArchives(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	const record = `{"kind":"execution","execution":{"id":"x"}}` + "\n"
	id := l.core.Archive(l.project, record+record).String()
	foreign := l.core.Archive(domain.NewID(), record).String()
	list := get[wire.List[wire.Archive]](l, 200, req{method: "GET", path: "/archives"})
	if len(list.Items) != 1 || list.Items[0].ID != id || list.Items[0].Executions != 1 || list.Items[0].SizeBytes != 7 || list.Items[0].LastEndedAt.IsZero() {
		t.Fatalf("%+v", list)
	}
	resp, body := l.do(req{method: "GET", path: "/archives/" + id})
	if resp.StatusCode != http.StatusOK || string(body) != record+record || !strings.HasPrefix(resp.Header.Get("Content-Type"), "application/x-ndjson") {
		t.Errorf("%d, %q as %s", resp.StatusCode, body, resp.Header.Get("Content-Type"))
	}
	l.problem(404, errors.NotFound, req{method: "GET", path: "/archives/" + foreign})
	l.problem(400, errors.InvalidArgument, req{method: "GET", path: "/archives/x"})
	l.problem(401, errors.Unauthenticated, req{method: "GET", path: "/archives", key: "none"})
}
