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

# pinned_toolchain is the Go release that the workspace names.
pinned_toolchain() { awk '$1 == "toolchain" { print $2 }' "$ROOT/go.work"; }

# go_tool PACKAGE VERSION builds a program once from its Go module into .tools/
# and prints its path. The checksum database vouches for what it is made of.
go_tool() {
  local name path tmp
  name=$(basename "$1")
  path=$ROOT/.tools/$name-$2
  if [ ! -x "$path" ]; then
    say "building $name $2 (once)" >&2
    mkdir -p "$ROOT/.tools"
    tmp=$(mktemp -d "$ROOT/.tools/.build-XXXXXX")
    (cd / && CGO_ENABLED=0 GOWORK=off GOFLAGS='' GOBIN="$tmp" "${GO:-go}" install "$1@$2") >&2
    mv "$tmp/$name" "$path"
    rmdir "$tmp"
  fi
  printf '%s\n' "$path"
}

# know_kernels reads apt's package lists where they do not know Debian's kernel
# for virtual machines, as on a host that has never read them.
know_kernels() {
  if command -v apt-get >/dev/null && [ -z "$(apt-cache --quiet=2 madison "linux-image-cloud-$(dpkg --print-architecture)" 2>/dev/null)" ]; then
    as_root apt-get -qq update || true # one broken source must not matter
  fi
}
