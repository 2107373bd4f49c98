// Package audit keeps the log of who changed what.
//
// A record is one line, appended to a journal file by one write(2) before the
// answer that it tells of goes out, and brought into the database in batches
// later: the log costs a request some microseconds and no commit, and a server
// that is killed has lost nothing that a client was told. A record's ID is
// minted with the line, so that lines which are read again after a crash come
// into the database once. As with the database, what the host itself had not
// written to its disk is lost when the host fails.
//
// Room on the disk is allocated ahead. A change asks for its record's room
// first, and is refused when there is none: what is done is recorded.
package audit
