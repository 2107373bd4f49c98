#!/usr/bin/env bash
# Runs `go test` with the race detector and the given arguments, in the module
# of the working directory. SQLite and its C library, which are translated from
# C to Go, are compiled without the detector and without checks of pointers:
# both look at every access of memory, and most of the time that tests of
# stores took was theirs. Their locks stay what the detector knows of, for these
# are Go's own. What debuggers need is left out: a third of the linking is for it.
set -euo pipefail
without='-race=false -d=checkptr=0'
CGO_ENABLED=1 exec "${GO:-go}" test -race -ldflags=-w -gcflags="modernc.org/sqlite/lib=$without" -gcflags="modernc.org/libc=$without" -gcflags="modernc.org/memory=$without" "$@"
