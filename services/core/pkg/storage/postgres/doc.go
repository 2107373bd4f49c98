// Package postgres keeps the store in a PostgreSQL database that any number of
// processes share.
//
// Writing transactions take turns across all of them: each takes one advisory
// lock of the database before its first statement and gives it back with its
// commit. That is what makes the store's promises hold here as they do in one
// process: nothing that a transaction has read changes before it commits, sums
// of admission are true, there is no deadlock and no serialization failure to
// retry, and the numbers of outbox events come in the order of commits, so that
// a reader's cursor never passes over one that commits later. A process that
// stops inside of a transaction holds the turn for [Options.Turn] at most; then
// the server ends its session.
//
// Reads run beside that, each on one state of the database.
//
// Commits that have written events or keys are told to the other processes by
// NOTIFY, as a hint.
package postgres
