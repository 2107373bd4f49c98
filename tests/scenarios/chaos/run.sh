#!/usr/bin/env bash
# Faults in a fleet, for a time: run.sh DURATION. AETHERIUM_CHAOS_SEED is where
# they come from, AETHERIUM_CHAOS_ONLY a part of the names of those made.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../../scripts/lib.sh"
[ "$(id -u)" = 0 ] || { echo "this needs root: run it as root" >&2; exit 1; }
cd "$ROOT/tests"
if [ -z "${AETHERIUM_TEST_ROOTFS:-}" ]; then
  know_kernels
  eval "$("${GO:-go}" run ./fixtures "$ROOT/.tools/fixtures")"
fi
export AETHERIUM_CHAOS_ROOTFS=$AETHERIUM_TEST_ROOTFS AETHERIUM_CHAOS_FOR=$1
exec "$ROOT/scripts/go-test.sh" -count=1 -v -timeout 24h -run '^TestNothingIsLost$' ./scenarios/chaos
