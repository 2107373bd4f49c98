package sqlrepo

import (
	"context"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

// Tx hands out the repositories over one session, and tells afterwards what
// kinds of things were written.
type Tx struct {
	s         Session
	pending   *Pending
	wrote     bool
	wroteKeys bool
	read      readVM
}

// readVM is what the transaction knows of the VM that it read last: nobody else
// changes it meanwhile.
type readVM struct {
	project, id domain.ID
	revision    int64
	metadata    map[string]string
}

// NewTx makes the repositories of a transaction, whose events go to pending
// until they are flushed.
func NewTx(s Session, pending *Pending) *Tx { return &Tx{s: s, pending: pending} }

// Flush writes the events that were appended so far.
func (t *Tx) Flush(ctx context.Context) error {
	for _, st := range t.pending.Statements() {
		if err := t.s.Query(ctx, st.Each, st.Query, st.Args...); err != nil {
			return fault(err, "writing an event")
		}
	}
	*t.pending = Pending{} // and not what others know of
	return nil
}

// Wrote reports whether the transaction has appended events.
func (t *Tx) Wrote() bool { return t.wrote }

// WroteKeys reports whether the transaction has changed what anybody may do.
func (t *Tx) WroteKeys() bool { return t.wroteKeys }

var _ storage.Tx = (*Tx)(nil)

// Projects implements [storage.Tx].
func (t *Tx) Projects() storage.Projects { return projects{t.s, t} }

// VMs implements [storage.Tx].
func (t *Tx) VMs() storage.VMs { return vms{t.s, t} }

// Machines implements [storage.Tx].
func (t *Tx) Machines() storage.Machines { return machines{t.s} }

// Executions implements [storage.Tx].
func (t *Tx) Executions() storage.Executions { return executions{t.s} }

// Archives implements [storage.Tx].
func (t *Tx) Archives() storage.Archives { return archives{t.s} }

// Uploads implements storage.Tx.
func (t *Tx) Uploads() storage.Uploads { return uploads{t.s} }

// OutputPacks implements [storage.Tx].
func (t *Tx) OutputPacks() storage.OutputPacks { return outputPacks{t.s} }

// Templates implements [storage.Tx].
func (t *Tx) Templates() storage.Templates { return templates{t.s} }

// Builds implements [storage.Tx].
func (t *Tx) Builds() storage.Builds { return builds{t.s} }

// Snapshots implements [storage.Tx].
func (t *Tx) Snapshots() storage.Snapshots { return snapshots{t.s} }

// Names implements [storage.Tx].
func (t *Tx) Names() storage.Names { return names{t.s} }

// Tasks implements [storage.Tx].
func (t *Tx) Tasks() storage.Tasks { return tasks{t.s} }

// Workers implements [storage.Tx].
func (t *Tx) Workers() storage.Workers { return workers{t.s} }

// JoinTokens implements [storage.Tx].
func (t *Tx) JoinTokens() storage.JoinTokens { return joinTokens{t.s} }

// Outbox implements [storage.Tx].
func (t *Tx) Outbox() storage.Outbox { return outbox{t} }

// Usage implements [storage.Tx].
func (t *Tx) Usage() storage.UsageRows { return usage{t.s} }

// Keys implements [storage.Tx].
func (t *Tx) Keys() storage.Keys { return keys{t.s, t} }

// Users implements [storage.Tx].
func (t *Tx) Users() storage.Users { return users{t.s, t} }

// Members implements [storage.Tx].
func (t *Tx) Members() storage.Members { return members{t.s, t} }

// Idempotency implements [storage.Tx].
func (t *Tx) Idempotency() storage.Idempotency { return idempotency{t.s} }

// Answers implements [storage.Tx].
func (t *Tx) Answers() storage.Answers { return answers{t.s} }

// Secrets implements [storage.Tx].
func (t *Tx) Secrets() storage.Secrets { return secrets{t.s} }

// Volumes implements [storage.Tx].
func (t *Tx) Volumes() storage.Volumes { return volumes{t.s} }

// Webhooks implements [storage.Tx].
func (t *Tx) Webhooks() storage.Webhooks { return webhooks{t.s} }

// Settings implements [storage.Tx].
func (t *Tx) Settings() storage.Settings { return settings{t.s, t} }

// Sealed implements [storage.Tx].
func (t *Tx) Sealed() storage.Sealed { return sealed{t.s} }

// Quotas implements [storage.Tx].
func (t *Tx) Quotas() storage.Quotas { return quotas{t.s} }

// Audit implements [storage.Tx].
func (t *Tx) Audit() storage.Audit { return audit{t.s} }
