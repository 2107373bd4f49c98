package postgres

import (
	"database/sql/driver"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/storage/internal/sqlrepo"
)

// classify turns a database error into a violation or an error with a code.
// See https://www.postgresql.org/docs/current/errcodes-appendix.html.
func classify(err error) error {
	if err == nil {
		return nil
	}
	var own *errors.Error
	var violation *sqlrepo.Violation
	if errors.As(err, &own) || errors.As(err, &violation) {
		return err
	}
	var e *pgconn.PgError
	if !errors.As(err, &e) {
		if isConnection(err) {
			return unreachable(err)
		}
		return errors.Wrap(err, errors.Internal, "the database failed")
	}
	switch e.Code {
	case "23505":
		return &sqlrepo.Violation{Kind: sqlrepo.Unique, Detail: e.ConstraintName, Err: err}
	case "23503":
		return &sqlrepo.Violation{Kind: sqlrepo.Reference, Detail: e.ConstraintName, Err: err}
	case "40001", "40P01":
		return errors.Wrap(err, errors.Conflict, "another transaction was in the way").WithHint("read again and retry")
	case "53100":
		return errors.Wrap(err, errors.NoSpace, "the disk with the database is full")
	case "53300":
		return errors.Wrap(err, errors.Unavailable, "the database has no connection left").WithHint("raise max_connections, or lower pool_max_conns of the database URL")
	case "55P03":
		return errors.Wrap(err, errors.Unavailable, "the database is busy").WithHint("others write for long, or a process holds a transaction open")
	case "57014":
		return errors.Wrap(err, errors.Unavailable, "the database took too long")
	case "25P03":
		return errors.Wrap(err, errors.Unavailable, "a transaction was held open for too long, and the database ended it")
	case "3D000":
		return errors.Wrap(err, errors.Unavailable, "there is no such database").WithHint("make it, or correct its name in the database URL")
	case "42501":
		return errors.Wrap(err, errors.Unavailable, "the database does not let this user do that").WithHint("let the user of the database URL own the database")
	}
	switch {
	case strings.HasPrefix(e.Code, "28"):
		return errors.Wrap(err, errors.Unavailable, "the database does not let this user in").WithHint("check user and password of the database URL, and the server's pg_hba.conf")
	case strings.HasPrefix(e.Code, "08"), strings.HasPrefix(e.Code, "57P"), strings.HasPrefix(e.Code, "53"):
		return errors.Wrap(err, errors.Unavailable, "the database is not available at the moment")
	case strings.HasPrefix(e.Code, "XX"), strings.HasPrefix(e.Code, "58"):
		return errors.Wrap(err, errors.Internal, "the database is damaged or its disk fails").WithHint("see the log of the PostgreSQL server")
	}
	return errors.Wrap(err, errors.Internal, "the database failed")
}

// isConnection reports whether an error is of the connection and not of what
// was said on it.
func isConnection(err error) bool {
	var connect *pgconn.ConnectError
	var network net.Error
	return errors.As(err, &connect) || errors.As(err, &network) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, net.ErrClosed) || errors.Is(err, driver.ErrBadConn)
}

func unreachable(err error) error {
	return errors.Wrap(err, errors.Unavailable, "the database cannot be reached").
		WithHint("is PostgreSQL running, and do host and port of the database URL lead to it?")
}
