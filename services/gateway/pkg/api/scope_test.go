package api

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/danielgtaylor/huma/v2/adapters/humachi"
	"github.com/go-chi/chi/v5"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// An operation that does not say who may call it is nobody's: it is not
// served, and the API is not made.
func TestAnOperationWithoutAScopeIsNotThere(t *testing.T) {
	t.Parallel()
	r := chi.NewRouter()
	a := &API{}
	a.huma = humachi.New(r, a.config())
	register(a, operation("oops", http.MethodGet, "/oops", "Fleet", "Forgotten", ""), options{},
		func(context.Context, *none) (*none, error) { return nil, nil })
	if !errors.HasCode(a.fault, errors.Internal) || !strings.Contains(a.fault.Error(), "oops") {
		t.Errorf("fault %v", a.fault)
	}
	if r.Match(chi.NewRouteContext(), http.MethodGet, "/oops") || a.huma.OpenAPI().Paths["/oops"] != nil {
		t.Error("it is served")
	}
}
