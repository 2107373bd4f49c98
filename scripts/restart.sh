#!/usr/bin/env bash
# Stops the server and starts the one that is built now. Its VMs run on.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

as_root "$BIN/aetherium-standalone" stop
as_root "$BIN/aetherium-standalone" start
