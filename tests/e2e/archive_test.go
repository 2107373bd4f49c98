package e2e

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/pkg/client"
)

// What ended long ago is in an archive when it is nowhere else any more, also where
// the server was killed meanwhile.
func TestWhatEndedLongAgoIsArchived(t *testing.T) {
	t.Parallel()
	s := own(t, "AETHERIUM_KEEP_TOMBSTONES=1s", "AETHERIUM_KEEP_TASKS=1s")
	c, err := s.Client()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx := limited(t)
	vm, err := c.CreateVM(ctx, api.CreateVM{Name: "old", Network: "none", Env: map[string]string{"TOKEN": "hidden"}})
	if err != nil {
		t.Fatal(err)
	}
	ran, err := c.Execute(ctx, vm.ID, api.Execute{Command: api.Command{Command: "echo done; exit 3"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.DeleteVM(ctx, vm.ID); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Kill(), s.Start(ctx)); err != nil {
		t.Fatal(err)
	}
	if c, err = s.Client(); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var records []api.ArchivedRecord
	of := func(kind string) int {
		return slices.IndexFunc(records, func(r api.ArchivedRecord) bool {
			return r.Kind == kind && (kind != api.ArchivedVM || r.VM.ID == vm.ID) && (kind != api.ArchivedExecution || r.Execution.ID == ran.Execution.ID)
		})
	}
	for of(api.ArchivedVM) < 0 {
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			t.Fatalf("not archived: %+v", records)
		}
		records = nil
		for a, err := range c.Archives(ctx, client.Page{}) {
			if err != nil {
				t.Fatal(err)
			}
			r, err := c.ReadArchive(ctx, a.ID)
			if err != nil {
				t.Fatal(err)
			}
			for lines := json.NewDecoder(r); lines.More(); {
				var rec api.ArchivedRecord
				if err := lines.Decode(&rec); err != nil {
					t.Fatal(err)
				}
				records = append(records, rec)
			}
			_ = r.Close()
		}
	}
	if got := records[of(api.ArchivedVM)].VM; got.Name != "old" || got.State != "deleted" || got.EndedAt == nil {
		t.Errorf("the VM is %+v", got)
	}
	if i := of(api.ArchivedExecution); i < 0 {
		t.Errorf("the execution is not archived: %+v", records)
	} else if got := records[i].Execution; got.ExitCode == nil || *got.ExitCode != 3 || got.OutputBytes != 5 || !slices.Contains(got.Args, "echo done; exit 3") {
		t.Errorf("the execution is %+v", got)
	}
	if _, err := c.VM(ctx, vm.ID); !errors.HasCode(err, errors.NotFound) {
		t.Errorf("the VM is there: %v", err)
	}
	if _, err := c.Execution(ctx, ran.Execution.ID); !errors.HasCode(err, errors.NotFound) {
		t.Errorf("the execution is there: %v", err)
	}
}
