package sqlrepo

import (
	"context"
	"strings"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// Single lets one SELECT through to a session, which needs no transaction for it.
type Single struct {
	Session
	asked bool
}

// Exec implements [Session].
func (s *Single) Exec(context.Context, string, ...any) (int64, error) { return 0, notOne() }

// ExecEach implements [Session].
func (s *Single) ExecEach(context.Context, string, [][]any) (int, error) { return 0, notOne() }

// ExecLater implements [Session].
func (s *Single) ExecLater(context.Context, Write) error { return notOne() }

// Query implements [Session].
func (s *Single) Query(ctx context.Context, each func(Row) error, query string, args ...any) error {
	if s.asked || !strings.HasPrefix(query, "SELECT ") {
		return notOne()
	}
	s.asked = true
	return s.Session.Query(ctx, each, query, args...)
}

func notOne() error {
	return errors.New(errors.Internal, "a read is one SELECT, and what needs more is a view")
}
