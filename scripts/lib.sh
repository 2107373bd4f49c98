# shellcheck shell=bash
# Shared by the scripts beside it; sourced, not run.
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
BIN=${BIN:-$ROOT/bin}
export ROOT BIN

# as_root runs a command as root: directly, or by sudo with our settings kept.
as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    local settings
    settings=$(compgen -e AETHERIUM_ | paste -sd, -)
    sudo ${settings:+"--preserve-env=$settings"} "$@"
  else
    echo "this needs root, and there is no sudo: run it as root" >&2
    exit 1
  fi
}

say() { printf '\033[1m==> %s\033[0m\n' "$*"; }
