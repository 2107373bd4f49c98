#!/usr/bin/env bash
# Starts the server in the background (a running one is left alone), makes the
# base template the first time, and shows the main job.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

say "starting the server"
as_root "$BIN/aetherium-standalone" start
"$ROOT/scripts/demo.sh"

# Previews and SDKs of E2B's kind go by names, which not every host resolves.
"$ROOT/scripts/names.sh" --offer
