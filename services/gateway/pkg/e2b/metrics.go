package e2b

import (
	"math"
	"net/http"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

const (
	// maxRange is how much of the past is told at once, of what is asked for the
	// newest: what a worker measures in it are fewer spans than vmm.MaxSpans.
	maxRange = 4 * time.Hour
	// maxSpan is how long before its end a span may have begun.
	maxSpan = time.Minute
)

// metrics tells what a sandbox used, by the spans that its worker measures, and
// what it uses now where that is within what is asked for.
func (a *API) metrics(w http.ResponseWriter, r *http.Request, by vmm.Caller) error {
	vm, err := a.sandboxOf(r, by)
	if err != nil {
		return err
	}
	now := a.Now()
	start, end := int64(0), int64(math.MaxInt64)
	for field, bound := range map[string]*int64{"start": &start, "end": &end} {
		if text := r.URL.Query().Get(field); text != "" {
			if *bound, err = positive(field, text); err != nil {
				return err
			}
		}
	}
	within := func(at time.Time) bool { return at.Unix() >= start && at.Unix() <= end }
	out := []metric{}
	to, from := time.Unix(min(end, now.Unix())+1, 0), time.Unix(min(start, now.Unix()), 0)
	if earliest := to.Add(-maxRange); from.Before(earliest) {
		from = earliest
	}
	spans, err := a.VMs.VMUsed(r.Context(), by, vm.ID, from.Add(-maxSpan), to)
	if err != nil {
		return err
	}
	for _, u := range spans {
		if within(u.To) && !u.To.Before(from) && u.To.After(u.From) {
			out = append(out, spanOf(vm, u))
		}
	}
	u, err := a.VMs.VMUsage(r.Context(), by, vm.ID)
	switch {
	case errors.HasCode(err, errors.Conflict): // it does not run
	case err != nil:
		return err
	case within(u.At):
		out = append(out, metric{
			Timestamp: u.At.UTC().Truncate(time.Millisecond), TimestampUnix: u.At.Unix(), CPUCount: cpus(vm), CPUUsedPct: cpuUsed(u, vm.StartedAt),
			MemUsed: u.MemoryBytes, MemTotal: u.MemoryLimit, DiskUsed: u.DiskBytes, DiskTotal: u.DiskLimit,
		})
	}
	return answer(w, http.StatusOK, out)
}

// spanOf is what a sandbox used in a span, told at its end.
func spanOf(vm *domain.VM, u domain.Usage) metric {
	span := u.To.Sub(u.From).Seconds()
	return metric{
		Timestamp: u.To.UTC().Truncate(time.Millisecond), TimestampUnix: u.To.Unix(), CPUCount: cpus(vm), CPUUsedPct: 100 * u.CPUSeconds / span,
		MemUsed: int64(u.MemoryByteSec / span), MemTotal: vm.Spec.Resources.MemoryBytes,
		DiskUsed: u.DiskBytes, DiskTotal: vm.Spec.Resources.DiskBytes,
	}
}

// cpuUsed is how much of one processor was used since the start, in percent.
func cpuUsed(u vmm.Usage, since *time.Time) float64 {
	if since == nil || !u.At.After(*since) {
		return 0
	}
	return 100 * float64(u.CPUTime) / float64(u.At.Sub(*since))
}
