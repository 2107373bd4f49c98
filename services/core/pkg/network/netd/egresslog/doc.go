// Package egresslog keeps what machines connected to: a file of JSON lines
// ([domain.EgressEntry]) for each machine. netd writes them, whoever may read
// the directory reads them, and they outlive both.
//
// A machine decides how much it connects, so its log is bounded in every way:
// the same entry within a second is written once with a count, what comes
// faster than the allowed rate is counted as a gap, and two files of half the
// bound follow each other.
package egresslog
