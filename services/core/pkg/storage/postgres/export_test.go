package postgres

import (
	"context"
	"strings"

	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/storage/internal/sqlrepo"
)

// Plans gives the plan of each statement that f runs, and takes back what f did.
func (s *Store) Plans(ctx context.Context, f func(context.Context, storage.Tx) error) ([]string, error) {
	c, err := s.take(ctx, s.writer, "BEGIN")
	if err != nil {
		return nil, err
	}
	defer release(c)
	p := &planner{session: &session{conn: c.Conn()}}
	err = f(ctx, sqlrepo.NewTx(p))
	return p.plans, err
}

// planner runs statements and remembers how PostgreSQL would.
type planner struct {
	*session
	plans []string
}

func (p *planner) explain(ctx context.Context, query string, args []any) error {
	plan := query
	err := p.session.Query(ctx, func(r sqlrepo.Row) error {
		var line string
		err := r.Scan(&line)
		plan += "\n\t" + line
		return err
	}, "EXPLAIN "+query, args...)
	p.plans = append(p.plans, strings.TrimSpace(plan))
	return err
}

func (p *planner) Exec(ctx context.Context, query string, args ...any) (int64, error) {
	if err := p.explain(ctx, query, args); err != nil {
		return 0, err
	}
	return p.session.Exec(ctx, query, args...)
}

func (p *planner) Query(ctx context.Context, each func(sqlrepo.Row) error, query string, args ...any) error {
	if err := p.explain(ctx, query, args); err != nil {
		return err
	}
	return p.session.Query(ctx, each, query, args...)
}
