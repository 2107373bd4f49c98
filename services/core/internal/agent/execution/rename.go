package execution

import "github.com/aetherium/aetherium/libs/common/pkg/errors"

// Rename gives executions new IDs, by their old ones: all of them or none. One
// that has its new ID already is left as it is. Whoever holds one loses it.
// Returns InvalidArgument for what is no ID, NotFound for one that is unknown
// under both IDs, AlreadyExists for a new ID that another one has.
func (r *Registry) Rename(ids map[string]string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	places := make(map[string]*entry, len(ids)) // by new ID
	for from, to := range ids {
		if !isID(to) {
			return errors.New(errors.InvalidArgument, "%.64q is not an execution ID", to).WithField("execution_ids")
		}
		place, taken := r.byID[from], r.byID[to]
		switch {
		case places[to] != nil || place != nil && taken != nil:
			return errors.New(errors.AlreadyExists, "another execution has the ID %s", to).WithField("execution_ids")
		case place == nil && taken == nil, place != nil && place.ex == nil:
			return errors.New(errors.NotFound, "no execution %.64q is known", from).WithField("execution_ids")
		case place != nil:
			places[to] = place
		}
	}
	for to, place := range places {
		delete(r.byID, place.ex.ID())
		r.byID[to] = place
		place.ex.rename(to)
	}
	return nil
}

// rename sets the ID and ends the host's attachment.
func (e *Execution) rename(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.id = id
	if e.release != nil {
		e.release(ErrTaken)
	}
}

// ID is what the host calls it.
func (e *Execution) ID() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.id
}
