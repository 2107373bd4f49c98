package middleware_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/gateway/pkg/middleware"
)

// What a request is about is told only where it is read once, before all else.
func TestAhead(t *testing.T) {
	t.Parallel()
	vm, x := domain.NewID().String(), domain.NewID().String()
	for _, tc := range []struct {
		method, path, header string
		vm, execution        string
	}{
		{"GET", "/api/v1/vms/" + vm, "", vm, ""},
		{"POST", "/api/v1/vms/" + vm + "/execute", x, vm, x},
		{"POST", "/api/v1/vms/" + vm + "/executions", x, vm, x},
		{"POST", "/api/v1/vms/" + vm + "/execute", "", vm, ""},
		{"POST", "/api/v1/vms/" + vm + "/execute", "../" + x, vm, ""},
		{"GET", "/api/v1/vms/" + vm + "/executions", x, "", ""},
		{"GET", "/api/v1/vms/by-name", "", "", ""},
		{"GET", "/api/v1/vms", "", "", ""},
		{"PATCH", "/api/v1/vms/" + vm, "", "", ""},
		{"DELETE", "/api/v1/vms/" + vm, "", "", ""},
		{"POST", "/api/v1/vms/" + vm + "/pause", "", "", ""},
		{"POST", "/api/v1/vms/" + vm, "", "", ""},
		{"GET", "/e2b/sandboxes/" + vm, "", "", ""},
	} {
		var about *vmm.Ahead
		h := middleware.Ahead(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { about = vmm.AheadOf(r.Context()) }))
		r := httptest.NewRequest(tc.method, tc.path, nil)
		if tc.header != "" {
			r.Header.Set(wire.HeaderExecution, tc.header)
		}
		h.ServeHTTP(httptest.NewRecorder(), r)
		gotVM, gotX, ok := about.Begin()
		if gotVM.String() != tc.vm || gotX.String() != tc.execution || ok != (tc.vm != "") {
			t.Errorf("%s %s with %q is about %q, %q", tc.method, tc.path, tc.header, gotVM, gotX)
		}
	}
}
