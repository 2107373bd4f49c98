package events_test

import (
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/libs/types/pkg/events"
)

// Every type that exists can be made from a domain value and decoded again.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
	code := 3
	vm := &domain.VM{
		ID: domain.NewID(), ProjectID: domain.NewID(), Name: "a", Observed: domain.Deleted, Desired: domain.WantDeleted, Epoch: 2,
		Tombstone: &domain.Tombstone{Cause: domain.CauseIdle, By: "worker"}, EnvSealed: []byte("never"), Metadata: map[string]string{"k": "never"},
	}
	exec := &domain.Execution{ID: domain.NewID(), ProjectID: vm.ProjectID, VMID: vm.ID, ExitCode: &code, OutputBytes: 7, Command: domain.Command{Args: []string{"never"}}}
	snap := &domain.Snapshot{ID: domain.NewID(), ProjectID: vm.ProjectID, VMID: vm.ID, Name: "s", Kind: domain.SnapshotDisk, Bytes: 9, EnvSealed: []byte("never")}
	build := &domain.Build{ID: domain.NewID(), ProjectID: vm.ProjectID, TemplateID: domain.NewID(), State: domain.BuildError, Reason: "no disk"}
	task := &domain.Task{ID: domain.NewID(), ProjectID: vm.ProjectID, Kind: "vm.create", Subject: vm.ID, State: domain.TaskFailed, Args: []byte(`"never"`), Error: &domain.TaskError{Code: "x", Message: "y"}}
	worker := &domain.Worker{ID: domain.NewID(), Name: "host", State: domain.WorkerAway}

	for _, kind := range events.Types() {
		var e *domain.Event
		switch family, _, _ := strings.Cut(kind, "."); family {
		case "vm":
			e = events.VM(kind, vm, at)
		case "execution":
			e = events.Execution(kind, exec, at)
		case "snapshot":
			e = events.Snapshot(kind, snap, at)
		case "template":
			e = events.Build(kind, build, at)
		case "task":
			e = events.Task(kind, task, at)
		case "worker":
			e = events.Worker(kind, worker, at)
		}
		if e == nil || e.Type != kind || e.Subject == "" || !e.At.Equal(at) {
			t.Fatalf("%s: made %+v", kind, e)
		}
		if strings.Contains(string(e.Data), "never") {
			t.Errorf("%s: carries what events must not: %s", kind, e.Data)
		}
		p, err := events.Decode(*e)
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		ok := false
		switch d := p.(type) {
		case events.VMPayload:
			ok = d.Cause == domain.CauseIdle && d.State == domain.Deleted && e.VMID == vm.ID
		case events.ExecutionPayload:
			ok = d.ExitCode != nil && *d.ExitCode == 3 && d.OutputBytes == 7 && e.VMID == vm.ID
		case events.SnapshotPayload:
			ok = d.Bytes == 9 && d.Name == "s" && e.VMID == vm.ID
		case events.BuildPayload:
			ok = d.TemplateID == build.TemplateID && d.Reason == "no disk"
		case events.TaskPayload:
			ok = d.Error != nil && d.Error.Code == "x" && d.Kind == "vm.create"
		case events.WorkerPayload:
			ok = d.Name == "host" && e.ProjectID == ""
		}
		if !ok {
			t.Errorf("%s: decoded %T %+v", kind, p, p)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	if _, err := events.Decode(domain.Event{Type: "vm.exploded", Data: []byte("{}")}); !errors.HasCode(err, errors.Unsupported) {
		t.Errorf("unknown type: %v", err)
	}
	if _, err := events.Decode(domain.Event{Type: events.VMCreated, Data: []byte("{")}); !errors.HasCode(err, errors.Internal) {
		t.Errorf("damaged data: %v", err)
	}
}

func TestTaskKind(t *testing.T) {
	t.Parallel()
	for state, want := range map[domain.TaskState]string{
		domain.TaskPending: events.TaskUpdated, domain.TaskRunning: events.TaskUpdated, domain.TaskSucceeded: events.TaskSucceeded,
		domain.TaskFailed: events.TaskFailed, domain.TaskCanceled: events.TaskCanceled,
	} {
		if got := events.TaskKind(state); got != want {
			t.Errorf("%s: got %q, want %q", state, got, want)
		}
	}
}
