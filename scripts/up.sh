#!/usr/bin/env bash
# Starts the server in the background (a running one is left alone), makes the
# base template the first time, and shows the main job.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

say "starting the server"
as_root "$BIN/aetherium-standalone" start
exec "$ROOT/scripts/demo.sh"
