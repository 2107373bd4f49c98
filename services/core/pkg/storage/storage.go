package storage

import (
	"context"

	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// System is the zero project: the caller is the system itself and sees every
// project's things.
const System = ""

// Store runs transactions. It is safe for concurrent use.
type Store interface {
	// View runs f in a read-only transaction on one consistent state.
	View(ctx context.Context, f func(Tx) error) error
	// Read is View for what a single statement tells, which needs no transaction
	// around it. Of more than one it returns Internal.
	Read(ctx context.Context, f func(Tx) error) error
	// Update runs f in a transaction and commits it when f returns nil; any
	// error or panic of f rolls it back and is passed on. Writers take turns.
	// Nothing is retried: on Conflict the caller reads again and decides. After
	// any error of a repository but NotFound f returns it, unless that says otherwise; on some databases
	// the transaction is void then. What a write returns may also come from the next call
	// of a repository, or from Update alone: it fails the transaction in any case.
	// f must not call Update or View of the same store, nor keep the Tx.
	Update(ctx context.Context, f func(Tx) error) error
	// Aside is Update without a turn, where the database can do without: for rows
	// that nobody decides by and no event tells of, as signs of life and what was done.
	Aside(ctx context.Context, f func(Tx) error) error
	// Changed returns a channel that is closed when a commit after the call
	// has written outbox events. It is a hint for this process only: take the
	// channel, read the outbox, then wait.
	Changed() <-chan struct{}
	// KeysVersion is another number once a transaction that changed what anybody
	// may do (API keys, users, memberships, projects, the keys that sign access
	// tokens) has been committed, before
	// Update returns. What was read of them since it was this number is still
	// so. 0: other processes write here, too, and nothing may be remembered.
	KeysVersion() uint64
	// KeysChanged returns a channel that is closed when such a transaction has
	// been committed after the call, by whichever process. It is a hint.
	KeysChanged() <-chan struct{}
	// Ping reports whether the store answers. Returns Unavailable.
	Ping(ctx context.Context) error
	// Close waits for transactions under way and lets go of the store.
	// Closing twice is fine; transactions after it return Unavailable.
	Close() error
}

// Tx is a transaction's view of the repositories. It is used by one goroutine
// and only within the function it was given to.
type Tx interface {
	Projects() Projects
	VMs() VMs
	Machines() Machines
	Executions() Executions
	OutputPacks() OutputPacks
	Archives() Archives
	Templates() Templates
	Builds() Builds
	Snapshots() Snapshots
	Names() Names
	Tasks() Tasks
	Workers() Workers
	JoinTokens() JoinTokens
	Outbox() Outbox
	Usage() UsageRows
	Keys() Keys
	Users() Users
	Members() Members
	Idempotency() Idempotency
	Answers() Answers
	Secrets() Secrets
	Volumes() Volumes
	Webhooks() Webhooks
	Settings() Settings
	Sealed() Sealed
	Quotas() Quotas
	Uploads() Uploads
	Audit() Audit
}

// MaxPage bounds every limit: a greater one is brought down to it.
const MaxPage = 1000

// Page asks for one page of a list ordered by creation time, ties by ID.
// A limit of 0 or less is 100.
type Page = vmm.Page

// List is one page.
type List[T any] = vmm.List[T]
