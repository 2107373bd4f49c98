#!/usr/bin/env bash
# Runs what depends on the host's control groups, file systems and OCI runtime
# in a machine that has what the host may lack: cgroup v2 alone, XFS with
# project quotas, btrfs with classic quota groups, runc and crun. It is a QEMU
# machine in software emulation (no KVM needed, none used) with Debian's cloud
# kernel. Nothing of the host is changed but installed packages.
#
#   run.sh [STEP...]    steps are in guest.sh; none: those of "steps" below
#   KEEP=1              keep what was made for this run, and say where
#   GO_TEST_ARGS=…      further arguments of the Go test programs, e.g. -test.run=TestPause
#   SUITE=trixie        another Debian release in the machine (default: bookworm)
#
# Emulation is some 15 times slower than the host, so left out are: the race
# detector, tests that build images from packages, and those that need Python
# or Node.js in a VM; `make test` has them. Run only when asked for: suite-crun,
# the drivers' conformance suite with the real agent and crun, and bench, which
# compares crun's start with runc's.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/../../../scripts/lib.sh"
cd "$ROOT"
# shellcheck source=tests/scenarios/emulated.sh
source tests/scenarios/emulated.sh
here=tests/scenarios/cgroup2

limit=${TIMEOUT:-1800} # seconds for the machine, from power on to power off

# payload DIR: what the machine runs, all of it static.
payload() {
  local go=${GO:-go} p
  export CGO_ENABLED=0
  for p in cgroup disk network vmm/oci vmm/vmmtest; do
    (cd services/core && "$go" test -c -o "$1/test/$(basename "$p").test" "./pkg/$p")
  done
  (cd services/core && "$go" build -o "$1/test/agent" ./pkg/vmm/oci/testdata/agent)
  (cd services/core && "$go" build -o "$1/test/intruder" ./pkg/vmm/vmmtest/attack/testdata/intruder)
  (cd tests && "$go" test -c -o "$1/test/product.test" ./scenarios/cgroup2)
  make BIN="$1/bin" build-core build-standalone
}

steps=(doctor cgroup disk oci-runc oci-crun product-xfs product-btrfs product-file network)
[ $# = 0 ] || steps=("$@")
# shellcheck disable=SC2119 # of what it needs itself
emulated_tools
emulated_root
emulated_work cgroup2
say "building what runs in it"
payload "$work/payload"
emulated_payload "$here/guest.sh" "${steps[@]}"
emulated_run "$limit" 2048
[ "$result" = passed ]
