package e2b

import (
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// headerNext leads to the next page of a list; the last has none.
const headerNext = "X-Next-Token"

// The states of VMs as E2B's clients tell sandboxes apart. A stopped one is
// paused to them: connecting starts it.
var (
	runningStates = []domain.ObservedState{domain.Pending, domain.Creating, domain.Starting, domain.Running, domain.Resuming, domain.Unreachable}
	pausedStates  = []domain.ObservedState{domain.Pausing, domain.Paused, domain.Stopping, domain.Stopped}
)

func (a *API) list(w http.ResponseWriter, r *http.Request, by vmm.Caller) error {
	q := r.URL.Query()
	f := vmm.VMFilter{Template: refOf(q.Get("template"))}
	var err error
	if f.Page, err = pageOf(q); err != nil {
		return err
	}
	if f.Metadata, err = metadataOf(q.Get("metadata")); err != nil {
		return err
	}
	if f.States, err = statesOf(q["state"]); err != nil {
		return err
	}
	var after time.Time
	if text := q.Get("startedAfter"); text != "" {
		if after, err = time.Parse(time.RFC3339, text); err != nil {
			return errors.New(errors.InvalidArgument, "startedAfter is not a time").WithField("startedAfter")
		}
	}
	list, err := a.VMs.ListVMs(r.Context(), by, f)
	if err != nil {
		return err
	}
	out := make([]detail, 0, len(list.Items))
	for _, vm := range list.Items {
		switch {
		case vm.Desired == domain.WantDeleted:
		case vm.CreatedAt.Before(after):
			if f.Order == vmm.NewestFirst {
				list.Next = "" // all that follow are older
			}
		default:
			out = append(out, a.detail(r, vm))
		}
	}
	if list.Next != "" {
		w.Header().Set(headerNext, list.Next)
	}
	return answer(w, http.StatusOK, out)
}

// statesOf reads which sandboxes are asked for: repeated, or with commas.
func statesOf(values []string) ([]domain.ObservedState, error) {
	var out []domain.ObservedState
	for _, v := range values {
		for s := range strings.SplitSeq(v, ",") {
			switch s {
			case stateRunning:
				out = append(out, runningStates...)
			case statePaused:
				out = append(out, pausedStates...)
			default:
				return nil, errors.New(errors.InvalidArgument, "a sandbox is running or paused").WithField("state")
			}
		}
	}
	if len(out) == 0 {
		out = append(append(out, runningStates...), pausedStates...)
	}
	return out, nil
}

// metadataOf reads a filter that the SDKs encode twice: a query within the
// query, whose keys and values are encoded once more.
func metadataOf(text string) (map[string]string, error) {
	if text == "" {
		return nil, nil
	}
	bad := errors.New(errors.InvalidArgument, "the metadata to look for cannot be read").WithField("metadata")
	pairs, err := url.ParseQuery(text)
	if err != nil {
		return nil, bad
	}
	out := map[string]string{}
	for key, values := range pairs {
		k, kerr := url.QueryUnescape(key)
		v, verr := url.QueryUnescape(values[0])
		if kerr != nil || verr != nil || len(values) > 1 {
			return nil, bad
		}
		out[k] = v
	}
	return out, nil
}
