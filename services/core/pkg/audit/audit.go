package audit

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

const (
	importEvery = time.Second
	sweepEvery  = time.Hour
	batch       = 500
)

// Options is what a log is made over. All are needed unless said otherwise.
type Options struct {
	Dir   string // of the journal, made with mode 0700
	Store storage.Store
	Log   *slog.Logger
	// Keep is how long records are kept; 0: for ever.
	Keep time.Duration
	// Lenient lets changes go on that cannot be recorded.
	Lenient bool
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Log is the audit log.
type Log struct {
	Options
	journal   *journal
	importing sync.Mutex
}

// Open opens the log, and brings into the database what an earlier server left
// in the journal; where that fails it is tried again later.
// Returns NoSpace, Unavailable.
func Open(ctx context.Context, o Options) (*Log, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	j, err := openJournal(o.Dir)
	if err != nil {
		return nil, err
	}
	l := &Log{Options: o, journal: j}
	if err := l.Import(ctx); err != nil {
		o.Log.ErrorContext(ctx, "the audit log's journal stays for later", "error", err)
	}
	return l, nil
}

// Reserve makes sure that a change can be recorded, before it is made. commit
// records it, once; nil gives the room back. Returns NoSpace or Unavailable for
// a change that must not be made, and commit returns them for one that could
// not be recorded for all that.
func (l *Log) Reserve() (commit func(*domain.AuditRecord) error, err error) {
	if err := l.journal.promise(); err != nil {
		if !l.Lenient {
			return nil, err
		}
		l.Log.Error("a change is made that may not be recorded", "error", err)
		return l.write, nil
	}
	return func(r *domain.AuditRecord) error {
		defer l.journal.keep()
		return l.write(r)
	}, nil
}

// Append records something that was not done, for which no room was made sure
// of before. Returns NoSpace, Unavailable.
func (l *Log) Append(r *domain.AuditRecord) error {
	commit, err := l.Reserve()
	if err != nil {
		return err
	}
	return commit(r)
}

// write fills in ID and time, and what is too long or cannot be printed.
func (l *Log) write(r *domain.AuditRecord) error {
	if r == nil {
		return nil
	}
	r.ID, r.At = domain.NewID(), l.Now().UTC().Truncate(time.Microsecond)
	r.Actor, r.Agent = plain(r.Actor, 254), plain(r.Agent, 128)
	r.Operation, r.SubjectKind, r.SubjectID = plain(r.Operation, 64), plain(r.SubjectKind, 32), plain(r.SubjectID, 254)
	r.Client, r.Code, r.RequestID = plain(r.Client, 64), plain(r.Code, 64), plain(r.RequestID, 64)
	err := l.journal.append(r)
	if err != nil && l.Lenient {
		l.Log.Error("a change was made and not recorded", "operation", r.Operation, "error", err)
		return nil
	}
	return err
}

// plain is text of printable characters and a bounded length.
func plain(s string, n int) string {
	if len(s) > n {
		s = s[:n]
	}
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			return '?'
		}
		return r
	}, s)
}

// Import brings what is in the journal into the database.
func (l *Log) Import(ctx context.Context) error {
	l.importing.Lock()
	defer l.importing.Unlock()
	// What was put aside before, and then what has come since.
	for range 2 {
		some, err := l.journal.turnOver()
		if err != nil || !some {
			return err
		}
		damaged, err := l.journal.readAside(batch, func(rs []*domain.AuditRecord) error {
			return l.Store.Aside(ctx, func(tx storage.Tx) error { return tx.Audit().Insert(ctx, rs...) })
		})
		if err != nil {
			return err
		}
		if damaged > 0 {
			l.Log.ErrorContext(ctx, "lines of the audit log's journal cannot be read; the file is kept", "lines", damaged)
		}
		if err := l.journal.dropAside(damaged > 0); err != nil {
			return errors.Wrap(err, errors.Unavailable, "the audit log's journal cannot be removed")
		}
	}
	return nil
}

// Filter narrows a list of records. Zero fields do not filter.
type Filter struct {
	Project      string // ID or name
	Actor        string
	Operation    string
	Subject      string
	Result       domain.AuditResult
	Since, Until time.Time
	vmm.Page
}

// List lists records, up to those of requests that were answered before:
// of the caller's project, or for administrators of any or all.
// Returns NotFound for the project.
func (l *Log) List(ctx context.Context, by vmm.Caller, f Filter) (vmm.List[*domain.AuditRecord], error) {
	var list vmm.List[*domain.AuditRecord]
	if err := l.Import(ctx); err != nil {
		return list, err
	}
	err := l.Store.View(ctx, func(tx storage.Tx) error {
		project, err := whose(ctx, tx, by, f.Project)
		if err != nil {
			return err
		}
		list, err = tx.Audit().List(ctx, storage.AuditFilter{
			ProjectID: project, Actor: f.Actor, Operation: f.Operation, Subject: f.Subject, Result: f.Result,
			Since: f.Since, Until: f.Until, Page: f.Page,
		})
		return err
	})
	return list, err
}

// whose is the project whose records a caller gets.
func whose(ctx context.Context, tx storage.Tx, by vmm.Caller, named string) (domain.ID, error) {
	switch {
	case named == "" && by.Admin:
		return storage.System, nil
	case named == "" || named == by.ProjectID.String():
		return by.ProjectID, nil
	case domain.IsID(named) && by.Admin:
		return domain.ID(named), nil // records outlive their project
	}
	p, err := tx.Projects().ByName(ctx, named)
	if err == nil && (by.Admin || p.ID == by.ProjectID) {
		return p.ID, nil
	}
	if err == nil || errors.HasCode(err, errors.NotFound) {
		err = errors.New(errors.NotFound, "there is no project %q", named).WithField("query.project")
	}
	return "", err
}

// Run brings records into the database and removes old ones until ctx ends, and
// then brings in the last.
func (l *Log) Run(ctx context.Context) error {
	tick, sweep := time.NewTicker(importEvery), time.NewTicker(sweepEvery)
	defer tick.Stop()
	defer sweep.Stop()
	l.sweep(ctx)
	for {
		select {
		case <-tick.C:
			if err := l.Import(ctx); err != nil && ctx.Err() == nil {
				l.Log.WarnContext(ctx, "the audit log's journal stays for later", "error", err)
			}
		case <-sweep.C:
			l.sweep(ctx)
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			defer cancel()
			return l.Import(last)
		}
	}
}

// sweep removes records that were kept long enough.
func (l *Log) sweep(ctx context.Context) {
	for n := batch; l.Keep > 0 && n == batch; {
		err := l.Store.Update(ctx, func(tx storage.Tx) (err error) {
			n, err = tx.Audit().DeleteBefore(ctx, l.Now().Add(-l.Keep), batch)
			return err
		})
		if err != nil {
			if ctx.Err() == nil {
				l.Log.WarnContext(ctx, "old records of the audit log stay", "error", err)
			}
			return
		}
	}
}

// Close lets go of the journal. What is in it comes into the database at the
// next start.
func (l *Log) Close() error { return l.journal.close() }
