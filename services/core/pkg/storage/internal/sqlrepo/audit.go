package sqlrepo

import (
	"context"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

type audit struct{ s Session }

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
	for _, a := range rs {
		_, err := r.s.Exec(ctx, "INSERT INTO audit ("+auditColumns+") VALUES ("+marks(auditColumns)+") ON CONFLICT (id) DO NOTHING",
			string(a.ID), string(a.ProjectID), micros(a.At), a.Actor, string(a.KeyID), string(a.UserID), flag(a.Admin), flag(a.Entered),
			a.Operation, a.SubjectKind, a.SubjectID, string(a.VMID), a.Client, a.Agent, a.Status, a.Code, a.RequestID, a.Unrecorded)
		if err != nil {
			return fault(err, "writing to the audit log")
		}
	}
	return nil
}

func (r audit) List(ctx context.Context, f storage.AuditFilter) (storage.List[*domain.AuditRecord], error) {
	w := &where{}
	w.eq("project_id", f.ProjectID)
	w.eq("operation", domain.ID(f.Operation))
	switch {
	case f.Actor == "":
	case domain.IsID(f.Actor):
		w.add("(key_id = ? OR user_id = ?)", f.Actor, f.Actor)
	default:
		w.add("actor = ?", f.Actor)
	}
	if f.Subject != "" {
		// Two indexes serve this; the conditions repeat theirs.
		w.add("((subject_id = ? AND subject_id <> '') OR (vm_id = ? AND vm_id <> ''))", f.Subject, f.Subject)
	}
	const refused = "status IN (401, 403, 429)"
	switch f.Result {
	case "":
	case domain.AuditDone:
		w.add("status < 400")
	case domain.AuditRefused:
		w.add(refused)
	case domain.AuditFailed:
		w.add("status >= 400 AND NOT " + refused)
	default:
		return storage.List[*domain.AuditRecord]{}, errors.New(errors.InvalidArgument, "%q is not a result", f.Result).WithField("result").
			WithHint("done, refused or failed")
	}
	if !f.Since.IsZero() {
		w.add("created_at >= ?", micros(f.Since))
	}
	if !f.Until.IsZero() {
		w.add("created_at < ?", micros(f.Until))
	}
	return page(ctx, r.s, auditSelect, w, f.Page, scanAudit, func(a *domain.AuditRecord) (time.Time, domain.ID) { return a.At, a.ID })
}

func (r audit) DeleteBefore(ctx context.Context, before time.Time, limit int) (int, error) {
	n, err := r.s.Exec(ctx, "DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE created_at < ? ORDER BY created_at LIMIT ?)",
		micros(before), clampLimit(limit))
	return int(n), err
}
