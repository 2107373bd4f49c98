package api

import (
	"context"
	"net/http"

	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/gateway/pkg/auth"
)

type (
	none          struct{}
	workersOutput struct{ Body *wire.List[wire.Worker] }
	driversOutput struct{ Body *wire.List[wire.Driver] }
	statusOutput  struct{ Body wire.Status }

	endpointsOutput struct{ Body wire.Endpoints }
)

func (a *API) fleetRoutes() {
	const tag = "Fleet"
	register(a, operation("list-workers", http.MethodGet, "/workers", tag, "List workers", ""), options{scope: domain.ScopeAdmin},
		func(ctx context.Context, _ *none) (*workersOutput, error) {
			l, err := a.VMs.ListWorkers(ctx, auth.CallerFrom(ctx))
			if err != nil {
				return nil, err
			}
			return &workersOutput{&wire.List[wire.Worker]{Items: mapped(l, worker)}}, nil
		})
	register(a, operation("list-drivers", http.MethodGet, "/drivers", tag, "What each driver can do here", ""), options{scope: domain.ScopeRead},
		func(ctx context.Context, _ *none) (*driversOutput, error) {
			l, err := a.VMs.Drivers(ctx, auth.CallerFrom(ctx))
			if err != nil {
				return nil, err
			}
			return &driversOutput{&wire.List[wire.Driver]{Items: mapped(l, driver)}}, nil
		})
	register(a, operation("get-status", http.MethodGet, "/status", tag, "What the server is and how it does", ""), options{scope: domain.ScopeAdmin},
		func(ctx context.Context, _ *none) (*statusOutput, error) {
			s, err := a.Status(ctx)
			if err != nil {
				return nil, err
			}
			return &statusOutput{s}, nil
		})
	register(a, operation("get-endpoints", http.MethodGet, "/endpoints", tag, "Where the server is reached, and what is to be trusted there", ""), options{scope: domain.ScopeRead},
		func(context.Context, *none) (*endpointsOutput, error) { return &endpointsOutput{a.Endpoints()}, nil })
}
