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
domain=${AETHERIUM_LISTEN_PREVIEW_DOMAIN:-aeth.localhost}
if command -v getent >/dev/null && ! getent ahosts "8080-abcdefghij0123456789.$domain" >/dev/null; then
  echo
  echo "Names below $domain do not resolve on this host, so that previews and SDKs are not found by name."
  case $domain in
    localhost | *.localhost) echo "On Debian and Ubuntu this helps: apt-get install libnss-myhostname (more in docs/TLS.md)" ;;
    *) echo "docs/TLS.md tells what helps." ;;
  esac
fi
