# shellcheck shell=bash
# What the first program of an emulated machine does: sourced by guest.sh of a
# scenario, which then runs its steps and calls inside_end.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
result=failed
finish() {
  [ "$result" = passed ] || dmesg | tail -n 40
  echo "MACHINE-RESULT $result"
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
ip link set lo up
# Like a service's: not in the root group, and no controller enabled for it.
mkdir /sys/fs/cgroup/session
echo $$ >/sys/fs/cgroup/session/cgroup.procs

# inside_modules MODULE...: loads them, where they are.
inside_modules() {
  local module
  for module in "$@"; do
    modprobe "$module" || echo "no module $module"
  done
}

# inside_data: /data, on XFS with reflinks and project quotas, and /tmp on it.
inside_data() {
  mkfs.xfs -q -m reflink=1 /dev/vdc
  mount -o prjquota,noatime /dev/vdc /data
  mkdir -m 1777 /data/tmp
  mount --bind /data/tmp /tmp
}

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
passed_tests=0 failed_tests=0
# go_test PROGRAM [ARGUMENT...]: shows what failed and what was skipped, and counts
# the rest. TEST_SHOW is a pattern of lines to show as they come.
go_test() {
  local log=/tmp/log status=0 counts
  # In this form a test's end is told when it comes, and not with the whole.
  "$@" -test.v=test2json -test.timeout="${TEST_TIMEOUT:-20m}" "${args[@]}" 2>&1 | sed -u 's/\x16//' | tee "$log" |
    { grep --line-buffered -E "${TEST_SHOW:-x^}" || true; } || status=$?
  if [ "$status" != 0 ]; then
    cat "$log"
  else
    grep -A 1 -E '^ *--- SKIP' "$log" || true
  fi
  counts=("$(grep -cE '^ *--- PASS' "$log")" "$(grep -cE '^ *--- SKIP' "$log")" "$(grep -cE '^ *--- FAIL' "$log")")
  # A program that ends in the midst of a test fails, too.
  [ "$status" = 0 ] || [ "${counts[2]}" != 0 ] || counts[2]=1
  printf '%s: passed %s, skipped %s, failed %s\n' "$(basename "$1")" "${counts[@]}"
  passed_tests=$((passed_tests + counts[0])) failed_tests=$((failed_tests + counts[2]))
  return "$status"
}

inside_end() {
  if [ ${#failed[@]} = 0 ]; then result=passed; else echo "failed: ${failed[*]}"; fi
}
