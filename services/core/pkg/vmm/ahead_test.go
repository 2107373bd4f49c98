package vmm_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

func TestAhead(t *testing.T) {
	t.Parallel()
	project, id, execution := domain.NewID(), domain.NewID(), domain.NewID()
	row := &domain.VM{ID: id, ProjectID: project}
	for name, tc := range map[string]struct {
		project, vm, execution domain.ID
		used                   bool
		after                  time.Duration
		want                   bool
	}{
		"the VM":                        {project: project, vm: id, want: true},
		"with the execution":            {project: project, vm: id, execution: execution, want: true},
		"with one that was started":     {project: project, vm: id, execution: execution, used: true},
		"the VM, whatever was started":  {project: project, vm: id, used: true, want: true},
		"with another execution":        {project: project, vm: id, execution: domain.NewID()},
		"in another project":            {project: domain.NewID(), vm: id},
		"in every project":              {vm: id},
		"another VM":                    {project: project, vm: domain.NewID()},
		"when the body is long to come": {project: project, vm: id, after: 200 * time.Millisecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			a := vmm.AheadOf(vmm.WithAhead(t.Context(), id, execution))
			if vm, x, ok := a.Begin(); vm != id || x != execution || !ok {
				t.Errorf("%s: it is about %s, %s, %v", name, vm, x, ok)
			}
			if _, _, ok := a.Begin(); ok {
				t.Errorf("%s: it is read twice", name)
			}
			a.Found(row, tc.used)
			time.Sleep(tc.after)
			if got := a.Take(tc.project, tc.vm, tc.execution); (got == row) != tc.want {
				t.Errorf("%s: %v", name, got)
			}
			if got := a.Take(project, id, ""); got != nil {
				t.Errorf("%s: it is given twice", name)
			}
		})
	}
	none := vmm.AheadOf(context.Background())
	if _, _, ok := none.Begin(); ok || none.Take(project, id, "") != nil {
		t.Error("a request about nothing is about something")
	}
}
