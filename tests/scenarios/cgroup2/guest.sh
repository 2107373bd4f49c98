#!/bin/bash
# The first process of the machine that run.sh boots.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
result=failed
finish() {
  [ "$result" = passed ] || dmesg | tail -n 40
  echo "CGROUP2-RESULT $result"
  sync
  exec busybox poweroff -f
}
trap finish EXIT
set -euo pipefail

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p /dev/pts /dev/shm /dev/mqueue
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t mqueue mqueue /dev/mqueue
mount -t tmpfs -o mode=755 run /run
mount --make-rshared /
hostname cgroup2
ip link set lo up
for module in overlay xfs btrfs loop fuse tun veth bridge nf_tables nft_chain_nat nft_ct br_netfilter; do
  modprobe "$module" || echo "no module $module"
done
# Like a service's: not in the root group, and no controller enabled for it.
mkdir /sys/fs/cgroup/session
echo $$ >/sys/fs/cgroup/session/cgroup.procs

mkfs.xfs -q -m reflink=1 /dev/vdc
mount -o prjquota,noatime /dev/vdc /data
mkdir -m 1777 /data/tmp
mount --bind /data/tmp /tmp
useradd -m -s /bin/bash user
echo 'user ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/user
mount --bind / /template # the root's own file system alone
mkdir /btrfs /ext4
truncate -s 4G /data/btrfs.img /data/ext4.img
mkfs.btrfs -q /data/btrfs.img >/dev/null 2>&1
mkfs.ext4 -q /data/ext4.img
mount -o loop /data/btrfs.img /btrfs
mount -o loop /data/ext4.img /ext4
btrfs quota enable /btrfs # whose file system it is has to want them

read -r -a args </aetherium/args || true
cd /aetherium
failed=()
# step NAME COMMAND...: runs it if it is asked for.
step() {
  local name=$1 started=$SECONDS
  shift
  grep -qx "$name" steps || return 0
  echo "=== STEP $name"
  if "$@"; then
    echo "=== STEP $name passed in $((SECONDS - started)) s"
  else
    echo "=== STEP $name FAILED after $((SECONDS - started)) s"
    failed+=("$name")
  fi
}
# go_test PROGRAM [ARGUMENT...]: shows what failed and what was skipped, and counts the rest.
go_test() {
  local log=/tmp/log status=0
  "$@" -test.v -test.timeout=20m "${args[@]}" >"$log" 2>&1 || status=$?
  if [ "$status" != 0 ]; then
    cat "$log"
  else
    grep -A 1 -E '^ *--- SKIP' "$log" || true
  fi
  printf '%s: passed %s, skipped %s, failed %s\n' "$(basename "$1")" \
    "$(grep -cE '^ *--- PASS' "$log")" "$(grep -cE '^ *--- SKIP' "$log")" "$(grep -cE '^ *--- FAIL' "$log")"
  return "$status"
}
oci() {
  AETHERIUM_TEST_RUNTIME=$1 AETHERIUM_TEST_DISK=$2 AETHERIUM_TEST_AGENT=/aetherium/test/agent \
    AETHERIUM_TEST_REAL_AGENT=/aetherium/bin/fc-agent AETHERIUM_TEST_INTRUDER=/aetherium/test/intruder go_test test/oci.test
}
suite() { AETHERIUM_TEST_RUNTIME=$1 AETHERIUM_TEST_DISK=$2 AETHERIUM_TEST_AGENT=/aetherium/bin/fc-agent AETHERIUM_TEST_ROOTFS=/template go_test test/vmmtest.test -test.run=TestOCI; }
bench() {
  local runtime
  for runtime in runc crun runc crun; do
    AETHERIUM_TEST_RUNTIME=$runtime AETHERIUM_TEST_DISK=xfs AETHERIUM_TEST_AGENT=/aetherium/test/agent \
      test/oci.test -test.run='^$' -test.bench='BenchmarkMachine/create\+start' -test.benchtime=20x | sed -n "s/^BenchmarkMachine/$runtime/p"
  done
}
product() { AETHERIUM_TEST_RUNTIME=$1 AETHERIUM_TEST_DATA=$2 AETHERIUM_TEST_FS=$3 go_test test/product.test; }

echo "=== $(uname -r), $(runc --version | head -n 1), $(crun --version | head -n 1), $(mkfs.xfs -V), up for $(cut -d' ' -f1 /proc/uptime) s"
step doctor env AETHERIUM_DATA_DIR=/data/doctor bin/aetherium-standalone doctor
step cgroup go_test test/cgroup.test
step disk go_test test/disk.test
step oci-runc oci runc xfs
step oci-crun oci crun btrfs
step suite-crun suite crun xfs
step bench bench
step product-xfs product runc /data/product xfs
step product-btrfs product crun /btrfs/product btrfs
step product-file product crun /ext4/product xfs-file
step network go_test test/network.test
if [ ${#failed[@]} = 0 ]; then result=passed; else echo "failed: ${failed[*]}"; fi
