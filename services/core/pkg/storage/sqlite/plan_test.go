package sqlite

import (
	"context"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage/internal/sqlrepo"
	"github.com/aetherium/aetherium/services/core/pkg/storage/storetest"
)

// planner runs statements and remembers how SQLite would.
type planner struct {
	*session
	plans []string // "query => plan"
}

func (p *planner) explain(ctx context.Context, query string, args []any) error {
	plan := []string{}
	err := p.session.Query(ctx, func(r sqlrepo.Row) error {
		var id, parent, unused int
		var detail string
		err := r.Scan(&id, &parent, &unused, &detail)
		plan = append(plan, detail)
		return err
	}, "EXPLAIN QUERY PLAN "+query, args...)
	p.plans = append(p.plans, query+" => "+strings.Join(plan, "; "))
	return err
}

func (p *planner) Exec(ctx context.Context, query string, args ...any) (int64, error) {
	if err := p.explain(ctx, query, args); err != nil {
		return 0, err
	}
	return p.session.Exec(ctx, query, args...)
}

func (p *planner) ExecEach(ctx context.Context, query string, rows [][]any) (int, error) {
	for i, args := range rows {
		if _, err := p.Exec(ctx, query, args...); err != nil {
			return i, err
		}
	}
	return 0, nil
}

func (p *planner) Query(ctx context.Context, each func(sqlrepo.Row) error, query string, args ...any) error {
	if err := p.explain(ctx, query, args); err != nil {
		return err
	}
	return p.session.Query(ctx, each, query, args...)
}

// how gives the plan of a statement.
func (p *planner) how(i int) string {
	_, how, _ := strings.Cut(p.plans[i], " => ")
	return how
}

// A scan without an index reads a whole table, and a sort reads everything
// before the first row of a page. Scans of what a plan itself made (subqueries
// and row values) are no tables.
var (
	wholeTable = regexp.MustCompile(`SCAN (\w+)(?: USING INDEX|$|;| )`)
	sorts      = regexp.MustCompile(`USE TEMP B-TREE FOR`)
)

func TestPlansUseIndexes(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s, err := Open(ctx, filepath.Join(t.TempDir(), "a.db"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })

	calls := storetest.Lookups(domain.NewID(), domain.NewID(), time.Now())
	c := <-s.writer
	defer func() { s.writer <- c }()

	// The checks below see a scan and a sort.
	bad := &planner{session: &session{conn: c, now: time.Now}}
	if err := bad.explain(ctx, "SELECT id FROM vms WHERE reason = 'x' ORDER BY reason, epoch", nil); err != nil {
		t.Fatal(err)
	}
	if scanned(bad.how(0)) != "vms" || !sorts.MatchString(bad.how(0)) {
		t.Fatalf("not seen in %q", bad.how(0))
	}
	for _, call := range calls {
		pl := &planner{session: &session{conn: c, now: time.Now}}
		tx := sqlrepo.NewTx(pl, new(sqlrepo.Pending))
		if err := errors.Join(call.Run(ctx, tx), tx.Flush(ctx)); err != nil {
			t.Errorf("%s: %v", call.Name, err)
			continue
		}
		if len(pl.plans) == 0 {
			t.Errorf("%s: no statement ran", call.Name)
		}
		for i, plan := range pl.plans {
			how := pl.how(i)
			if call.Index != "" && !strings.Contains(how, "INDEX "+call.Index) {
				t.Errorf("%s does not use %s:\n%s", call.Name, call.Index, plan)
			}
			if tables := scanned(how); tables != "" {
				t.Errorf("%s reads all of %s:\n%s", call.Name, tables, plan)
			}
			if sorts.MatchString(how) && !call.Sorts {
				t.Errorf("%s sorts:\n%s", call.Name, plan)
			}
		}
	}
}

// scanned names a table that a plan reads from end to end; an index in the
// order that is asked for, read until the limit, is fine. So are workers: a row
// is a host.
func scanned(plan string) string {
	for step := range strings.SplitSeq(plan, "; ") {
		if m := wholeTable.FindStringSubmatch(step); m != nil && !strings.Contains(step, "USING") &&
			m[1] != "CONSTANT" && m[1] != "last" && m[1] != "held" && m[1] != "workers" {
			return m[1]
		}
	}
	return ""
}
