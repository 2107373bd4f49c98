package events

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// The event types about workers. They belong to no project.
const (
	WorkerJoined   = "worker.joined"
	WorkerReady    = "worker.ready"
	WorkerCordoned = "worker.cordoned"
	WorkerAway     = "worker.away"
	WorkerRemoved  = "worker.removed" // and with it what it had
)

// WorkerPayload is the data of the worker.* events.
type WorkerPayload struct {
	Name    string             `json:"name"`
	State   domain.WorkerState `json:"state"`
	Version string             `json:"version,omitempty"`
	DrainAt *time.Time         `json:"drain_at,omitempty"` // it is drained, and ends what is left then
}

// Worker makes an event about a worker.
func Worker(kind string, w *domain.Worker, at time.Time) *domain.Event {
	return event(kind, "", w.ID, "", WorkerPayload{Name: w.Name, State: w.State, Version: w.Version, DrainAt: w.DrainAt}, at)
}

// WorkerState makes the event that tells of a worker's state.
func WorkerState(w *domain.Worker, at time.Time) *domain.Event {
	return Worker("worker."+string(w.State), w, at)
}

// Types lists every event type.
func Types() []string {
	return []string{
		VMCreated, VMUpdated, VMRunning, VMPaused, VMStopped, VMFailed, VMDeleted, VMUnreachable, VMReachable,
		ExecutionStarted, ExecutionExited, ExecutionLost,
		SnapshotCreated, SnapshotDeleted,
		BuildStarted, BuildReady, BuildFailed,
		TaskCreated, TaskUpdated, TaskSucceeded, TaskFailed, TaskCanceled,
		WorkerJoined, WorkerReady, WorkerCordoned, WorkerAway, WorkerRemoved,
	}
}

// OfProjects lists the types of the events that belong to projects.
func OfProjects() []string {
	return slices.DeleteFunc(Types(), func(kind string) bool { return strings.HasPrefix(kind, "worker.") })
}

// Known reports whether kind is an event type.
func Known(kind string) bool { return slices.Contains(Types(), kind) }

// Payload is the data of an event: one of the payload types by value. The
// part of the type before the first dot decides which.
type Payload interface {
	VMPayload | ExecutionPayload | SnapshotPayload | BuildPayload | TaskPayload | WorkerPayload
}

// Decode gives an event's data as the payload type of its family, by value.
// Returns Unsupported for event types that this program does not know.
func Decode(e domain.Event) (any, error) {
	family, _, _ := strings.Cut(e.Type, ".")
	if !Known(e.Type) {
		family = ""
	}
	switch family {
	case "vm":
		return decode[VMPayload](e)
	case "execution":
		return decode[ExecutionPayload](e)
	case "snapshot":
		return decode[SnapshotPayload](e)
	case "template":
		return decode[BuildPayload](e)
	case "task":
		return decode[TaskPayload](e)
	case "worker":
		return decode[WorkerPayload](e)
	}
	return nil, errors.New(errors.Unsupported, "event type %q is not known", e.Type)
}

func decode[P Payload](e domain.Event) (any, error) {
	var p P
	if err := json.Unmarshal(e.Data, &p); err != nil {
		return nil, errors.Wrap(err, errors.Internal, "the data of event %d is damaged", e.Seq)
	}
	return p, nil
}
