# shellcheck shell=bash
# An emulated machine to run things in: a QEMU machine in software emulation (no
# KVM needed, none used) with Debian's cloud kernel, cgroup v2 alone, and a root
# of a few packages. Nothing of the host is changed but installed packages.
# Sourced by run.sh of a scenario, in the repository's root, after scripts/lib.sh.
#
#   KEEP=1          keep what was made for this run, and say where
#   SUITE=trixie    another Debian release in the machine (default: bookworm)

suite=${SUITE:-bookworm}
packages=runc,crun,xfsprogs,btrfs-progs,nftables,iproute2,kmod,util-linux,mount,ca-certificates,procps,e2fsprogs,erofs-utils,busybox-static,sudo,python3
cache=$ROOT/.tools/cgroup2/$(sha256sum - tests/scenarios/cgroup2/root.sh <<<"$suite $packages" | sha256sum | cut -c1-16)

# emulated_tools [PROGRAM:PACKAGE...]: installs what is missing.
emulated_tools() {
  local missing=() tool
  for tool in qemu-system-x86_64:qemu-system-x86 mmdebstrap:mmdebstrap cpio:cpio mke2fs:e2fsprogs modprobe:kmod "$@"; do
    PATH=$PATH:/usr/sbin:/sbin command -v "${tool%%:*}" >/dev/null || missing+=("${tool##*:}")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  say "installing ${missing[*]}"
  as_root apt-get update -qq
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# emulated_root: the machine's root, made once.
emulated_root() {
  [ ! -e "$cache/root.img" ] || return 0
  say "making the machine's root (once; kept in ${cache#"$ROOT"/})"
  mkdir -p "$cache"
  as_root tests/scenarios/cgroup2/root.sh "$cache" "$suite" "$packages" "$(id -u)"
}

# emulated_work NAME: sets work to a directory that ends with this script.
emulated_work() {
  work=$(mktemp -d "/var/tmp/aetherium-$1-XXXXXX")
  # shellcheck disable=SC2317 # the trap calls it
  cleanup() { if [ -n "${KEEP:-}" ]; then echo "kept: $work"; else rm -rf "$work"; fi; }
  trap cleanup EXIT
  mkdir -p "$work/payload/bin" "$work/payload/test"
}

# emulated_payload GUEST STEP...: what $work/payload holds is /aetherium in the
# machine, with the script GUEST, its first program, and the steps asked for.
emulated_payload() {
  local p=$work/payload
  touch "$p/go.work" # marks the root of the repository for the tests
  cp "$1" "$p/guest.sh"
  cp tests/scenarios/inside.sh "$p/inside.sh"
  chmod 0755 "$p/guest.sh"
  printf '%s\n' "${@:2}" >"$p/steps"
  printf '%s\n' "${GO_TEST_ARGS:-}" >"$p/args"
  PATH=$PATH:/usr/sbin:/sbin mke2fs -q -t ext4 -O ^has_journal -E root_owner=0:0 -d "$p" "$work/payload.img" \
    "$(($(du -sm "$p" | cut -f1) * 5 / 4 + 16))M"
  truncate -s 16G "$work/data.img"
}

# nudges sends the console XON (termios(3)), which a terminal takes without an
# echo, until nobody listens. QEMU's emulation of a host of virtual machines
# changes what interrupts are pending without a lock as one is entered or left,
# and so can lose the timer's: then the machine halts for good, unless another
# interrupt has it look again.
nudges() { while sleep 1 && printf '\021'; do :; done 2>/dev/null; }

# emulated_run SECONDS MIB [PROCESSORS]: boots the machine and waits until it is
# off. Sets result to what it says of itself.
emulated_run() {
  local drives started=$SECONDS
  say "booting"
  drive() { printf -- '-drive\nif=none,id=%s,format=raw,file=%s,cache=unsafe,discard=unmap%s\n-device\nvirtio-blk-pci,drive=%s\n' "$1" "$2" "$3" "$1"; }
  mapfile -t drives < <(drive root "$cache/root.img" ,snapshot=on; drive payload "$work/payload.img" ,readonly=on; drive data "$work/data.img" "")
  # The root is written to a scratch copy that ends with the machine (snapshot=on).
  TMPDIR=$work timeout --foreground --kill-after=10 "$1" qemu-system-x86_64 -M q35 -accel tcg,thread=multi -cpu max,-la57 -smp "${3:-2}" -m "$2" \
    -nodefaults -no-user-config -nographic -serial stdio -no-reboot \
    -kernel "$cache/vmlinuz" -initrd "$cache/initrd" "${drives[@]}" -device virtio-rng-pci \
    -append "console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off nokaslr cryptomgr.notests cgroup_no_v1=all" \
    < <(nudges) | sed -u 's/\r$//' | tee "$work/console.log" || echo "the machine ended badly, or took longer than $1 s" >&2
  result=$(sed -n 's/^MACHINE-RESULT //p' "$work/console.log" | tail -n 1)
  say "the machine ran for $((SECONDS - started)) s: ${result:-no result}"
}
