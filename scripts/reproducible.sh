#!/usr/bin/env bash
# Builds twice, here and from a copy of the sources in another directory with
# an empty build cache, and compares the binaries byte by byte.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
cd "$ROOT"

tmp=$(mktemp -d)
trap 'chmod -R u+w "$tmp"; rm -rf "$tmp"' EXIT
COMMIT=$(git rev-parse --short=12 HEAD)
export COMMIT
mkdir "$tmp/copy"
git ls-files -co --exclude-standard -z | xargs -0 tar -c | tar -x -C "$tmp/copy"
say "building here"
make build BIN="$tmp/first" >/dev/null
say "building a copy, from nothing"
(unset ROOT && cd "$tmp/copy" && GOCACHE=$tmp/cache make build BIN="$tmp/second") >/dev/null
(cd "$tmp/first" && sha256sum -- *) | tee "$tmp/sums"
[ -s "$tmp/sums" ] && (cd "$tmp/second" && sha256sum --quiet -c "$tmp/sums")
echo "both builds are equal"
