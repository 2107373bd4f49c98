package storage

import (
	"context"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// Projects is the table of projects.
type Projects interface {
	// Get returns NotFound.
	Get(ctx context.Context, id domain.ID) (*domain.Project, error)
	// ByName returns NotFound.
	ByName(ctx context.Context, name string) (*domain.Project, error)
	// Insert returns AlreadyExists for the ID or the name.
	Insert(ctx context.Context, p *domain.Project) error
	// First gives the oldest project, which is the operator's own. Returns NotFound.
	First(ctx context.Context) (*domain.Project, error)
	// Rename returns AlreadyExists, NotFound.
	Rename(ctx context.Context, id domain.ID, name string) error
	// DeletePast removes at most limit rows of what was and ended in a project, and
	// tells how many: fewer were the last.
	DeletePast(ctx context.Context, id domain.ID, limit int) (int, error)
	// Delete removes a project and every row of it, however many there are: those
	// of its past are for the caller to remove first, and what rows stand for on
	// nodes. Returns Conflict while a VM of it is not deleted or another project
	// uses one of its builds, NotFound.
	Delete(ctx context.Context, id domain.ID) error
	List(ctx context.Context, p Page) (List[*domain.Project], error)
}

// Sign is what a worker is told when it gives a sign of life.
type Sign struct {
	State    domain.WorkerState // as others see it
	Cordoned bool
	Drain    *time.Duration // until its drain ends VMs, 0 or less: now; nil: it is not drained
	Moving   bool           // its VMs move away. Only with Drain
}

// WorkersVersion is another one whenever a worker has joined or left, or its row
// was changed. Signs of life change nothing.
type WorkersVersion struct {
	Workers   int
	Revisions int64 // summed
}

// VersionOf is the version of workers that were all read.
func VersionOf(all []*domain.Worker) WorkersVersion {
	v := WorkersVersion{Workers: len(all)}
	for _, w := range all {
		v.Revisions += w.Revision
	}
	return v
}

// Workers is the table of workers. Reserved and the numbers of VMs and of tasks
// are sums, which the database keeps by itself as what they sum is written.
type Workers interface {
	// Get returns NotFound.
	Get(ctx context.Context, id domain.ID) (*domain.Worker, error)
	// ByName returns NotFound.
	ByName(ctx context.Context, name string) (*domain.Worker, error)
	// Insert returns AlreadyExists for the ID or the name.
	Insert(ctx context.Context, w *domain.Worker) error
	// State is Get for who needs nothing else. Returns NotFound.
	State(ctx context.Context, id domain.ID) (domain.WorkerState, error)
	// Update writes everything but ID, times of joining and of the last sign of
	// life. Returns Conflict when changed meanwhile, NotFound.
	Update(ctx context.Context, w *domain.Worker) error
	// Seen notes a sign of life at the database's present time, and tells what is
	// wanted of the worker. It changes neither state nor revision. Returns NotFound.
	Seen(ctx context.Context, id domain.ID) (Sign, error)
	// Silent lists workers that are not away and gave no sign for longer than a
	// time, by the database's clock.
	Silent(ctx context.Context, since time.Duration) ([]domain.ID, error)
	// Away makes a worker away that Silent would list, and reports whether it did.
	Away(ctx context.Context, id domain.ID, since time.Duration) (bool, error)
	// Clock is the database's present time.
	Clock(ctx context.Context) (time.Time, error)
	// Delete returns Conflict while VMs or machines are placed there, NotFound.
	Delete(ctx context.Context, id domain.ID) error
	// All lists workers by name, without what is summed.
	All(ctx context.Context) ([]*domain.Worker, error)
	// Count reads what the VMs of workers may use, and the numbers of VMs and of
	// tasks, and tells the version of all rows, if there is a worker to be counted.
	// Machines of the warm pool are promised to nobody and do not count. Disk
	// counts until a VM is deleted; CPU, memory and PIDs count unless it is
	// failed, or stopped and not wanted otherwise, or paused with its memory
	// saved and not wanted otherwise. What rests in the storage holds nothing, and is
	// not there.
	Count(ctx context.Context, ws ...*domain.Worker) (WorkersVersion, error)
}

// Member gives the row of a worker that is one of the installation.
// Returns NotFound for one that was removed, or is being removed.
func Member(ctx context.Context, tx Tx, id domain.ID) (*domain.Worker, error) {
	w, err := tx.Workers().Get(ctx, id)
	if err == nil {
		if _, err = tx.Settings().Get(ctx, SettingRemoved(id)); errors.HasCode(err, errors.NotFound) {
			return w, nil
		}
	}
	if err == nil || errors.HasCode(err, errors.NotFound) {
		err = errors.Wrap(err, errors.NotFound, "the worker %s is not one of this installation any more", id).
			WithHint("have it join again, with another data directory")
	}
	return nil, err
}

// JoinTokens is the table of the tokens by which workers join.
type JoinTokens interface {
	// ByHash returns NotFound.
	ByHash(ctx context.Context, hash [32]byte) (*domain.JoinToken, error)
	// Insert returns AlreadyExists.
	Insert(ctx context.Context, t *domain.JoinToken) error
	// Use notes which worker, with which key, has joined by a token. Returns
	// Conflict when one has already, NotFound.
	Use(ctx context.Context, id, worker domain.ID, key [32]byte, at time.Time) error
	// Delete returns NotFound.
	Delete(ctx context.Context, id domain.ID) error
	List(ctx context.Context, p Page) (List[*domain.JoinToken], error)
	// DeleteExpired removes at most limit tokens, used or not, that expired before a time.
	DeleteExpired(ctx context.Context, before time.Time, limit int) (int, error)
}

// TaskFilter narrows a list of tasks. Zero fields do not filter.
type TaskFilter struct {
	ProjectID domain.ID
	Kind      string
	Subject   domain.ID
	WorkerID  domain.ID
	GroupID   domain.ID
	States    []domain.TaskState // any of them
	Page
}

// Tasks is the table of tasks. Lists are without what a run does and its result:
// a run is read by Get before it is updated.
type Tasks interface {
	// Get returns NotFound.
	Get(ctx context.Context, project, id domain.ID) (*domain.Task, error)
	// Insert returns AlreadyExists, NotFound for the project.
	Insert(ctx context.Context, t *domain.Task) error
	// Update writes everything but ID, project, kind, subject, arguments, name,
	// group, what it does and creation time. Returns Conflict when changed
	// meanwhile, NotFound.
	Update(ctx context.Context, t *domain.Task) error
	List(ctx context.Context, f TaskFilter) (List[*domain.Task], error)
	// Runnable lists pending tasks whose time has come, earliest first.
	Runnable(ctx context.Context, now time.Time, limit int) ([]*domain.Task, error)
	// Running lists running tasks, longest unchanged first: after a crash
	// these are the interrupted ones.
	Running(ctx context.Context, limit int) ([]*domain.Task, error)
	// RunningOf lists all running tasks of a kind, longest unchanged first.
	RunningOf(ctx context.Context, kind string) ([]*domain.Task, error)
	// Wait notes that a task comes after others of its project. Returns NotFound
	// for one that is not there.
	Wait(ctx context.Context, project, id domain.ID, after []domain.ID) error
	// After lists the tasks that one comes after.
	After(ctx context.Context, project, id domain.ID) ([]*domain.Task, error)
	// Waiting lists pending tasks that come after one, oldest first.
	Waiting(ctx context.Context, project, id domain.ID, limit int) ([]*domain.Task, error)
	// Ready lists pending tasks of a kind whose time has come and that come after
	// none that has not ended, oldest first; of a project, or of any.
	Ready(ctx context.Context, kind string, project domain.ID, now time.Time, limit int) ([]*domain.Task, error)
	// ReadyProjects lists the projects that have pending tasks of a kind whose time
	// has come, be it that they come after others that have not ended.
	ReadyProjects(ctx context.Context, kind string, now time.Time) ([]domain.ID, error)
	// CountRunning counts a project's running tasks of a kind.
	CountRunning(ctx context.Context, kind string, project domain.ID) (int, error)
	// CountOpen counts a project's tasks of a kind that have not ended.
	CountOpen(ctx context.Context, kind string, project domain.ID) (int, error)
	// CountGroup counts a group's tasks by state.
	CountGroup(ctx context.Context, project, group domain.ID) (map[domain.TaskState]int, error)
	// Ended lists at most limit tasks that ended before a time, longest ended first:
	// without what they were to do, and without long results. One that another waits for
	// is not among them.
	Ended(ctx context.Context, before time.Time, limit int) ([]*domain.Task, error)
	// Delete removes those of some tasks, at most MaxPage, that have ended and that no other
	// waits for, and returns them as Ended does.
	Delete(ctx context.Context, these ...*domain.Task) ([]*domain.Task, error)
}

// EventFilter narrows a read of the outbox. Zero fields do not filter.
type EventFilter struct {
	ProjectID domain.ID
	VMID      domain.ID
	After     int64 // cursor: events with a greater Seq
	Limit     int   // 1..1000; 0: 100
}

// Outbox holds events, written in the transaction of what they tell.
type Outbox interface {
	// Append writes events as they are now, and sets their Seq before the
	// transaction has ended.
	Append(ctx context.Context, es ...*domain.Event) error
	// List reads events in commit order.
	List(ctx context.Context, f EventFilter) ([]domain.Event, error)
	// Bounds gives the cursors of the oldest kept and the newest event; a
	// reader whose cursor is below oldest-1 may have missed events. Both are 0
	// before the first event.
	Bounds(ctx context.Context) (oldest, newest int64, err error)
	// DeleteBefore removes at most limit events that are older than a time,
	// never the newest.
	DeleteBefore(ctx context.Context, before time.Time, limit int) (int, error)
}

// UsageFilter narrows a read of usage. Zero fields do not filter; To is exclusive.
type UsageFilter struct {
	ProjectID domain.ID
	VMID      domain.ID
	From, To  time.Time // spans that begin in [From, To)
}

// UsageRows is what VMs used, by span of time. Rows outlive their VM.
type UsageRows interface {
	// Record writes spans; a span with the VM and beginning of a stored one replaces it.
	Record(ctx context.Context, us ...domain.Usage) error
	// List returns at most limit spans by beginning.
	List(ctx context.Context, f UsageFilter, limit int) ([]domain.Usage, error)
	// Sum adds spans up: From and To are the outermost, DiskBytes the newest of each VM summed.
	Sum(ctx context.Context, f UsageFilter) (domain.Usage, error)
	// DeleteBefore removes at most limit spans that ended before a time.
	DeleteBefore(ctx context.Context, before time.Time, limit int) (int, error)
}
