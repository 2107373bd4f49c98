// Package events names what can happen and makes the events that are written
// into the outbox in the transaction of what they tell.
package events

import (
	"encoding/json"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// The event types. They are part of the API: never renamed.
const (
	VMCreated = "vm.created" // the wish is durable
	VMUpdated = "vm.updated" // a wish, a time or metadata changed
	VMRunning = "vm.running"
	VMPaused  = "vm.paused"
	VMStopped = "vm.stopped"
	VMFailed  = "vm.failed"
	VMDeleted = "vm.deleted"

	VMUnreachable = "vm.unreachable" // its worker is away: it may well run
	VMReachable   = "vm.reachable"   // its worker is back, and it is what it was

	ExecutionStarted = "execution.started"
	ExecutionExited  = "execution.exited"
	ExecutionLost    = "execution.lost"

	SnapshotCreated = "snapshot.created"
	SnapshotDeleted = "snapshot.deleted"

	BuildStarted = "template.build.started"
	BuildReady   = "template.build.ready"
	BuildFailed  = "template.build.failed"

	TaskCreated   = "task.created"
	TaskUpdated   = "task.updated"
	TaskSucceeded = "task.succeeded"
	TaskFailed    = "task.failed"
	TaskCanceled  = "task.canceled"
)

// VMPayload is the data of the vm.* events.
type VMPayload struct {
	Name    string               `json:"name,omitempty"`
	State   domain.ObservedState `json:"state"`
	Desired domain.DesiredState  `json:"desired_state"`
	Epoch   int64                `json:"epoch"`
	Reason  string               `json:"reason,omitempty"`
	Cause   domain.Cause         `json:"cause,omitempty"`
}

// ExecutionPayload is the data of the execution.* events.
type ExecutionPayload struct {
	State       domain.ExecutionState `json:"state"`
	ExitCode    *int                  `json:"exit_code,omitempty"`
	Signal      int                   `json:"signal,omitempty"`
	OutputBytes int64                 `json:"output_bytes"`
	LostReason  string                `json:"lost_reason,omitempty"`
}

// SnapshotPayload is the data of the snapshot.* events.
type SnapshotPayload struct {
	Name  string `json:"name,omitempty"`
	Bytes int64  `json:"bytes"`
}

// BuildPayload is the data of the template.build.* events.
type BuildPayload struct {
	TemplateID domain.ID         `json:"template_id"`
	State      domain.BuildState `json:"state"`
	Reason     string            `json:"reason,omitempty"`
}

// TaskPayload is the data of the task.* events.
type TaskPayload struct {
	Kind    string            `json:"kind"`
	State   domain.TaskState  `json:"state"`
	Subject domain.ID         `json:"subject,omitempty"`
	Error   *domain.TaskError `json:"error,omitempty"`
}

// VM makes an event about a VM.
func VM(kind string, vm *domain.VM, at time.Time) *domain.Event {
	p := VMPayload{Name: vm.Name, State: vm.Observed, Desired: vm.Desired, Epoch: vm.Epoch, Reason: vm.Reason}
	if vm.Tombstone != nil {
		p.Cause = vm.Tombstone.Cause
	}
	return event(kind, vm.ProjectID, vm.ID, vm.ID, p, at)
}

// VMReach makes the event that tells whether a VM's worker is there.
func VMReach(vm *domain.VM, at time.Time) *domain.Event {
	if vm.State() != domain.Unreachable {
		return VM(VMReachable, vm, at)
	}
	told := *vm
	told.Observed = domain.Unreachable
	return VM(VMUnreachable, &told, at)
}

// Execution makes an event about an execution.
func Execution(kind string, x *domain.Execution, at time.Time) *domain.Event {
	return event(kind, x.ProjectID, x.ID, x.VMID, ExecutionPayload{
		State: x.State, ExitCode: x.ExitCode, Signal: x.Signal, OutputBytes: x.OutputBytes, LostReason: x.LostReason,
	}, at)
}

// Snapshot makes an event about a snapshot.
func Snapshot(kind string, s *domain.Snapshot, at time.Time) *domain.Event {
	return event(kind, s.ProjectID, s.ID, s.VMID, SnapshotPayload{Name: s.Name, Bytes: s.Bytes}, at)
}

// Build makes an event about a template build.
func Build(kind string, b *domain.Build, at time.Time) *domain.Event {
	return event(kind, b.ProjectID, b.ID, "", BuildPayload{TemplateID: b.TemplateID, State: b.State, Reason: b.Reason}, at)
}

// Task makes an event about a task.
func Task(kind string, t *domain.Task, at time.Time) *domain.Event {
	return event(kind, t.ProjectID, t.ID, "", TaskPayload{Kind: t.Kind, State: t.State, Subject: t.Subject, Error: t.Error}, at)
}

// TaskKind is the event type that tells of a task's state.
func TaskKind(s domain.TaskState) string {
	switch s {
	case domain.TaskSucceeded:
		return TaskSucceeded
	case domain.TaskFailed:
		return TaskFailed
	case domain.TaskCanceled:
		return TaskCanceled
	}
	return TaskUpdated
}

func event(kind string, project, subject, vm domain.ID, payload any, at time.Time) *domain.Event {
	data, err := json.Marshal(payload)
	if err != nil {
		panic(err) // the payloads are ours and marshal
	}
	return &domain.Event{ProjectID: project, Type: kind, Subject: subject, VMID: vm, Data: data, At: at}
}
