#!/bin/bash
# The first program of the machine that run.sh boots.
# shellcheck source=tests/scenarios/inside.sh
source /aetherium/inside.sh

hostname cgroup2
inside_modules overlay xfs btrfs loop fuse tun veth bridge nf_tables nft_chain_nat nft_ct br_netfilter
inside_data
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

oci() {
  AETHERIUM_TEST_RUNTIME=$1 AETHERIUM_TEST_DISK=$2 AETHERIUM_TEST_AGENT=/aetherium/test/agent \
    AETHERIUM_TEST_REAL_AGENT=/aetherium/bin/fc-agent AETHERIUM_TEST_INTRUDER=/aetherium/test/intruder go_test test/oci.test
}
suite() { AETHERIUM_TEST_RUNTIME=$1 AETHERIUM_TEST_DISK=$2 AETHERIUM_TEST_REAL_AGENT=/aetherium/bin/fc-agent AETHERIUM_TEST_ROOTFS=/template go_test test/vmmtest.test -test.run=TestOCI; }
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
inside_end
