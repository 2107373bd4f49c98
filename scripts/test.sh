#!/usr/bin/env bash
# Installs what the tests need and runs them: every module's own tests with
# the race detector, then the end-to-end tests against a real server. A run of
# everything looks for known vulnerabilities, too,
# and lists what the binaries are made of.
#   --unit          only the modules' tests
#   --integration   only the end-to-end tests
#   --coverage      profiles under coverage/
#   --firecracker   the firecracker driver in a machine of its own, too
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
cd "$ROOT"

unit=1 integration=1 coverage='' firecracker=''
for arg in "$@"; do
  case $arg in
    --unit) integration= ;;
    --integration) unit= ;;
    --coverage) coverage=1 ;;
    --firecracker) firecracker=1 ;;
    *) echo "unknown option $arg" >&2; exit 2 ;;
  esac
done

# The packages whose tests run machines made from what the product ships.
machines='/(pkg/vmm/(vmmtest|qemu|microvm|microvm/kernel)|internal/agent/boot)$'

scripts/install-deps.sh --test
make build

failed=()
tmp=$(mktemp -d)
beside= # what runs beside the machines of every driver, a process group
ended() {
  if [ -n "$beside" ]; then # the run is broken off
    kill -- -"$beside" 2>/dev/null || :
    cat "$tmp"/firecracker/out "$tmp"/other*/out 2>/dev/null || :
  fi
  rm -rf "$tmp"
}
trap ended EXIT
log=$tmp/log
# logged keeps what is printed, of which failures are told again at the end: a
# run of everything is long.
logged() { tee -a "$log"; }
if [ -n "$unit" ] && [ -n "$integration" ] && [ -z "${AETHERIUM_TEST_OFFLINE:-}" ]; then
  say "known vulnerabilities"
  scripts/vulncheck.sh || failed+=(vulncheck)
  say "what the binaries are made of"
  scripts/sbom.sh || failed+=(sbom)
fi
# What machines of tests are made from is made beside the tests that need none.
know_kernels
(cd tests && exec "${GO:-go}" run ./fixtures "$ROOT/.tools/fixtures") >"$tmp/fixtures" 2>"$tmp/fixtures.log" &
making=$!
fixtures=
fixtures_made() {
  [ -n "$making" ] || return 0
  say "what machines of tests are made from"
  wait "$making" || failed+=(fixtures)
  making=
  cat "$tmp/fixtures.log"
  fixtures=$(cat "$tmp/fixtures")
}
# module NAME [PACKAGE...]: a module's tests, of all its packages where none is named.
module() {
  local m=$1 extra=()
  shift
  if [ -n "$coverage" ]; then
    mkdir -p coverage
    extra=(-covermode=atomic -coverprofile="$ROOT/coverage/$(basename "$m").out")
  fi
  [ $# -gt 0 ] || set -- ./...
  (cd "$m" && "$ROOT/scripts/go-test.sh" -timeout 15m "${extra[@]}" "$@")
}
# By Debian's Python: its packages are what the template has.
interpreter() (cd services/core/pkg/image/preset/code-interpreter && /usr/bin/python3 -m unittest discover -t . -s tests)
runc() (cd services/core && AETHERIUM_TEST_RUNTIME=runc "$ROOT/scripts/go-test.sh" -timeout 15m ./pkg/vmm/oci)
# An emulated machine keeps one processor busy, so that of the firecracker driver
# is run beside those of the other drivers. What needs none is done by whoever of
# the two has ended first, one after the other.
others=("go test services/gateway" "go test services/k8s-manager" "go test services/standalone" "the code interpreter's server" "go test services/core, machines by runc")
other() {
  case $1 in
    0) module services/gateway ;;
    1) module services/k8s-manager ;;
    2) module services/standalone ;;
    3) interpreter ;;
    4) runc ;;
  esac
}
# kept DIRECTORY COMMAND...: keeps what a command says and how it ends.
kept() {
  local dir=$1
  shift
  if "$@" >"$dir/out" 2>&1; then echo passed; else echo failed; fi >"$dir/how"
}
run_others() {
  local n
  for n in "${!others[@]}"; do
    ! mkdir "$tmp/other$n" 2>/dev/null || kept "$tmp/other$n" other "$n"
  done
}
run_beside() {
  [ -z "$firecracker" ] || kept "$tmp/firecracker" make firecracker-conformance
  run_others
}
# tell DIRECTORY TITLE: shows what was kept.
tell() {
  say "$2"
  logged <"$1/out"
  [ "$(cat "$1/how")" = passed ] || failed+=("$2")
}
if [ -n "$unit" ]; then
  for m in libs/common libs/types services/core; do
    say "go test $m"
    packages=()
    [ "$m" != services/core ] || mapfile -t packages < <(cd "$m" && "${GO:-go}" list ./... | grep -vE "$machines")
    module "$m" "${packages[@]}" 2>&1 | logged || failed+=("$m")
  done
  fixtures_made
  mkdir "$tmp/firecracker"
  set -m
  run_beside &
  beside=$!
  set +m
  say "go test services/core, machines of every driver"
  # One package after the other: an emulated machine is slow enough alone.
  mapfile -t packages < <(cd services/core && "${GO:-go}" list ./... | grep -E "$machines")
  (eval "$fixtures" && cd services/core && "$ROOT/scripts/go-test.sh" -p 1 -timeout 40m "${packages[@]}") 2>&1 | logged || failed+=("services/core, machines of every driver")
  run_others
  wait "$beside" || failed+=("what runs beside the machines of every driver")
  beside=
  [ -z "$firecracker" ] || tell "$tmp/firecracker" "the firecracker driver, in an emulated machine"
  for n in "${!others[@]}"; do tell "$tmp/other$n" "${others[n]}"; done
fi
if [ -n "$integration" ]; then
  fixtures_made
  say "go test tests"
  # They make their own base, as users do, but for the SDKs' further runs, and
  # have the kernel that was fetched.
  # Two packages at a time, for they wait more than they compute; the longest first.
  (eval "$fixtures" && export AETHERIUM_TEST_OTHER_ROOTFS="$AETHERIUM_TEST_ROOTFS" && unset AETHERIUM_TEST_ROOTFS && cd tests && "$ROOT/scripts/go-test.sh" -count=1 -p 2 -timeout 40m ./e2e/e2b ./e2e ./...) 2>&1 | logged || failed+=(tests) # they test bin/, which the cache of results does not see
  say "a fleet whose parts fail"
  # Alone: what it waits for is what is being tested. This seed begins with a
  # fault of every kind.
  if [ "$(id -u)" = 0 ]; then
    (eval "$fixtures" && AETHERIUM_CHAOS_SEED=12 "$ROOT/tests/scenarios/chaos/run.sh" 180s) 2>&1 | logged || failed+=("a fleet whose parts fail")
  else
    echo "left out: it needs root" | logged
  fi
fi
if [ ${#failed[@]} -gt 0 ]; then
  say "what failed"
  awk -f scripts/failures.awk "$log" | tail -n 300
  (IFS=,; echo "FAILED: ${failed[*]}" >&2)
  exit 1
fi
