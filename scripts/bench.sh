#!/usr/bin/env bash
# Builds the benchmark program and runs it from the root, as root.
#   ROUNDS=51 make bench          more rounds than 21
#   ONLY=microvm make bench       only the benchmarks with this in their names
# AETHERIUM_TEST_KERNEL names a directory with an unpacked kernel package;
# without it one is fetched for the microVMs.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
cd "$ROOT"

scripts/install-deps.sh --bench
(cd tests && CGO_ENABLED=0 "${GO:-go}" build -o "$BIN/aetherium-bench" ./bench)
as_root "$BIN/aetherium-bench" -rounds "${ROUNDS:-21}" -only "${ONLY:-}" -out bench/out/latest.json
