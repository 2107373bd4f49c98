package e2b

import (
	"net/http"

	"github.com/go-chi/chi/v5"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/gateway/pkg/auth"
	"github.com/aetherium/aetherium/services/gateway/pkg/trail"
)

func (a *API) snapshotRoutes(r chi.Router) {
	a.handle(r, http.MethodPost, "/sandboxes/{sandbox}/snapshots", "create-snapshot", domain.ScopeRun, a.createSnapshot)
	a.handle(r, http.MethodGet, "/snapshots", "list-snapshots", domain.ScopeRead, a.listSnapshots)
	a.handle(r, http.MethodDelete, "/templates/{template}", "delete-template", domain.ScopeRun, a.deleteTemplate)
}

// createSnapshot keeps the sandbox's memory where its driver can, else its
// disk; and of a sandbox that has no memory to keep its disk.
func (a *API) createSnapshot(w http.ResponseWriter, r *http.Request, by vmm.Caller) error {
	var body snapshotBody
	if _, err := a.read(w, r, &body); err != nil {
		return err
	}
	vm, err := a.sandboxOf(r, by)
	if err != nil {
		return err
	}
	req := vmm.CreateSnapshot{Name: body.Name, Kind: domain.SnapshotMemory}
	if body.Memory != nil && !*body.Memory || !hasMemory(vm) {
		req.Kind = domain.SnapshotDisk
	}
	snap, err := a.VMs.CreateSnapshot(r.Context(), by, vm.ID, req)
	if req.Kind == domain.SnapshotMemory && errors.HasCode(err, errors.Unsupported) {
		req.Kind = domain.SnapshotDisk
		snap, err = a.VMs.CreateSnapshot(r.Context(), by, vm.ID, req)
	}
	if err != nil {
		return err
	}
	trail.Subject(r.Context(), "snapshot", snap.ID.String())
	return answer(w, http.StatusCreated, snapshotOf(snap))
}

// hasMemory reports whether a VM is not one whose processes have ended, or are
// frozen where nothing but itself goes on from them.
func hasMemory(vm *domain.VM) bool {
	return vm.Observed != domain.Stopped && (vm.Observed != domain.Paused || vm.PauseMode == domain.PauseMemory)
}

func snapshotOf(s *domain.Snapshot) snapshotInfo {
	out := snapshotInfo{SnapshotID: s.ID.String(), Names: []string{}}
	if s.Name != "" {
		out.Names = append(out.Names, s.Name)
	}
	return out
}

func (a *API) listSnapshots(w http.ResponseWriter, r *http.Request, by vmm.Caller) error {
	q := r.URL.Query()
	page, err := pageOf(q)
	if err != nil {
		return err
	}
	of := q.Get("sandboxID")
	if of != "" && !domain.IsID(of) {
		return answer(w, http.StatusOK, []snapshotInfo{})
	}
	list, err := a.VMs.ListSnapshots(r.Context(), by, domain.ID(of), page)
	if err != nil {
		return err
	}
	out := make([]snapshotInfo, 0, len(list.Items))
	for _, s := range list.Items {
		if name := q.Get("name"); s.State == domain.BuildReady && (name == "" || name == s.Name) {
			out = append(out, snapshotOf(s))
		}
	}
	if list.Next != "" {
		w.Header().Set(headerNext, list.Next)
	}
	return answer(w, http.StatusOK, out)
}

// deleteTemplate deletes a snapshot or a template: they are one kind of thing
// to E2B's clients, and two to who gives keys their scopes.
func (a *API) deleteTemplate(w http.ResponseWriter, r *http.Request, by vmm.Caller) error {
	ref := chi.URLParam(r, "template")
	id, err := a.snapshotID(r, by, ref)
	switch {
	case err != nil:
		return err
	case id != "":
		trail.Subject(r.Context(), "snapshot", id.String())
		err = a.VMs.DeleteSnapshot(r.Context(), by, id)
	default:
		if err = auth.Allow(r.Context(), domain.ScopeManage); err == nil {
			err = a.VMs.DeleteTemplate(r.Context(), by, ref)
		}
	}
	if errors.HasCode(err, errors.InvalidArgument) { // what has no form of a name is no name of any
		err = errors.New(errors.NotFound, "there is no template or snapshot of this name")
	}
	if err != nil {
		return err
	}
	return empty(w)
}

// snapshotID finds a snapshot by ID or name; none is no error.
func (a *API) snapshotID(r *http.Request, by vmm.Caller, ref string) (domain.ID, error) {
	if domain.IsID(ref) {
		s, err := a.VMs.GetSnapshot(r.Context(), by, domain.ID(ref))
		if errors.HasCode(err, errors.NotFound) {
			return "", nil
		}
		if err != nil {
			return "", err
		}
		return s.ID, nil
	}
	page := vmm.Page{Limit: maxPage}
	for {
		list, err := a.VMs.ListSnapshots(r.Context(), by, "", page)
		if err != nil {
			return "", err
		}
		for _, s := range list.Items {
			if s.Name == ref {
				return s.ID, nil
			}
		}
		if list.Next == "" {
			return "", nil
		}
		page.Cursor = list.Next
	}
}
