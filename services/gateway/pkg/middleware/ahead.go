package middleware

import (
	"net/http"
	"strings"

	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// Ahead tells of requests that read one VM and are short which it is, before who
// asks is looked up: see [vmm.Ahead]. Requests that write are none, for what was
// read before is not what there is after.
func Ahead(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if vm, execution, ok := about(r); ok {
			r = r.WithContext(vmm.WithAhead(r.Context(), vm, execution))
		}
		next.ServeHTTP(w, r)
	})
}

func about(r *http.Request) (vm, execution domain.ID, ok bool) {
	rest, ok := strings.CutPrefix(r.URL.Path, wire.BasePath+"/vms/")
	if !ok {
		return "", "", false
	}
	id, what, _ := strings.Cut(rest, "/")
	switch {
	case !domain.IsID(id):
		return "", "", false
	case r.Method == http.MethodGet && what == "":
		return domain.ID(id), "", true
	case r.Method == http.MethodPost && (what == "execute" || what == "executions"):
		if x := r.Header.Get(wire.HeaderExecution); domain.IsID(x) {
			execution = domain.ID(x)
		}
		return domain.ID(id), execution, true
	}
	return "", "", false
}
