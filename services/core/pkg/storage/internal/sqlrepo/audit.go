package sqlrepo

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

type audit struct{ s Session }

var auditInsert = "INSERT INTO audit (" + auditColumns + ") VALUES (" + marks(auditColumns) + ") ON CONFLICT (id) DO NOTHING"

const (
	auditColumns = "id, project_id, created_at, actor, key_id, user_id, admin, entered, operation, subject_kind, subject_id, vm_id, " +
		"client_address, user_agent, status, code, request_id, unrecorded"
	auditSelect = "SELECT " + auditColumns + " FROM audit"
)

func scanAudit(r Row) (*domain.AuditRecord, error) {
	a := new(domain.AuditRecord)
	return a, r.Scan(&a.ID, &a.ProjectID, scanTime{&a.At}, &a.Actor, &a.KeyID, &a.UserID, scanFlag{&a.Admin}, scanFlag{&a.Entered},
		&a.Operation, &a.SubjectKind, &a.SubjectID, &a.VMID, &a.Client, &a.Agent, &a.Status, &a.Code, &a.RequestID, &a.Unrecorded)
}

func (r audit) Insert(ctx context.Context, rs ...*domain.AuditRecord) error {
	rows := make([][]any, len(rs))
	for i, a := range rs {
		rows[i] = []any{
			string(a.ID), string(a.ProjectID), micros(a.At), a.Actor, string(a.KeyID), string(a.UserID), flag(a.Admin), flag(a.Entered),
			a.Operation, a.SubjectKind, a.SubjectID, string(a.VMID), a.Client, a.Agent, a.Status, a.Code, a.RequestID, a.Unrecorded,
		}
	}
	if _, err := r.s.ExecEach(ctx, auditInsert, rows); err != nil {
		return fault(err, "writing to the audit log")
	}
	return nil
}

// auditWindow bounds the records that one page looks through for those that a
// filter without an index wants. Where it is used up the page is shorter, and
// its cursor goes on behind it.
const auditWindow = 5_000

func (r audit) List(ctx context.Context, f storage.AuditFilter) (out storage.List[*domain.AuditRecord], err error) {
	l, err := newAuditList(f)
	if err != nil {
		return out, err
	}
	var items []*domain.AuditRecord
	var end *domain.AuditRecord // nothing was looked at behind it
	for _, of := range l.indexes() {
		found, last, err := r.window(ctx, l, of)
		if err != nil {
			return out, err
		}
		items = append(items, found...)
		if last != nil && (end == nil || l.before(last, end) < 0) {
			end = last
		}
	}
	slices.SortFunc(items, l.before)
	if end != nil {
		items = slices.DeleteFunc(items, func(a *domain.AuditRecord) bool { return l.before(a, end) > 0 })
	}
	switch {
	case len(items) > l.limit:
		items = items[:l.limit]
		out.Next = l.cursor(items[l.limit-1])
	case end != nil:
		out.Next = l.cursor(end)
	}
	out.Items = items
	return out, nil
}

// window looks through the records of one index. last is where it stopped
// without having seen them all.
func (r audit) window(ctx context.Context, l *auditList, of where) (found []*domain.AuditRecord, last *domain.AuditRecord, err error) {
	in := auditSelect + of.String() + l.order + " LIMIT ?"
	if len(l.rest.conds) == 0 {
		found, err = queryAll(ctx, r.s, scanAudit, in, append(of.args, l.limit+1)...)
		return found, nil, err
	}
	args := slices.Concat(of.args, []any{auditWindow}, l.rest.args, []any{l.limit + 1})
	found, err = queryAll(ctx, r.s, scanAudit, "SELECT * FROM ("+in+") AS last"+l.rest.String()+l.order+" LIMIT ?", args...)
	if err != nil || len(found) > l.limit {
		return found, nil, err
	}
	err = r.s.Query(ctx, func(row Row) error {
		last = new(domain.AuditRecord)
		return row.Scan(&last.ID, scanTime{&last.At})
	}, "SELECT id, created_at FROM audit"+of.String()+l.order+" LIMIT 1 OFFSET ?", append(of.args, auditWindow-1)...)
	return found, last, err
}

// auditList is how records are listed.
type auditList struct {
	f         storage.AuditFilter
	limit     int
	direction vmm.Order
	order     string
	first     where // what an index serves
	rest      where
}

func newAuditList(f storage.AuditFilter) (*auditList, error) {
	l := &auditList{f: f, limit: clampLimit(f.Limit), direction: vmm.NewestFirst, order: " ORDER BY created_at DESC, id DESC"}
	beyond := "<"
	switch f.Order {
	case "", vmm.NewestFirst:
	case vmm.OldestFirst:
		l.direction, l.order, beyond = vmm.OldestFirst, " ORDER BY created_at, id", ">"
	default:
		return nil, errors.New(errors.InvalidArgument, "the order is either %q or %q", vmm.OldestFirst, vmm.NewestFirst).WithField("order")
	}
	l.first.eq("project_id", f.ProjectID)
	if !f.Since.IsZero() {
		l.first.add("created_at >= ?", micros(f.Since))
	}
	if !f.Until.IsZero() {
		l.first.add("created_at < ?", micros(f.Until))
	}
	if f.Cursor != "" {
		c, err := parseCursor(f.Cursor, l.direction)
		if err != nil {
			return nil, err
		}
		l.first.add("(created_at, id) "+beyond+" (?, ?)", c.at, string(c.id))
	}
	l.rest.eq("operation", domain.ID(f.Operation))
	switch {
	case f.Actor == "":
	case domain.IsID(f.Actor):
		l.rest.add("(key_id = ? OR user_id = ?)", f.Actor, f.Actor)
	default:
		l.rest.add("actor = ?", f.Actor)
	}
	const refused = "status IN (401, 403, 429)"
	switch f.Result {
	case "":
	case domain.AuditDone:
		l.rest.add("status < 400")
	case domain.AuditRefused:
		l.rest.add(refused)
	case domain.AuditFailed:
		l.rest.add("status >= 400 AND NOT " + refused)
	default:
		return nil, errors.New(errors.InvalidArgument, "%q is not a result", f.Result).WithField("result").WithHint("done, refused or failed")
	}
	return l, nil
}

// indexes are the conditions for each index that is looked through: a subject
// may be one's subject, or the VM that it was done in. They repeat the
// conditions of the partial indexes.
func (l *auditList) indexes() []where {
	if l.f.Subject == "" {
		return []where{l.first}
	}
	subject, vm := l.first.clone(), l.first.clone()
	subject.add("subject_id = ? AND subject_id <> ''", l.f.Subject)
	vm.add("vm_id = ? AND vm_id <> '' AND subject_id <> ?", l.f.Subject, l.f.Subject)
	return []where{subject, vm}
}

func (l *auditList) before(a, b *domain.AuditRecord) int {
	n := cmp.Or(a.At.Compare(b.At), cmp.Compare(a.ID, b.ID))
	if l.direction == vmm.NewestFirst {
		return -n
	}
	return n
}

func (l *auditList) cursor(a *domain.AuditRecord) string {
	return cursor{order: l.direction, at: micros(a.At), id: a.ID}.String()
}

func (r audit) DeleteBefore(ctx context.Context, before time.Time, limit int) (int, error) {
	n, err := r.s.Exec(ctx, "DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE created_at < ? ORDER BY created_at LIMIT ?)",
		micros(before), clampLimit(limit))
	return int(n), err
}
