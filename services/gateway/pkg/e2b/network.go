package e2b

import (
	"net/http"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
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

// metrics tells what a sandbox uses now, where now is within what is asked for;
// what it used before is not kept.
func (a *API) metrics(w http.ResponseWriter, r *http.Request, by vmm.Caller) error {
	vm, err := a.sandboxOf(r, by)
	if err != nil {
		return err
	}
	q := r.URL.Query()
	now := a.now()
	within := true
	for _, bound := range []struct {
		field string
		in    func(int64) bool
	}{
		{"start", func(at int64) bool { return at <= now.Unix() }},
		{"end", func(at int64) bool { return at >= now.Unix() }},
	} {
		if text := q.Get(bound.field); text != "" {
			at, err := positive(bound.field, text)
			if err != nil {
				return err
			}
			within = within && bound.in(at)
		}
	}
	out := []metric{}
	u, err := a.VMs.VMUsage(r.Context(), by, vm.ID)
	switch {
	case errors.HasCode(err, errors.Conflict): // it does not run
	case err != nil:
		return err
	case within:
		out = append(out, metric{
			Timestamp: u.At.UTC().Truncate(time.Millisecond), TimestampUnix: u.At.Unix(), CPUCount: cpus(vm), CPUUsedPct: cpuUsed(u, vm.StartedAt),
			MemUsed: u.MemoryBytes, MemTotal: u.MemoryLimit, DiskUsed: u.DiskBytes, DiskTotal: u.DiskLimit,
		})
	}
	return answer(w, http.StatusOK, out)
}

// cpuUsed is how much of one processor was used since the start, in percent.
func cpuUsed(u vmm.Usage, since *time.Time) float64 {
	if since == nil || !u.At.After(*since) {
		return 0
	}
	return 100 * float64(u.CPUTime) / float64(u.At.Sub(*since))
}
