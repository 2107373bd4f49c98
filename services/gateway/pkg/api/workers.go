package api

import (
	"context"
	"encoding/hex"
	"net/http"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/fleet"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/gateway/pkg/auth"
	"github.com/aetherium/aetherium/services/gateway/pkg/trail"
)

// workerBodyBytes bounds what is read of who has shown nothing yet.
const workerBodyBytes = 64 << 10

// Fleet takes in workers. Its errors are what fleet.Service promises.
type Fleet interface {
	CreateToken(ctx context.Context, by vmm.Caller, ttl time.Duration) (fleet.NewToken, error)
	ListTokens(ctx context.Context, by vmm.Caller, p vmm.Page) (vmm.List[*domain.JoinToken], error)
	RevokeToken(ctx context.Context, by vmm.Caller, id domain.ID) error
	Join(ctx context.Context, r fleet.JoinRequest, admitted fleet.Admitted) (fleet.Certificate, error)
	Renew(ctx context.Context, worker domain.ID, r fleet.RenewRequest, admitted fleet.Admitted) (fleet.Certificate, error)
}

type (
	createJoinTokenInput struct{ Body *wire.CreateJoinToken }
	newJoinTokenOutput   struct{ Body wire.NewJoinToken }
	joinTokensOutput     struct{ Body *wire.List[wire.JoinToken] }
	joinWorkerInput      struct{ Body wire.JoinWorker }
	renewWorkerInput     struct {
		IDPath
		Body wire.RenewWorker
	}
	workerCertificateOutput struct{ Body wire.WorkerCertificate }
)

// WorkerPath names a worker in a path.
type WorkerPath struct {
	Worker string `path:"id" maxLength:"253" pattern:"^[A-Za-z0-9][A-Za-z0-9._-]*$" doc:"ID or name of a worker"`
}

type (
	workerOutput     struct{ Body wire.Worker }
	drainWorkerInput struct {
		WorkerPath
		Body *wire.DrainWorker
	}
)

type removeWorkerInput struct {
	WorkerPath
	Fenced bool `query:"fenced" doc:"The worker runs nothing any more: its host is off for good, or its disk is wiped"`
}

// defaultDrain is how long VMs go on where a drain says nothing.
const defaultDrain = 10 * time.Minute

func (a *API) workerRoutes() {
	const tag = "Fleet"
	register(a, operation("get-worker", http.MethodGet, "/workers/{id}", tag, "Get a worker", ""), options{scope: domain.ScopeAdmin}, a.onWorker(vmm.Fleet.GetWorker))
	register(a, operation("cordon-worker", http.MethodPost, "/workers/{id}/cordon", tag, "Have a worker take nothing new", "What it has goes on."),
		options{scope: domain.ScopeAdmin}, a.onWorker(vmm.Fleet.CordonWorker))
	register(a, operation("uncordon-worker", http.MethodPost, "/workers/{id}/uncordon", tag, "Let a worker take what is new again", "A drain is taken back, too."),
		options{scope: domain.ScopeAdmin}, a.onWorker(vmm.Fleet.UncordonWorker))
	register(a, operation("drain-worker", http.MethodPost, "/workers/{id}/drain", tag, "Have a worker end its VMs",
		"It takes nothing new. VMs that still run at its drain_at are paused, stopped or deleted, as their on_timeout says; active tells how many are left. "+
			"With move, those that rest leave it, also those paused, with their memory where another worker can go on from it, else without it at drain_at: in_storage of them tells so, and vms how many are left. Asked again, the earlier time counts, and move stays."),
		options{scope: domain.ScopeAdmin}, func(ctx context.Context, in *drainWorkerInput) (*workerOutput, error) {
			body := given(in.Body)
			d := vmm.DrainWorker{Within: defaultDrain, Move: body.Move}
			if ms := body.WithinMS; ms != nil {
				d.Within = fromMS(*ms)
			}
			return a.onWorker(func(f vmm.Fleet, ctx context.Context, by vmm.Caller, idOrName string) (*domain.Worker, error) {
				return f.DrainWorker(ctx, by, idOrName, d)
			})(ctx, &in.WorkerPath)
		})
	register(a, operation("remove-worker", http.MethodDelete, "/workers/{id}", tag, "Remove a worker that is away for good",
		"One that has something still is removed with fenced alone. Its VMs end as lost, but for those that rest in the storage, whose next start is on another worker; "+
			"what it alone had (volumes, snapshots and templates that are not in the storage) is gone. What is left of it may not come back. "+
			"Broken off, it goes on when it is asked for again."),
		options{scope: domain.ScopeAdmin}, func(ctx context.Context, in *removeWorkerInput) (*empty, error) {
			w, err := a.VMs.RemoveWorker(ctx, auth.CallerFrom(ctx), in.Worker, in.Fenced)
			if err == nil {
				trail.Subject(ctx, "worker", w.ID.String())
			}
			return nil, err
		})
	create := operation("create-join-token", http.MethodPost, "/workers/tokens", tag, "Make a token by which one worker can join", "Its text is told this once.")
	create.DefaultStatus = http.StatusCreated
	register(a, create, options{scope: domain.ScopeAdmin, secret: true}, a.createJoinToken)
	register(a, operation("list-join-tokens", http.MethodGet, "/workers/tokens", tag, "List join tokens",
		"Those that were used or have expired as well, until they ended 30 days ago."), options{scope: domain.ScopeAdmin}, a.listJoinTokens)
	register(a, operation("revoke-join-token", http.MethodDelete, "/workers/tokens/{id}", tag, "Revoke a join token", "A worker that has joined by it stays."),
		options{scope: domain.ScopeAdmin}, a.revokeJoinToken)
	register(a, operation("join-worker", http.MethodPost, "/workers/join", tag, "Join as a worker",
		"For worker daemons. It needs no key: the request is signed by the secret of a join token. "+
			"Asked again with the same key it gives a certificate of the same worker."),
		options{open: true, body: workerBodyBytes}, a.joinWorker)
	register(a, operation("renew-worker", http.MethodPost, "/workers/{id}/certificate", tag, "Renew a worker's certificate",
		"For worker daemons. It needs no key: the request is signed by that of the worker's certificate, which must be valid still."),
		options{open: true, body: workerBodyBytes}, a.renewWorker)
}

// onWorker answers with the worker that do gives.
func (a *API) onWorker(do func(vmm.Fleet, context.Context, vmm.Caller, string) (*domain.Worker, error)) func(context.Context, *WorkerPath) (*workerOutput, error) {
	return func(ctx context.Context, in *WorkerPath) (*workerOutput, error) {
		w, err := do(a.VMs, ctx, auth.CallerFrom(ctx), in.Worker)
		if err != nil {
			return nil, err
		}
		trail.Subject(ctx, "worker", w.ID.String())
		return &workerOutput{worker(w)}, nil
	}
}

func (a *API) fleet() (Fleet, error) {
	if a.Fleet == nil {
		return nil, errors.New(errors.Unsupported, "this server has a worker of its own and takes in no others").
			WithHint("workers on other hosts join gateways, with which they share PostgreSQL; `aetherium-migrate copy` takes along what there is in SQLite")
	}
	return a.Fleet, nil
}

func (a *API) createJoinToken(ctx context.Context, in *createJoinTokenInput) (*newJoinTokenOutput, error) {
	f, err := a.fleet()
	if err != nil {
		return nil, err
	}
	t, err := f.CreateToken(ctx, auth.CallerFrom(ctx), fromMS(given(in.Body).TTLMS))
	if err != nil {
		return nil, err
	}
	trail.Subject(ctx, "token", t.Token.ID.String())
	return &newJoinTokenOutput{wire.NewJoinToken{JoinToken: a.joinToken(t.Token), Token: t.Text}}, nil
}

func (a *API) listJoinTokens(ctx context.Context, in *PageQuery) (*joinTokensOutput, error) {
	f, err := a.fleet()
	if err != nil {
		return nil, err
	}
	l, err := f.ListTokens(ctx, auth.CallerFrom(ctx), in.page())
	if err != nil {
		return nil, err
	}
	return &joinTokensOutput{listOf(l, a.joinToken)}, nil
}

func (a *API) revokeJoinToken(ctx context.Context, in *IDPath) (*empty, error) {
	f, err := a.fleet()
	if err != nil {
		return nil, err
	}
	return nil, f.RevokeToken(ctx, auth.CallerFrom(ctx), in.id())
}

func (a *API) joinWorker(ctx context.Context, in *joinWorkerInput) (*workerCertificateOutput, error) {
	f, err := a.fleet()
	if err != nil {
		return nil, err
	}
	b := in.Body
	c, err := f.Join(ctx, fleet.JoinRequest{Token: b.Token, Signature: b.Signature, CSR: b.CSR, Name: b.Name, Address: b.Address},
		func() error { return a.Trail.Reserve(ctx) })
	if err == nil {
		trail.Subject(ctx, "worker", c.Worker.String())
	}
	return certificateOr(c, err)
}

func (a *API) renewWorker(ctx context.Context, in *renewWorkerInput) (*workerCertificateOutput, error) {
	f, err := a.fleet()
	if err != nil {
		return nil, err
	}
	b := in.Body
	return certificateOr(f.Renew(ctx, in.id(), fleet.RenewRequest{CSR: b.CSR, Certificate: b.Certificate, Signature: b.Signature},
		func() error { return a.Trail.Reserve(ctx) }))
}

func certificateOr(c fleet.Certificate, err error) (*workerCertificateOutput, error) {
	if err != nil {
		return nil, err
	}
	return &workerCertificateOutput{wire.WorkerCertificate{WorkerID: c.Worker.String(), Certificate: string(c.PEM), Authority: string(c.Authority)}}, nil
}

func (a *API) joinToken(t *domain.JoinToken) wire.JoinToken {
	out := wire.JoinToken{
		ID: t.ID.String(), State: "usable", CreatedBy: t.CreatedBy, CreatedAt: t.CreatedAt, ExpiresAt: t.ExpiresAt, UsedAt: t.UsedAt, WorkerID: t.WorkerID.String(),
	}
	switch {
	case t.UsedAt != nil:
		out.State, out.KeySHA256 = "used", hex.EncodeToString(t.KeyHash[:])
	case !a.Now().Before(t.ExpiresAt):
		out.State = "expired"
	}
	return out
}
