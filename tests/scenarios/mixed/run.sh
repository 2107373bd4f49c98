#!/usr/bin/env bash
# An older version of this repository beside this one: run.sh [COMMIT]. Without one,
# the newest tag; or, where there is none, what is 200 commits back, or the oldest that has
# a gateway of its own. AETHERIUM_MIXED_ONLY is a part of the tests' names.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../../scripts/lib.sh"
cd "$ROOT"

has_gateway() { git cat-file -e "$1:services/gateway/cmd/api-gateway/main.go" 2>/dev/null; }

old=${1:-$(git describe --tags --abbrev=0 2>/dev/null || true)}
if [ -z "$old" ]; then
  old=$(git rev-parse --verify --quiet 'HEAD~200' || true)
  if [ -z "$old" ] || ! has_gateway "$old"; then
    old=$(git log --diff-filter=A --format=%H -- services/gateway/cmd/api-gateway/main.go | tail -n 1)
  fi
fi
old=$(git rev-parse --verify "$old^{commit}")
has_gateway "$old" || { echo "$old has no gateway that is a process of its own" >&2; exit 1; }

tmp=$(mktemp -d)
trap 'git worktree remove --force "$tmp/tree" 2>/dev/null; rm -rf "$tmp"; git worktree prune' EXIT
git worktree add --quiet --detach "$tmp/tree" "$old"
say "building $(git log -1 --format='%h of %as' "$old")"
for m in core gateway; do make --no-print-directory -C "$tmp/tree/services/$m" ROOT="$tmp/tree" BIN="$tmp/tree/bin" build; done

if [ -z "${AETHERIUM_TEST_ROOTFS:-}" ]; then
  eval "$(cd tests && "${GO:-go}" run ./fixtures "$ROOT/.tools/fixtures")"
fi
export AETHERIUM_MIXED_OLD=$tmp/tree/bin AETHERIUM_MIXED_ROOTFS=$AETHERIUM_TEST_ROOTFS
chmod 711 "$tmp" # the mapped roots of VMs walk through it
cd tests
"${GO:-go}" test -count=1 -v -timeout 1h -run "${AETHERIUM_MIXED_ONLY:-.}" ./scenarios/mixed
