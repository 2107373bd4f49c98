package sqlrepo

import (
	"context"
	"strings"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// Row is one row of a result, valid during the callback it is given to.
type Row interface {
	Scan(dest ...any) error
}

// Session runs statements within one transaction. Queries are few and
// constant but for lists, so a session keeps them prepared. Errors are
// *[Violation] or carry a code.
type Session interface {
	// Exec returns the number of rows written.
	Exec(ctx context.Context, query string, args ...any) (int64, error)
	// ExecEach is Exec for each of several rows of arguments, in a round trip or two
	// where there are any. It returns the first one that failed.
	ExecEach(ctx context.Context, query string, rows [][]any) (failed int, err error)
	// ExecLater runs a statement with the one after it, or with the commit, without a
	// round trip of its own; the statements after it find what it has written. What it
	// fails with is what the transaction fails with, whatever who runs it made of that.
	ExecLater(ctx context.Context, w Write) error
	// Query calls each for every row; the rows are closed when it returns.
	Query(ctx context.Context, each func(Row) error, query string, args ...any) error
	// Clock is an expression for the database's present time in microseconds,
	// with its arguments.
	Clock() (expr string, args []any)
}

// Write is an INSERT, an UPDATE or a DELETE whose outcome nobody waits for.
type Write struct {
	Query  string
	Args   []any
	Absent error             // what it fails with when it wrote no row; nil: nothing
	Fault  func(error) error // says what an error of it means; nil: as it is
}

// Outcome is what a write fails with, by its error or the rows that it has written.
func (w *Write) Outcome(rows int64, err error) error {
	switch {
	case err == nil && rows == 0:
		return w.Absent
	case err != nil && w.Fault != nil:
		return w.Fault(err)
	}
	return err
}

// Statement is one that is yet to be run; Each is called for every row.
type Statement struct {
	Query string
	Args  []any
	Each  func(Row) error
}

// ViolationKind is which sort of constraint did not hold.
type ViolationKind int

// The kinds.
const (
	Unique ViolationKind = iota + 1
	Reference
)

// Violation is a constraint that did not hold.
type Violation struct {
	Kind   ViolationKind
	Detail string // names columns or the constraint, for [Violation.On] only
	Err    error
}

func (v *Violation) Error() string { return "constraint violated: " + v.Detail }

// Unwrap gives the database's error.
func (v *Violation) Unwrap() error { return v.Err }

// violated reports whether err is a violation of a kind whose detail contains
// all words ("vms", "name").
func violated(err error, kind ViolationKind, words ...string) bool {
	var v *Violation
	if !errors.As(err, &v) || v.Kind != kind {
		return false
	}
	for _, w := range words {
		if !strings.Contains(v.Detail, w) {
			return false
		}
	}
	return true
}

// fault gives an error that no repository expects a code.
func fault(err error, doing string) error {
	var v *Violation
	if errors.As(err, &v) {
		return errors.Wrap(err, errors.Internal, "%s broke a rule of the database", doing)
	}
	return err
}

// queryOne scans the first row; absent says what to return when there is none.
func queryOne[T any](ctx context.Context, s Session, scan func(Row) (*T, error), absent *errors.Error, query string, args ...any) (*T, error) {
	var out *T
	err := s.Query(ctx, func(r Row) error {
		if out != nil {
			return nil
		}
		v, err := scan(r)
		out = v
		return err
	}, query, args...)
	if err != nil {
		return nil, err
	}
	if out == nil {
		return nil, absent
	}
	return out, nil
}

// queryAll scans every row.
func queryAll[T any](ctx context.Context, s Session, scan func(Row) (*T, error), query string, args ...any) ([]*T, error) {
	var out []*T
	err := s.Query(ctx, func(r Row) error {
		v, err := scan(r)
		if err == nil {
			out = append(out, v)
		}
		return err
	}, query, args...)
	if err != nil {
		return nil, err
	}
	return out, nil
}

// queryInt reads one integer; without a row it is 0.
func queryInt(ctx context.Context, s Session, query string, args ...any) (int64, error) {
	var n int64
	err := s.Query(ctx, func(r Row) error { return r.Scan(&n) }, query, args...)
	return n, err
}

func notFound(what string, id any) *errors.Error {
	return errors.New(errors.NotFound, "%s %v does not exist", what, id)
}

func changedMeanwhile(what string) *errors.Error {
	return errors.New(errors.Conflict, "the %s was changed meanwhile", what).WithHint("read it again and retry")
}
