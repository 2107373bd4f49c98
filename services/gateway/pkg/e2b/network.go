package e2b

import (
	"net/http"

	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// setNetwork replaces what a sandbox may reach, as a whole.
func (a *API) setNetwork(w http.ResponseWriter, r *http.Request, by vmm.Caller) error {
	var body networkBody
	if _, err := a.read(w, r, &body); err != nil {
		return err
	}
	p, err := toEgress(body.network, body.AllowInternetAccess)
	if err != nil {
		return err
	}
	vm, err := a.sandboxOf(r, by)
	if err != nil {
		return err
	}
	if _, err := a.VMs.SetVMEgress(r.Context(), by, vm.ID, p); err != nil {
		return err
	}
	return empty(w)
}
