#!/bin/bash
# The first program of the machine that run.sh boots.
# shellcheck source=tests/scenarios/inside.sh
source /aetherium/inside.sh

hostname firecracker
inside_modules overlay xfs loop kvm-amd tun veth bridge nf_tables nft_chain_nat nft_ct br_netfilter
inside_data
export TEST_TIMEOUT=20m TEST_SHOW='^ *(--- (PASS|FAIL)|=== RUN  )'
export AETHERIUM_TEST_FIRECRACKER=/aetherium/firecracker/firecracker AETHERIUM_TEST_JAILER=/aetherium/firecracker/jailer
export AETHERIUM_TEST_PAGER=/aetherium/bin/aetherium-fc-pager AETHERIUM_TEST_GUEST=/aetherium/test/guest
export AETHERIUM_TEST_VMLINUX=/aetherium/kernel/vmlinux AETHERIUM_TEST_MODULES=/lib/modules
# Emulation of emulation is slow: what a guest's kernel does for a real processor alone is left out.
export AETHERIUM_TEST_KERNEL_ARGS="mitigations=off cryptomgr.notests nokaslr"

# package: the kernel as its package is unpacked, in /data/package.
package() {
  mkdir -p /data/package/boot /data/package/lib
  cp kernel/vmlinuz "/data/package/boot/vmlinuz-$(uname -r)"
  ln -sfn /lib/modules /data/package/lib/modules
}
# suite [ARGUMENT...]: the drivers' conformance suite, with the real agent.
suite() {
  if ! id user >/dev/null 2>&1; then
    useradd -m -s /bin/bash user
    echo 'user ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/user
  fi
  package
  mountpoint -q /template || mount --bind / /template # the root's own file system alone
  AETHERIUM_TEST_KERNEL=/data/package AETHERIUM_TEST_DISK=xfs AETHERIUM_TEST_REAL_AGENT=/aetherium/bin/fc-agent \
    AETHERIUM_TEST_ROOTFS=/template go_test test/vmmtest.test "$@"
}
# What of it fits into every run: of each kind of thing that a driver does one.
# Pauses are gone on from by the file, forks by the page server.
groups='lifecycle|exec|streams|files|pause|snapshot|memory|recover'
behaviours='every_call_twice|stop_and_start_keep_the_disk|exit_codes|stdout_and_stderr_apart|stdin_to_its_end|up_and_down'
behaviours+='|a_frozen_machine_stands_still.*|two_machines_from_one_disk|a_paused_machine_is_gone.*|a_machine_whose_memory_is_kept_goes_on'
behaviours+='|a_command_that_ended_meanwhile|orphans_show|nothing_is_left'
uffd() { AETHERIUM_TEST_BACKEND=uffd suite "$@"; }
attacks() {
  package
  AETHERIUM_TEST_KERNEL=/data/package AETHERIUM_TEST_DISK=xfs AETHERIUM_TEST_REAL_AGENT=/aetherium/bin/fc-agent \
    AETHERIUM_TEST_INTRUDER=/aetherium/test/intruder go_test test/microvm.test -test.run=TestAttacksOnFirecracker
}
# The test has the machine to itself from then on: it mounts over /run and /proc.
product() {
  package
  PATH=/aetherium/firecracker:$PATH AETHERIUM_E2E_APART=/aetherium/rootfs AETHERIUM_TEST_LIMIT=10m AETHERIUM_TEST_KERNEL=/data/package \
    go_test test/e2e.test -test.run=TestMicroVMsOnFirecracker
}
bench() { AETHERIUM_BENCH_ROUNDS=${AETHERIUM_BENCH_ROUNDS:-5} test/firecracker.test -test.run=TestFloor -test.v | grep -E '^\{|FAIL|_test.go'; }

echo "=== $(uname -r), $("$AETHERIUM_TEST_FIRECRACKER" --version | head -n 1), KVM: $(ls /dev/kvm), up for $(cut -d' ' -f1 /proc/uptime) s"
step engine go_test test/firecracker.test
step part suite -test.run="TestFirecracker/^($groups)\$/^($behaviours)\$"
step part-uffd uffd -test.run='TestFirecracker/^forks$/^(two_machines_from_one_memory|nothing_is_left)$'
TEST_TIMEOUT=100m
step suite suite -test.run=TestFirecracker
step suite-uffd uffd -test.run='TestFirecracker/^(memory|forks.*)$'
step attacks attacks
step bench bench
step product product
echo "$passed_tests passed, $failed_tests failed"
inside_end
