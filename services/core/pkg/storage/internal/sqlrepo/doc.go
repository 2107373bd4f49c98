// Package sqlrepo implements the repositories of package storage over a
// [Session], in the SQL that SQLite and PostgreSQL share: ? placeholders,
// RETURNING, ON CONFLICT, row values, partial indexes. What differs between
// databases (connections, transactions, error codes) is the session's.
package sqlrepo
