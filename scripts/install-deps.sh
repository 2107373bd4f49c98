#!/usr/bin/env bash
# Installs what is missing of what the product needs on this host. Nothing is
# reinstalled, no service is started, nothing is asked.
#   (none)    what `make up` needs
#   --microvm and what machines with a kernel of their own need
#   --test    and what the tests need, which have such machines
#   --bench   and what the benchmarks compare with
#   --check   only tell what is missing
# Ends with 0 when all is there, 1 when an installation failed, 2 for a wrong
# option, 3 when something is missing that this script cannot install here.
set -euo pipefail

# Administrators' programs are looked for, too, when an ordinary user runs this.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

# What is looked for (a program, or a file where it starts with "/"), then the
# package that has it: Debian's, Fedora's, Arch's, Alpine's; "-" is not packaged
# there, or part of the system.
need_run='
crun                                crun                    crun           crun             crun
runc                                runc                    runc           runc             runc
mmdebstrap                          mmdebstrap              -              -                -
/usr/share/keyrings/debian-archive-keyring.gpg  debian-archive-keyring  -  -                -
nft                                 nftables                nftables       nftables         nftables
ip                                  iproute2                iproute        iproute2         iproute2
mkfs.xfs                            xfsprogs                xfsprogs       xfsprogs         xfsprogs
xfs_quota                           xfsprogs                xfsprogs       xfsprogs         xfsprogs-extra
mkfs.btrfs                          btrfs-progs             btrfs-progs    btrfs-progs      btrfs-progs
modprobe                            kmod                    kmod           kmod             kmod
losetup                             mount                   util-linux     util-linux       losetup
mount                               mount                   util-linux-core util-linux      mount
ps                                  procps                  procps-ng      procps-ng        procps-ng
/etc/ssl/certs/ca-certificates.crt  ca-certificates         ca-certificates ca-certificates ca-certificates
make                                make                    make           make             make
curl                                curl                    curl           curl             curl
'
need_microvm='
qemu-system-x86_64                  qemu-system-x86         qemu-system-x86-core qemu-system-x86 qemu-system-x86_64
mkfs.erofs                          erofs-utils             erofs-utils    erofs-utils      erofs-utils
mke2fs                              e2fsprogs               e2fsprogs      e2fsprogs        e2fsprogs
dpkg-deb                            dpkg                    dpkg           dpkg             dpkg
'
need_test='
gcc                                 gcc                     gcc            gcc              gcc
/usr/include/stdio.h                libc6-dev               glibc-devel    glibc            musl-dev
git                                 git                     git            git              git
jq                                  jq                      jq             jq               jq
tmux                                tmux                    tmux           tmux             tmux
unshare                             util-linux              util-linux-core util-linux      util-linux-misc
shellcheck                          shellcheck              ShellCheck     shellcheck       shellcheck
python3                             python3                 python3        python           python3
python3-venv                        python3-venv            python3        python           python3
/usr/lib/python3/dist-packages/aiohttp         python3-aiohttp         python3-aiohttp        python-aiohttp         py3-aiohttp
/usr/lib/python3/dist-packages/jupyter_client  python3-jupyter-client  python3-jupyter-client python-jupyter-client  py3-jupyter_client
/usr/lib/python3/dist-packages/ipykernel       python3-ipykernel       python3-ipykernel      python-ipykernel       py3-ipykernel
/usr/lib/python3/dist-packages/pandas          python3-pandas          python3-pandas         python-pandas          py3-pandas
/usr/lib/python3/dist-packages/matplotlib      python3-matplotlib      python3-matplotlib     python-matplotlib      py3-matplotlib
node                                nodejs                  nodejs         nodejs           nodejs
esbuild                             esbuild                 golang-github-evanw-esbuild esbuild  esbuild
redis-server                        redis-server            redis          redis            redis
dockerd                             docker.io               moby-engine    docker           docker
postgres-server                     postgresql              postgresql-server postgresql    postgresql
'
need_bench='
dockerd                             docker.io               moby-engine    docker           docker
docker                              docker.io               docker-cli     docker           docker-cli
podman                              podman                  podman         podman           podman
bwrap                               bubblewrap              bubblewrap     bubblewrap       bubblewrap
qemu-system-x86_64                  qemu-system-x86         qemu-system-x86-core  qemu-system-x86  qemu-system-x86_64
mkfs.erofs                          erofs-utils             erofs-utils    erofs-utils      erofs-utils
mke2fs                              e2fsprogs               e2fsprogs      e2fsprogs        e2fsprogs
busybox                             busybox-static          busybox        busybox          busybox-static
jq                                  jq                      jq             jq               jq
redis-server                        redis-server            redis          redis            redis
postgres-server                     postgresql              postgresql-server postgresql    postgresql
'

table=$need_run check=
for arg in "$@"; do
  case $arg in
    --microvm) table+=$need_microvm ;;
    --test) table+=$need_microvm$need_test ;;
    --bench) table+=$need_bench ;;
    --check) check=1 ;;
    *)
      echo "unknown option $arg (--microvm, --test, --bench, --check)" >&2
      exit 2
      ;;
  esac
done

there() {
  case $1 in
    # Other distributions keep the bundle of certificates elsewhere.
    /etc/ssl/certs/ca-certificates.crt) [ -e "$1" ] || [ -e /etc/pki/tls/certs/ca-bundle.crt ] ;;
    # musl and glibc have their headers in the same place.
    /*) [ -e "$1" ] ;;
    # Not a program: what environments for Python programs are made with.
    python3-venv) python3 -c 'import ensurepip, venv' 2>/dev/null || /usr/bin/python3 -c 'import ensurepip, venv' 2>/dev/null ;;
    # Debian keeps the programs of each version apart.
    postgres-server) compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || command -v initdb >/dev/null ;;
    *) command -v "$1" >/dev/null 2>&1 ;;
  esac
}

# candidate PACKAGE: apt knows a version of it.
candidate() { [ -n "$(apt-cache --quiet=2 madison "$1" 2>/dev/null)" ]; }

# missing COLUMN prints the packages, in the distribution of that column, of
# what is not there; for "-" the thing itself, marked with "?".
missing() {
  local what names name
  while read -r what names; do
    [ -n "$what" ] || continue
    there "$what" && continue
    name=$(awk -v n="$1" '{print $n}' <<<"$names")
    # Newer Debian releases have the client in a package of its own.
    if [ "$what" = docker ] && [ "$name" = docker.io ] && candidate docker-cli; then name=docker-cli; fi
    if [ "$name" = - ]; then echo "?$what"; else echo "$name"; fi
  done <<<"$table" | sort -u
}

if ! command -v apt-get >/dev/null; then
  if command -v dnf >/dev/null; then column=2 tool='dnf install'
  elif command -v pacman >/dev/null; then column=3 tool='pacman -S --needed'
  elif command -v apk >/dev/null; then column=4 tool='apk add'
  else column=1 tool='(Debian'"'"'s names)'
  fi
  packages=$(missing "$column" | grep -v '^?' | tr '\n' ' ' || true)
  if missing "$column" | grep -q '^?mmdebstrap'; then
    echo "mmdebstrap is not here: the base template will be made from an OCI image (AETHERIUM_BASE_IMAGE)."
  fi
  if [ -n "$packages" ]; then
    echo "This host has no apt. Install what is missing, then try again:" >&2
    echo "  $tool ${packages% }" >&2
    exit 3
  fi
  exit 0
fi

mapfile -t packages < <(missing 1 | grep -v '^?' || true)
[ ${#packages[@]} -gt 0 ] || exit 0
if [ -n "$check" ]; then
  echo "missing: ${packages[*]}"
  exit 3
fi

sudo=()
if [ "$(id -u)" != 0 ]; then
  # -n: a password prompt would hang whoever runs this unattended.
  if ! command -v sudo >/dev/null || ! sudo -n true 2>/dev/null; then
    echo "These packages are missing, and installing them needs root:" >&2
    echo "  sudo apt-get install --no-install-recommends ${packages[*]}" >&2
    exit 3
  fi
  sudo=(sudo -n)
fi

log=$(mktemp)
policy=/usr/sbin/policy-rc.d
own_policy=
cleanup() {
  rm -f "$log"
  [ -z "$own_policy" ] || "${sudo[@]}" rm -f "$policy"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Packages such as docker.io start their daemons. Debian lets a policy forbid
# that (invoke-rc.d(8)); a policy that the host has is left alone.
if [ ! -e "$policy" ]; then
  own_policy=1
  printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee "$policy" >/dev/null
  "${sudo[@]}" chmod 0755 "$policy"
fi

apt() {
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true NEEDRESTART_MODE=l APT_LISTCHANGES_FRONTEND=none \
    apt-get -qq -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@" </dev/null >>"$log" 2>&1
}
install() { apt install -y --no-install-recommends -o Dpkg::Options::=--force-confold "${packages[@]}"; }
known() {
  local p
  for p in "${packages[@]}"; do
    candidate "$p" || return 1
  done
}

echo "installing ${packages[*]}"
updated=
if ! known; then
  apt update || true # one broken source must not matter if the others have it all
  updated=1
  mapfile -t packages < <(missing 1 | grep -v '^?' || true)
fi
if ! install; then
  # Lists may be older than the mirror; when they are fresh, it is something else.
  if [ -n "$updated" ] || ! apt update || ! install; then
    tail -n 30 "$log" >&2
    echo "could not install: ${packages[*]}" >&2
    exit 1
  fi
fi

mapfile -t left < <(missing 1 | grep -v '^?' || true)
if [ ${#left[@]} -gt 0 ]; then
  echo "installed, but still not found: ${left[*]}" >&2
  exit 1
fi
