package gateway_test

import (
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
)

func TestQuota(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.vm()
	own := get[wire.Quota](l, 200, req{method: "GET", path: "/quota", key: l.user})
	if own.ProjectID != l.project.String() || own.Use.VMs != 1 || own.Limits.VMs != 0 || own.Override.VMs != nil {
		t.Errorf("%+v", own)
	}
	path := "/projects/" + l.project.String() + "/quota"
	l.problem(403, errors.PermissionDenied, req{method: "PUT", path: path, key: l.user, body: `{"vms":9}`})
	l.problem(404, errors.NotFound, req{method: "GET", path: path, key: l.other})
	set := get[wire.Quota](l, 200, req{method: "PUT", path: path, body: `{"vms":9,"disk_bytes":0}`})
	if set.Limits.VMs != 9 || set.Override.VMs == nil || *set.Override.DiskBytes != 0 || set.Override.MilliCPU != nil {
		t.Errorf("%+v", set)
	}
	if seen := get[wire.Quota](l, 200, req{method: "GET", path: path, key: l.user}); seen.Limits.VMs != 9 {
		t.Errorf("%+v", seen)
	}
	for _, body := range []string{`{"vms":-1}`, `{"vms":1.5}`, `{"vms":"9"}`, `{"vms":9223372036854775807}`, `{"bogus":1}`, `[]`, ``} {
		l.problem(400, errors.InvalidArgument, req{method: "PUT", path: path, body: body})
	}
}
