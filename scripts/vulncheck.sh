#!/usr/bin/env bash
# Looks for known vulnerabilities in what our code calls (govulncheck), in all
# modules at once.
#
# What is scanned with what is pinned, so that the same commit gives the same
# answer: govulncheck, the Go release (go.work's toolchain line) and the
# database, which is a Go module too. VULNDB=https://vuln.go.dev asks the live
# database instead.
#
# It fails for a vulnerability in a module that our code calls. One in the
# standard library is mended by a newer Go release alone: it fails where release
# and database are the pinned ones, as then only a commit can have brought it
# up; else it is told, and fails with VULNCHECK_STRICT=1.
#
#   --self-test   show that a vulnerable module is found
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
cd "$ROOT"

scanner_version=v1.9.0
database_version=v0.0.0-20261105234957-e22db6528018

command -v jq >/dev/null || scripts/install-deps.sh --test
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# database makes the pinned database once from the reports of its module, by
# the module's own program, and prints its URL.
database() {
  local dir=$ROOT/.tools/vulndb-$database_version indexer reports made
  if [ ! -e "$dir/index/modules.json" ]; then
    indexer=$(go_tool golang.org/x/vulndb/cmd/indexdb "$database_version")
    reports=$(cd / && GOWORK=off GOFLAGS=-mod=mod "${GO:-go}" mod download -json "golang.org/x/vulndb@$database_version" | jq -re .Dir)/data/osv
    made=$(mktemp -d "$ROOT/.tools/.vulndb-XXXXXX")
    "$indexer" -vulns "$reports" -out "$made"
    chmod 0755 "$made"
    # Two at once make the same; the first stays.
    mv -T "$made" "$dir" 2>/dev/null || rm -rf "$made"
  fi
  printf 'file://%s\n' "$dir"
}

scanner=$(go_tool golang.org/x/vuln/cmd/govulncheck "$scanner_version")
pinned_database=
if [ -z "${VULNDB:-}" ]; then
  VULNDB=$(database)
  pinned_database=1
fi

release=$(pinned_toolchain)
here=$("${GO:-go}" env GOVERSION)
pinned_release=1
if GOTOOLCHAIN=$release "${GO:-go}" version >/dev/null 2>&1; then
  export GOTOOLCHAIN=$release
  [ "$here" = "$release" ] || echo "scanning as built with $release, the release that go.work names; go on this host is $here (GOTOOLCHAIN=auto builds with the former)"
else
  pinned_release=
  echo "$release, the release that go.work names, cannot be had here; scanning as built with $here"
fi
strict=${VULNCHECK_STRICT:-}
[ -z "$pinned_database" ] || [ -z "$pinned_release" ] || strict=1

# scan DIR PATTERN writes the called vulnerabilities to $tmp/called, one a line:
# ID, module, version, fixed in, what it is, who calls. The JSON form exits
# with 0 whatever it finds, so that a failure is one of the scan itself.
scan() {
  (cd "$1" && "$scanner" -format json -db "$VULNDB" "$2") >"$tmp/scan.json"
  jq -rs '
    (map(.osv | select(.) | {(.id): .summary}) | add) as $summary |
    map(.finding | select(.) | select(.trace[0].function)) | group_by([.osv, .trace[0].module]) | .[] | .[0] |
    [.osv, .trace[0].module, .trace[0].version, (.fixed_version // "nothing yet"), $summary[.osv],
     (.trace[-1] | .package + "." + .function)] | @tsv' "$tmp/scan.json" >"$tmp/called"
}

tell() {
  awk -F'\t' '{ printf "%s  %s@%s, fixed in %s\n    %s\n    called by %s\n", $1, $2, $3, $4, $5, $6 }' "$1"
}

if [ "${1:-}" = --self-test ]; then
  mkdir "$tmp/module"
  cat >"$tmp/module/go.mod" <<'MOD'
module example.com/vulnerable

go 1.26.0

require golang.org/x/text v0.3.5
MOD
  cat >"$tmp/module/main.go" <<'GO'
// Command vulnerable calls what GO-2021-0113 is about.
package main

import "golang.org/x/text/language"

func main() { _, _ = language.Parse("en") }
GO
  (cd "$tmp/module" && GOWORK=off "${GO:-go}" mod download golang.org/x/text && GOWORK=off "${GO:-go}" mod tidy) >/dev/null 2>&1
  export GOWORK=off
  scan "$tmp/module" ./...
  grep -q '^GO-2021-0113	golang.org/x/text' "$tmp/called" || { echo "a vulnerable module was not found" >&2; exit 1; }
  echo "a vulnerable module is found"
  exit 0
fi

# One pattern spans the workspace's modules, from within any of them.
scan services/standalone github.com/aetherium/aetherium/...
awk -F'\t' '$2 == "stdlib"' "$tmp/called" >"$tmp/stdlib"
awk -F'\t' '$2 != "stdlib"' "$tmp/called" >"$tmp/modules"
status=0
if [ -s "$tmp/modules" ]; then
  echo "vulnerabilities in modules that our code calls:"
  tell "$tmp/modules"
  status=1
fi
if [ -s "$tmp/stdlib" ]; then
  echo "vulnerabilities in the standard library of ${GOTOOLCHAIN:-$here} that our code calls; a newer Go release mends them (toolchain in go.work):"
  tell "$tmp/stdlib"
  [ -z "$strict" ] || status=1
fi
if [ ! -s "$tmp/called" ]; then
  [ -z "$pinned_database" ] || VULNDB=golang.org/x/vulndb@$database_version
  echo "no known vulnerability is called (database: $VULNDB)"
fi
exit $status
