package storage

import (
	"context"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// Keys is the table of API keys, found by the hash of their secret.
type Keys interface {
	// Get returns NotFound.
	Get(ctx context.Context, project, id domain.ID) (*domain.APIKey, error)
	// ByHash finds a key by the SHA-256 of its secret, or of the one before its
	// last rotation; whether that may still be used is for the caller to see
	// ([domain.APIKey.Opens]). Returns NotFound.
	ByHash(ctx context.Context, hash [32]byte) (*domain.APIKey, error)
	// Held and HeldByHash are Get, in any project, and ByHash with what the key's
	// user may do in its project: one statement, for it is asked by every request.
	Held(ctx context.Context, id domain.ID) (HeldKey, error)
	HeldByHash(ctx context.Context, hash [32]byte) (HeldKey, error)
	// HeldWithVM is HeldByHash with a VM of any project, in one statement, and whether
	// an execution of any VM has an ID. Returns NotFound also where there is no such
	// VM. Whose it is is for the caller to see: keys are good for several projects.
	HeldWithVM(ctx context.Context, hash [32]byte, vm, execution domain.ID) (key HeldKey, row *domain.VM, used bool, err error)
	// Insert returns AlreadyExists, NotFound for the project.
	Insert(ctx context.Context, k *domain.APIKey) error
	// Rotate gives a key another secret. The one it had counts until a time;
	// nil: no longer, and neither does the one before. Returns NotFound.
	Rotate(ctx context.Context, project, id domain.ID, s KeySecret, oldUntil *time.Time) error
	// Used notes the last use; an absent key is no error. Times never go back.
	Used(ctx context.Context, id domain.ID, at time.Time) error
	// Revoke ends a key for good; revoking again keeps the first time. Returns NotFound.
	Revoke(ctx context.Context, project, id domain.ID, at time.Time) error
	List(ctx context.Context, project domain.ID, p Page) (List[*domain.APIKey], error)
	// Count counts the keys of a project that are in force at a time.
	Count(ctx context.Context, project domain.ID, now time.Time) (int, error)
}

// HeldKey is a key with the user that it is of.
type HeldKey struct {
	*domain.APIKey
	User *domain.User // with ID, Admin and DisabledAt alone; nil: it is of none, or of one that is gone
	Role domain.Role  // of the user in the key's project; empty: no member
}

// KeySecret is what is stored of a key's new secret.
type KeySecret struct {
	Prefix string
	Hash   [32]byte
	At     time.Time
}

// Users is the table of users, who belong to no project by themselves.
type Users interface {
	// Get returns NotFound.
	Get(ctx context.Context, id domain.ID) (*domain.User, error)
	// ByName returns NotFound.
	ByName(ctx context.Context, name string) (*domain.User, error)
	// BySubject finds who a subject of an issuer is. Returns NotFound.
	BySubject(ctx context.Context, issuer, subject string) (*domain.User, error)
	// Insert returns AlreadyExists for the ID, the name or the subject.
	Insert(ctx context.Context, u *domain.User) error
	// Update writes everything but ID and creation time. Returns AlreadyExists, NotFound.
	Update(ctx context.Context, u *domain.User) error
	// Delete removes a user with memberships, and revokes the user's keys.
	// Returns NotFound.
	Delete(ctx context.Context, id domain.ID, at time.Time) error
	List(ctx context.Context, p Page) (List[*domain.User], error)
}

// Members is the table of users' roles in projects.
type Members interface {
	// Get returns NotFound.
	Get(ctx context.Context, project, user domain.ID) (*domain.Member, error)
	// Put inserts a membership or replaces its role and source; the first
	// creation time stays. Returns NotFound for the project or the user.
	Put(ctx context.Context, m *domain.Member) error
	// Delete returns NotFound.
	Delete(ctx context.Context, project, user domain.ID) error
	// OfProject lists the members of a project, oldest first, at most [MaxPage].
	OfProject(ctx context.Context, project domain.ID) ([]*domain.Member, error)
	// OfUser lists the memberships of a user, oldest first, at most [MaxPage].
	OfUser(ctx context.Context, user domain.ID) ([]*domain.Member, error)
}

// Idempotent is the memory of a request that carried an idempotency key.
type Idempotent struct {
	ProjectID     domain.ID
	Key           string
	RequestDigest string
	SubjectID     domain.ID // what the request made; empty while it is under way
	Status        int       // of the response; 0 while it is under way
	CreatedAt     time.Time
	ExpiresAt     time.Time
}

// Idempotency is the table of idempotency keys.
type Idempotency interface {
	// Get returns NotFound for keys that are absent or expired at now.
	Get(ctx context.Context, project domain.ID, key string, now time.Time) (*Idempotent, error)
	// Insert takes a key; one that has expired at r.CreatedAt is taken over.
	// Returns AlreadyExists, after which the transaction may go on.
	Insert(ctx context.Context, r *Idempotent) error
	// Complete notes subject and status. Returns NotFound.
	Complete(ctx context.Context, project domain.ID, key string, subject domain.ID, status int) error
	// Delete gives a key free again, after a request that came to nothing; absent is success.
	Delete(ctx context.Context, project domain.ID, key string) error
	// DeleteExpired removes at most limit keys that have expired at now.
	DeleteExpired(ctx context.Context, now time.Time, limit int) (int, error)
}

// Answer is what a request with an idempotency key was answered, for those that
// make nothing that would be found again by the key itself.
type Answer struct {
	ID            domain.ID // of the key: [AnswerID]
	ProjectID     domain.ID
	RequestDigest string
	AnswerSealed  []byte // nil while the request is under way
	CreatedAt     time.Time
	ExpiresAt     time.Time
}

// AnswerID is the ID of what is remembered for an idempotency key.
func AnswerID(key string) domain.ID { return domain.DerivedID("answer", key) }

// Answers is the table of such answers.
type Answers interface {
	// Get returns NotFound for those that are absent or expired at now.
	Get(ctx context.Context, project, id domain.ID, now time.Time) (*Answer, error)
	// Insert takes a key; one that has expired at a.CreatedAt is taken over.
	// Returns AlreadyExists, and NotFound for the project.
	Insert(ctx context.Context, a *Answer) error
	// Complete keeps the answer, until another time, for who took the key at
	// created. Returns NotFound when that is another by now, or has its answer.
	Complete(ctx context.Context, project, id domain.ID, created time.Time, sealed []byte, expires time.Time) error
	// Renew has a key taken until another time. Returns NotFound as Complete does.
	Renew(ctx context.Context, project, id domain.ID, created, expires time.Time) error
	// ReleaseAll gives all keys free again that have no answer: for a process that
	// is the only one to take any, and was started anew.
	ReleaseAll(ctx context.Context) error
	// Release gives a key free again that was taken at created and has no answer.
	Release(ctx context.Context, project, id domain.ID, created time.Time) error
	// DeleteExpired removes at most limit that have expired at now.
	DeleteExpired(ctx context.Context, now time.Time, limit int) (int, error)
}

// Secrets is the table of stored secrets, by name.
type Secrets interface {
	// Get returns NotFound.
	Get(ctx context.Context, project domain.ID, name string) (*domain.Secret, error)
	// Put inserts a secret or replaces the one with its name. The new ID and
	// sealed value belong together; the first creation time stays and is set in s.
	Put(ctx context.Context, s *domain.Secret) error
	// Delete returns NotFound.
	Delete(ctx context.Context, project domain.ID, name string) error
	// List orders by name. Sealed values are left out.
	List(ctx context.Context, project domain.ID) ([]*domain.Secret, error)
	Count(ctx context.Context, project domain.ID) (int, error)
}

// Settings are the installation's own facts, such as its instance ID.
type Settings interface {
	// Get returns NotFound.
	Get(ctx context.Context, key string) (string, error)
	Set(ctx context.Context, key, value string) error
	// Init stores a value unless there is one, and returns what is stored.
	Init(ctx context.Context, key, value string) (string, error)
	// Delete of an absent key is success.
	Delete(ctx context.Context, key string) error
}

// Setting keys.
const (
	SettingInstanceID = "instance_id"                 // carried by everything made on a node
	SettingKeyCheck   = SealedSettings + "check"      // opens where the right keys are at hand
	SettingTokenKeys  = SealedSettings + "token_keys" // what signs access tokens
)

// SettingPool is where a worker's warm pool remembers the kinds in use.
func SettingPool(worker domain.ID) string { return "pool/" + string(worker) }

// SettingRemoved is there while a worker is being removed: it may not come back.
func SettingRemoved(worker domain.ID) string { return "removed/" + string(worker) }
