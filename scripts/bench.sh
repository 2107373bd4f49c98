#!/usr/bin/env bash
# Builds the benchmark program and runs it from the root, as root.
#   ROUNDS=51 make bench
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
cd "$ROOT"

scripts/install-deps.sh --bench
(cd tests && CGO_ENABLED=0 "${GO:-go}" build -o "$BIN/aetherium-bench" ./bench)
as_root "$BIN/aetherium-bench" -rounds "${ROUNDS:-21}" -out bench/out/latest.json
