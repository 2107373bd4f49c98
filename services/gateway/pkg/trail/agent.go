package trail

import (
	"context"
	"net/http"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// Within has a request answered that changes something in a VM and is passed on
// to its agent: under the operation of the API that does the same.
func (t *Trail) Within(w http.ResponseWriter, r *http.Request, operation string, vm domain.ID, next http.HandlerFunc) {
	if t == nil || t.log == nil {
		next(w, r)
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	e := &entry{record: t.begin(r, operation), end: cancel}
	e.record.SubjectKind, e.record.SubjectID, e.record.VMID = "vm", string(vm), vm
	t.answer(w, r.WithContext(ctx), e, next)
}

// Admit notes who makes a request of [Trail.Within], before it is passed on.
// input is for what a command that runs is sent, of which few are recorded.
// Returns NoSpace and Unavailable for a change that could not be recorded.
func (t *Trail) Admit(ctx context.Context, by vmm.Caller, input bool) error {
	e := entryOf(ctx)
	if e == nil {
		return nil
	}
	e.known = true
	identify(&e.record, by)
	kind := t.changes
	if input {
		kind = t.inputs
	}
	if !kind.record(&e.record, string(e.record.VMID)+"/"+e.record.Operation) {
		e.done = true // as one among those that the next counts
		return nil
	}
	commit, err := t.log.Reserve()
	if err != nil {
		return err
	}
	e.commit = commit
	return nil
}
