package storetest

import (
	"fmt"
	"slices"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

func audit(e *env) {
	p, key, user, vm := domain.NewID(), domain.NewID(), domain.NewID(), domain.NewID() // of no rows: records outlive them
	record := func(change func(*domain.AuditRecord)) *domain.AuditRecord {
		a := &domain.AuditRecord{ID: domain.NewID(), ProjectID: p, At: e.tick(), Actor: "alice", Operation: "create-vm", Status: 201}
		if change != nil {
			change(a)
		}
		return a
	}
	full := record(func(a *domain.AuditRecord) {
		a.KeyID, a.UserID, a.Admin, a.Entered, a.SubjectKind, a.SubjectID, a.VMID = key, user, true, true, "vm", string(vm), vm
		a.Client, a.Agent, a.Status, a.Code, a.RequestID, a.Unrecorded = "192.0.2.1", "x", 409, "conflict", "r", 7
	})
	refused := record(func(a *domain.AuditRecord) { a.ProjectID, a.Actor, a.Status, a.Code = "", "", 401, "unauthenticated" })
	plain := record(func(a *domain.AuditRecord) { a.Operation, a.SubjectKind, a.SubjectID = "set-secret", "secret", "TOKEN" })
	all := []*domain.AuditRecord{full, refused, plain}
	for range 2 { // the second time there is nothing new
		e.update(func(tx storage.Tx) error { return tx.Audit().Insert(e.ctx(), all...) })
	}
	list := func(f storage.AuditFilter) []*domain.AuditRecord {
		return read(e, func(tx storage.Tx) (storage.List[*domain.AuditRecord], error) { return tx.Audit().List(e.ctx(), f) }).Items
	}
	same(e, "every field, oldest first", list(storage.AuditFilter{Page: storage.Page{Order: "asc"}}), all)
	for name, tc := range map[string]struct {
		f    storage.AuditFilter
		want []*domain.AuditRecord
	}{
		"all":         {storage.AuditFilter{}, []*domain.AuditRecord{plain, refused, full}},
		"project":     {storage.AuditFilter{ProjectID: p}, []*domain.AuditRecord{plain, full}},
		"other":       {storage.AuditFilter{ProjectID: domain.NewID()}, nil},
		"actor":       {storage.AuditFilter{Actor: "alice"}, []*domain.AuditRecord{plain, full}},
		"key":         {storage.AuditFilter{Actor: string(key)}, []*domain.AuditRecord{full}},
		"user":        {storage.AuditFilter{Actor: string(user)}, []*domain.AuditRecord{full}},
		"operation":   {storage.AuditFilter{Operation: "set-secret"}, []*domain.AuditRecord{plain}},
		"subject":     {storage.AuditFilter{Subject: "TOKEN"}, []*domain.AuditRecord{plain}},
		"VM":          {storage.AuditFilter{ProjectID: p, Subject: string(vm)}, []*domain.AuditRecord{full}},
		"done":        {storage.AuditFilter{Result: domain.AuditDone}, []*domain.AuditRecord{plain}},
		"refused":     {storage.AuditFilter{Result: domain.AuditRefused}, []*domain.AuditRecord{refused}},
		"failed":      {storage.AuditFilter{Result: domain.AuditFailed}, []*domain.AuditRecord{full}},
		"since":       {storage.AuditFilter{Since: refused.At}, []*domain.AuditRecord{plain, refused}},
		"until":       {storage.AuditFilter{Until: refused.At}, []*domain.AuditRecord{full}},
		"two of them": {storage.AuditFilter{Since: full.At, Until: plain.At, Actor: "alice"}, []*domain.AuditRecord{full}},
	} {
		same(e, name, list(tc.f), tc.want)
	}
	first := read(e, func(tx storage.Tx) (storage.List[*domain.AuditRecord], error) {
		return tx.Audit().List(e.ctx(), storage.AuditFilter{Page: storage.Page{Limit: 2}})
	})
	same(e, "the next page", list(storage.AuditFilter{Page: storage.Page{Cursor: first.Next}}), []*domain.AuditRecord{full})
	if got := code(e, func(tx storage.Tx) (storage.List[*domain.AuditRecord], error) {
		return tx.Audit().List(e.ctx(), storage.AuditFilter{Result: "x"})
	}); got != errors.InvalidArgument {
		e.Errorf("a result that is none: %s", got)
	}
	e.update(func(tx storage.Tx) error {
		n, err := tx.Audit().DeleteBefore(e.ctx(), plain.At, 1)
		if err == nil && n != 1 {
			err = fmt.Errorf("%d removed", n)
		}
		return err
	})
	same(e, "the oldest is gone", list(storage.AuditFilter{}), []*domain.AuditRecord{plain, refused})
	e.update(func(tx storage.Tx) error {
		_, err := tx.Audit().DeleteBefore(e.ctx(), plain.At.Add(time.Hour), 0)
		return err
	})
	same(e, "all gone", list(storage.AuditFilter{}), nil)
}

// A filter that fits few among many records finds them all, whatever many are
// looked through at a time.
func auditRare(e *env) {
	const many = 5_500
	p, vm := domain.NewID(), domain.NewID()
	at := e.tick()
	var want []domain.ID
	e.update(func(tx storage.Tx) error {
		for i := range many {
			a := &domain.AuditRecord{ID: domain.NewID(), ProjectID: p, At: at.Add(time.Duration(i) * time.Microsecond), Operation: "common", Status: 200}
			switch i {
			case 0, 1, many / 2, many - 1:
				a.Operation, a.SubjectID = "rare", string(vm)
				want = append(want, a.ID)
			case 2, many - 2:
				a.Operation, a.VMID, a.SubjectID = "rare", vm, "x"
				want = append(want, a.ID)
			}
			if err := tx.Audit().Insert(e.ctx(), a); err != nil {
				return err
			}
		}
		return nil
	})
	for name, f := range map[string]storage.AuditFilter{
		"operation": {ProjectID: p, Operation: "rare"}, "subject": {Subject: string(vm)}, "both": {ProjectID: p, Subject: string(vm), Operation: "rare"},
		"all projects": {Operation: "rare"},
	} {
		for _, order := range []vmm.Order{vmm.OldestFirst, vmm.NewestFirst} {
			for _, limit := range []int{1, 4, 100} {
				var got []domain.ID
				f.Page = storage.Page{Order: order, Limit: limit}
				for pages := 0; ; pages++ {
					list := read(e, func(tx storage.Tx) (storage.List[*domain.AuditRecord], error) { return tx.Audit().List(e.ctx(), f) })
					got = append(got, ids(list.Items, func(a *domain.AuditRecord) domain.ID { return a.ID })...)
					if f.Cursor = list.Next; f.Cursor == "" {
						break
					}
					if pages > 10 || len(list.Items) > limit {
						e.Fatalf("%s %s by %d: %d pages", name, order, limit, pages)
					}
				}
				if order == vmm.NewestFirst {
					slices.Reverse(got)
				}
				same(e, fmt.Sprintf("%s %s by %d", name, order, limit), got, want)
			}
		}
	}
}
