package sqlite

import (
	"strings"

	driver "modernc.org/sqlite"
	codes "modernc.org/sqlite/lib"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/storage/internal/sqlrepo"
)

// classify turns a database error into a violation or an error with a code.
// See https://sqlite.org/rescode.html for the codes.
func classify(err error) error {
	if err == nil {
		return nil
	}
	var own *errors.Error
	if errors.As(err, &own) {
		return err
	}
	var e *driver.Error
	if !errors.As(err, &e) {
		return errors.Wrap(err, errors.Internal, "the database failed")
	}
	switch e.Code() {
	case codes.SQLITE_CONSTRAINT_UNIQUE, codes.SQLITE_CONSTRAINT_PRIMARYKEY, codes.SQLITE_CONSTRAINT_ROWID:
		return &sqlrepo.Violation{Kind: sqlrepo.Unique, Detail: e.Error(), Err: err}
	case codes.SQLITE_CONSTRAINT_FOREIGNKEY:
		return &sqlrepo.Violation{Kind: sqlrepo.Reference, Detail: e.Error(), Err: err}
	}
	switch e.Code() & 0xff { // the primary code
	case codes.SQLITE_BUSY, codes.SQLITE_LOCKED:
		return errors.Wrap(err, errors.Unavailable, "the database is busy").WithHint("is another server using the same data directory?")
	case codes.SQLITE_FULL:
		return errors.Wrap(err, errors.NoSpace, "the disk with the database is full")
	case codes.SQLITE_IOERR, codes.SQLITE_CANTOPEN, codes.SQLITE_PERM, codes.SQLITE_READONLY, codes.SQLITE_AUTH:
		return errors.Wrap(err, errors.Unavailable, "the database file cannot be used")
	case codes.SQLITE_CORRUPT, codes.SQLITE_NOTADB:
		return errors.Wrap(err, errors.Internal, "the database file is damaged").WithHint("restore it from a backup")
	}
	return errors.Wrap(err, errors.Internal, "the database failed")
}

func isNoTransaction(err error) bool {
	return strings.Contains(err.Error(), "no transaction is active")
}
