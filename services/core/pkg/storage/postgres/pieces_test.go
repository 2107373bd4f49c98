package postgres_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/storage/postgres"
)

// batches notes how many statements are sent together.
type batches struct {
	mu   sync.Mutex
	most int
}

func (b *batches) TraceBatchStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceBatchStartData) context.Context {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.most = max(b.most, data.Batch.Len())
	return ctx
}
func (b *batches) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}
func (b *batches) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData)     {}
func (b *batches) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}
func (b *batches) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// However many rows are written, a bounded number of statements is under way.
func TestManyRowsGoInPieces(t *testing.T) {
	t.Parallel()
	seen := new(batches)
	s, err := postgres.OpenTraced(t.Context(), server.Database(t), seen)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	const many = 1201
	rs := make([]*domain.AuditRecord, many)
	for i := range rs {
		rs[i] = &domain.AuditRecord{ID: domain.NewID(), At: time.Now(), Operation: "o"}
	}
	if err := s.Update(t.Context(), func(tx storage.Tx) error { return tx.Audit().Insert(t.Context(), rs...) }); err != nil {
		t.Fatal(err)
	}
	if seen.most < 3 || seen.most > 500 {
		t.Errorf("up to %d statements were sent together", seen.most)
	}
}
