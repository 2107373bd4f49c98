package api

import (
	"context"
	"net/http"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/audit"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/gateway/pkg/auth"
	"github.com/aetherium/aetherium/services/gateway/pkg/trail"
)

// AuditLog keeps the log of who changed what.
type AuditLog interface {
	trail.Log
	// List lists records, up to those of requests that were answered before: of
	// the caller's project, or for administrators of any or all. Returns
	// NotFound for the project.
	List(ctx context.Context, by vmm.Caller, f audit.Filter) (vmm.List[*domain.AuditRecord], error)
}

type (
	auditInput struct {
		PageQuery
		Project   string    `query:"project" maxLength:"63" doc:"ID or name of a project; absent: the caller's own, or for administrators all"`
		Actor     string    `query:"actor" maxLength:"254" doc:"Name of a key or user, or ID of one"`
		Operation string    `query:"operation" maxLength:"64" doc:"ID of an operation, such as create-vm"`
		Subject   string    `query:"subject" maxLength:"254" doc:"ID or name of what it was done to, or ID of a VM"`
		Result    string    `query:"result" enum:"done,refused,failed"`
		Since     time.Time `query:"since" doc:"Not before"`
		Until     time.Time `query:"until" doc:"Before"`
	}
	auditOutput struct {
		Body *wire.List[wire.AuditRecord]
	}
)

func (a *API) auditRoutes() {
	register(a, operation("list-audit", http.MethodGet, "/audit", "Events", "List who changed what",
		"Every request that changes something leaves a record before it is answered, also one that failed or was refused."), options{scope: domain.ScopeManage}, a.listAudit)
}

func (a *API) listAudit(ctx context.Context, in *auditInput) (*auditOutput, error) {
	if a.Audit == nil {
		return nil, errors.New(errors.Unsupported, "this server keeps no audit log")
	}
	l, err := a.Audit.List(ctx, auth.CallerFrom(ctx), audit.Filter{
		Project: in.Project, Actor: in.Actor, Operation: in.Operation, Subject: in.Subject, Result: domain.AuditResult(in.Result),
		Since: in.Since, Until: in.Until, Page: in.page(),
	})
	if err != nil {
		return nil, err
	}
	return &auditOutput{listOf(l, auditRecord)}, nil
}

func auditRecord(r *domain.AuditRecord) wire.AuditRecord {
	return wire.AuditRecord{
		ID: r.ID.String(), At: r.At, ProjectID: r.ProjectID.String(), Actor: r.Actor, KeyID: r.KeyID.String(), UserID: r.UserID.String(),
		Admin: r.Admin, Entered: r.Entered, Operation: r.Operation, SubjectKind: r.SubjectKind, SubjectID: r.SubjectID, VMID: r.VMID.String(),
		Client: r.Client, Agent: r.Agent, Result: string(r.Result()), Status: r.Status, Code: r.Code, RequestID: r.RequestID, Unrecorded: r.Unrecorded,
	}
}
