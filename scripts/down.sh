#!/usr/bin/env bash
# Stops the server and its VMs and removes everything it made on the host
# except the data directory. `make down PURGE=1` removes that too.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

if [ ! -x "$BIN/aetherium-standalone" ]; then
  echo "nothing is built, so nothing of this clone runs"
  exit 0
fi
# What is stopped is told in one line; problems are told all the same.
export AETHERIUM_LOG_LEVEL=${AETHERIUM_LOG_LEVEL:-warn}
args=()
[ -n "${PURGE:-}" ] && args+=(--purge)
as_root "$BIN/aetherium-standalone" down "${args[@]}"
