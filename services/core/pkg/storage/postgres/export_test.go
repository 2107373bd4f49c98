package postgres

import (
	"context"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/storage/internal/sqlrepo"
)

// OpenTraced is Open, whose statements are told of.
func OpenTraced(ctx context.Context, database string, tell pgx.QueryTracer) (*Store, error) {
	first, err := Open(ctx, database, Options{})
	if err != nil {
		return nil, err
	}
	if err := first.Close(); err != nil {
		return nil, err
	}
	cfg, params, err := parse(database)
	if err != nil {
		return nil, err
	}
	cfg.ConnConfig.Tracer = tell
	s := &Store{o: Options{}.withDefaults(params), baton: make(chan struct{}, 1), shareFor: shareFor, closing: make(chan struct{}), closed: make(chan struct{})}
	if s.listener, err = listen(ctx, cfg.ConnConfig, s.o, &s.changed, &s.keysChanged); err != nil {
		return nil, err
	}
	return s, s.connect(ctx, cfg)
}

// Share lets turns be joined however long they last.
func (s *Store) Share() { s.shareFor = time.Hour }

// Waiting is how many wait for the turn that another has.
func (s *Store) Waiting() int { return int(s.waiting.Load()) }

// Plans gives the plan of each statement that f runs, and takes back what f did.
func (s *Store) Plans(ctx context.Context, f func(context.Context, storage.Tx) error) ([]string, error) {
	sess, err := s.session(ctx, s.writer, "BEGIN")
	if err != nil {
		return nil, err
	}
	defer sess.end(false)
	p := &planner{session: sess}
	tx := sqlrepo.NewTx(p, new(sqlrepo.Pending))
	err = f(ctx, tx)
	return p.plans, errors.Join(err, tx.Flush(ctx))
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

func (p *planner) ExecEach(ctx context.Context, query string, rows [][]any) (int, error) {
	for i, args := range rows {
		if _, err := p.Exec(ctx, query, args...); err != nil {
			return i, err
		}
	}
	return 0, nil
}

func (p *planner) ExecLater(ctx context.Context, w sqlrepo.Write) error {
	n, err := p.Exec(ctx, w.Query, w.Args...)
	return w.Outcome(n, err)
}

func (p *planner) Query(ctx context.Context, each func(sqlrepo.Row) error, query string, args ...any) error {
	if err := p.explain(ctx, query, args); err != nil {
		return err
	}
	return p.session.Query(ctx, each, query, args...)
}
