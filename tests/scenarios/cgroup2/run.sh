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
here=tests/scenarios/cgroup2

suite=${SUITE:-bookworm}
packages=runc,crun,xfsprogs,btrfs-progs,nftables,iproute2,kmod,util-linux,mount,ca-certificates,procps,e2fsprogs,busybox-static,sudo
limit=${TIMEOUT:-1800} # seconds for the machine, from power on to power off
cache=$ROOT/.tools/cgroup2/$(sha256sum - "$here/root.sh" <<<"$suite $packages" | sha256sum | cut -c1-16)

install_tools() {
  local missing=() tool
  for tool in qemu-system-x86_64:qemu-system-x86 mmdebstrap:mmdebstrap cpio:cpio mke2fs:e2fsprogs modprobe:kmod; do
    PATH=$PATH:/usr/sbin:/sbin command -v "${tool%%:*}" >/dev/null || missing+=("${tool##*:}")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  say "installing ${missing[*]}"
  as_root apt-get update -qq
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# payload DIR: what the machine runs, all of it static.
payload() {
  local go=${GO:-go} p
  export CGO_ENABLED=0
  mkdir -p "$1/bin" "$1/test"
  for p in cgroup disk network vmm/oci vmm/vmmtest; do
    (cd services/core && "$go" test -c -o "$1/test/$(basename "$p").test" "./pkg/$p")
  done
  (cd services/core && "$go" build -o "$1/test/agent" ./pkg/vmm/oci/testdata/agent)
  (cd services/core && "$go" build -o "$1/test/intruder" ./pkg/vmm/vmmtest/attack/testdata/intruder)
  (cd tests && "$go" test -c -o "$1/test/product.test" ./scenarios/cgroup2)
  make BIN="$1/bin" build-core build-standalone
  touch "$1/go.work" # marks the root of the repository for the tests
  cp "$here/guest.sh" "$1/guest.sh"
  chmod 0755 "$1/guest.sh"
  printf '%s\n' "${steps[@]}" >"$1/steps"
  printf '%s\n' "${GO_TEST_ARGS:-}" >"$1/args"
}

steps=(doctor cgroup disk oci-runc oci-crun product-xfs product-btrfs product-file network)
[ $# = 0 ] || steps=("$@")
install_tools
if [ ! -e "$cache/root.img" ]; then
  say "making the machine's root (once; kept in ${cache#"$ROOT"/})"
  mkdir -p "$cache"
  as_root "$here/root.sh" "$cache" "$suite" "$packages" "$(id -u)"
fi

work=$(mktemp -d /var/tmp/aetherium-cgroup2-XXXXXX)
cleanup() { if [ -n "${KEEP:-}" ]; then echo "kept: $work"; else rm -rf "$work"; fi; }
trap cleanup EXIT
say "building what runs in it"
payload "$work/payload"
PATH=$PATH:/usr/sbin:/sbin mke2fs -q -t ext4 -O ^has_journal -E root_owner=0:0 -d "$work/payload" "$work/payload.img" \
  "$(($(du -sm "$work/payload" | cut -f1) * 5 / 4 + 16))M"
truncate -s 16G "$work/data.img"

say "booting"
drive() { printf -- '-drive\nif=none,id=%s,format=raw,file=%s,cache=unsafe,discard=unmap%s\n-device\nvirtio-blk-pci,drive=%s\n' "$1" "$2" "$3" "$1"; }
mapfile -t drives < <(drive root "$cache/root.img" ,snapshot=on; drive payload "$work/payload.img" ,readonly=on; drive data "$work/data.img" "")
started=$SECONDS
# The root is written to a scratch copy that ends with the machine (snapshot=on).
TMPDIR=$work timeout --foreground --kill-after=10 "$limit" qemu-system-x86_64 -M q35 -accel tcg,thread=multi -cpu max,-la57 -smp 2 -m 2048 \
  -nodefaults -no-user-config -nographic -serial stdio -no-reboot \
  -kernel "$cache/vmlinuz" -initrd "$cache/initrd" "${drives[@]}" -device virtio-rng-pci \
  -append "console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off nokaslr cryptomgr.notests cgroup_no_v1=all" \
  </dev/null | sed -u 's/\r$//' | tee "$work/console.log" || echo "the machine ended badly, or took longer than $limit s" >&2
result=$(sed -n 's/^CGROUP2-RESULT //p' "$work/console.log" | tail -n 1)
say "the machine ran for $((SECONDS - started)) s: ${result:-no result}"
[ "$result" = passed ]
