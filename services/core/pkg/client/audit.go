package client

import (
	"context"
	"iter"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
)

// AuditFilter narrows the audit log. Zero fields do not filter.
type AuditFilter struct {
	// Project, by ID or name; empty: the key's own, for administrators all.
	Project      string
	Actor        string
	Operation    string
	Subject      string
	Result       string // done, refused or failed
	Since, Until time.Time
}

// Audit lists who changed what. Returns PermissionDenied for keys without the
// scope manage.
func (c *Client) Audit(ctx context.Context, f AuditFilter, p Page) iter.Seq2[api.AuditRecord, error] {
	cl := get("audit")
	stamp := func(t time.Time) string {
		if t.IsZero() {
			return ""
		}
		return t.UTC().Format(time.RFC3339Nano)
	}
	for _, q := range [][2]string{
		{"project", f.Project}, {"actor", f.Actor}, {"operation", f.Operation}, {"subject", f.Subject}, {"result", f.Result},
		{"since", stamp(f.Since)}, {"until", stamp(f.Until)},
	} {
		if q[1] != "" {
			cl = cl.param(q[0], q[1])
		}
	}
	return all[api.AuditRecord](ctx, c, cl, p)
}
