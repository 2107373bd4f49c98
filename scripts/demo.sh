#!/usr/bin/env bash
# The main job, in front of the user: a VM, a real program in it with live
# output, a file in and out, a fork, and how long each step took.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

ae="$BIN/aetherium"
work=$(mktemp -d)
vm="" fork=""
cleanup() {
  [ -n "$fork" ] && "$ae" vm rm "$fork" >/dev/null 2>&1
  [ -n "$vm" ] && "$ae" vm rm "$vm" >/dev/null 2>&1
  rm -rf "$work"
}
trap cleanup EXIT

# typed WORD…: a command as one would type it.
typed() {
  local word line=
  for word in "$@"; do
    case $word in
      '' | *[!A-Za-z0-9_./:=@%+,-]*) word=${word@Q} ;;
    esac
    line+="$word "
  done
  echo "${line% }"
}

steps=() times=()
# step NAME CMD…: runs a command, shows it and remembers how long it took.
step() {
  local name=$1 from to
  shift
  printf '\033[2m$ %s\033[0m\n' "${shown:-$(typed "$@" | sed "s|$BIN/||g; s|$work/||g")}"
  from=$(date +%s%N)
  "$@"
  to=$(date +%s%N)
  steps+=("$name") times+=($(((to - from) / 1000)))
}

cat > "$work/primes.py" <<'PY'
import sys, time, os
print(f"python {sys.version.split()[0]} as {os.environ['USER']} on {os.uname().nodename}", flush=True)
found = []
n = 2
while len(found) < 2000:
    if all(n % p for p in found if p * p <= n):
        found.append(n)
        if len(found) % 500 == 0:
            print(f"  prime number {len(found)} is {n}", flush=True)
    n += 1
open("/home/user/primes.txt", "w").write("\n".join(map(str, found)))
PY

say "a VM"
create() { vm=$("$ae" vm create --quiet); echo "$vm"; }
shown="aetherium vm create --quiet" step "create a VM" create
say "a file goes in, a real program runs, its output streams"
step "copy a file in" "$ae" cp "$work/primes.py" "$vm:primes.py"
step "run a program in it" "$ae" exec "$vm" -- python3 primes.py
step "exec true" "$ae" exec "$vm" -- true
say "its result comes out"
step "copy a file out" "$ae" cp "$vm:primes.txt" "$work/primes.txt"
tail -n 1 "$work/primes.txt"
echo
say "a fork: same disk, its own life"
forked() { fork=$("$ae" vm fork "$vm" --quiet); echo "$fork"; }
shown="aetherium vm fork $vm --quiet" step "fork it" forked
step "the fork has the file" "$ae" exec "$fork" -- sh -c 'wc -l < primes.txt; echo changed > primes.txt'
step "the original is untouched" "$ae" exec "$vm" -- wc -l primes.txt
say "a VM for one command: create, run, remove"
step "aetherium run" "$ae" run -- echo "hello from a machine of my own"

say "timings (each includes starting the command line)"
for i in "${!steps[@]}"; do
  printf '  %-28s %8s ms\n' "${steps[$i]}" "$(awk -v us="${times[$i]}" 'BEGIN { printf "%.1f", us / 1000 }')"
done
echo
"$ae" status
printf 'Key file\t%s/api.key\n' "$("$ae" status -o json | sed -n 's/.*"data_dir": *"\([^"]*\)".*/\1/p')"
