#!/usr/bin/env bash
# Installs what VMs with a kernel of their own need: QEMU, and Debian's kernel
# for them, which is unpacked beside the data and not installed. Starts the
# server, anew where it runs without them (its VMs run on), and shows one.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

"$ROOT/scripts/install-deps.sh" --microvm
know_kernels
say "a kernel for VMs"
as_root "$BIN/aetherium-standalone" kernel install --keep
say "starting the server"
as_root "$BIN/aetherium-standalone" start

said=$(mktemp)
trap 'rm -f "$said"' EXIT
anew=
say "a VM with a kernel of its own"
show() {
  echo "$ aetherium run --driver qemu -- uname -a"
  # A server tries its drivers out after its start, this one by a boot.
  until "$BIN/aetherium" run --driver qemu -- uname -a 2>"$said"; do
    if grep -q "being tried out" "$said"; then
      sleep 1
    elif [ -z "$anew" ] && grep -q "(unsupported)" "$said"; then
      anew=1
      "$ROOT/scripts/restart.sh"
    else
      cat "$said" >&2
      exit 1
    fi
  done
}
time show
