#!/usr/bin/env bash
# What docs/CONTAINERS.md says of `make docker-build`, `docker-up`, `docker-down` and
# `infrastructure-up`, with a Docker engine and a Compose of our own: in a network
# namespace without a way out, with images of Debian's packages in place of those that
# a registry has. Needs root. Nothing of the host is changed but installed packages.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../../scripts/lib.sh"
PATH=$PATH:/usr/sbin:/sbin
cd "$ROOT"
compose=v2.40.3

missing=()
for tool in dockerd:docker.io docker:docker.io iptables:iptables mmdebstrap:mmdebstrap unshare:util-linux; do
  command -v "${tool%%:*}" >/dev/null || missing+=("${tool##*:}")
done
if [ ${#missing[@]} -gt 0 ]; then
  say "installing ${missing[*]}"
  as_root apt-get update -qq
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

# Compose excludes versions of modules, so `go install` does not take it.
made=$ROOT/.tools/docker-compose-$compose
if [ ! -x "$made" ]; then
  say "building Compose $compose (once)"
  tmp=$(mktemp -d)
  (
    cd "$tmp"
    export CGO_ENABLED=0 GOWORK=off GOFLAGS=''
    "${GO:-go}" mod init compose
    "${GO:-go}" get "github.com/docker/compose/v2/cmd@$compose"
    "${GO:-go}" build -ldflags "-s -w -X github.com/docker/compose/v2/internal.Version=$compose" -o "$made" github.com/docker/compose/v2/cmd
  ) >"$tmp/log" 2>&1 || { cat "$tmp/log" >&2; exit 1; }
  rm -rf "$tmp"
fi

# Debian with what the images' own `apt-get install` asks for, so that they are made
# without a way out, and with the services that stand in.
# shellcheck disable=SC2016 # the text in the file
packages=$(sed -n '/--no-install-recommends/{n;s/\${PACKAGES}.*//;p}' services/core/Dockerfile.worker | tr -s ' ' ,)
packages=postgresql,redis-server${packages%,}
base=$ROOT/.tools/containers/$(sha256sum <<<"$packages" | cut -c1-16).tar
if [ ! -e "$base" ]; then
  say "making Debian with $packages (once; kept in .tools)"
  mkdir -p "$(dirname "$base")"
  as_root mmdebstrap --quiet --variant=minbase --mode=root --include="$packages" \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    bookworm "$base.part.tar"
  as_root mv "$base.part.tar" "$base"
fi

if [ -z "${AETHERIUM_TEST_ROOTFS:-}" ]; then
  eval "$(cd tests && "${GO:-go}" run ./fixtures "$ROOT/.tools/fixtures")"
fi
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
# Static, as it is the program of an image, too.
(cd tests && CGO_ENABLED=0 "${GO:-go}" test -c -o "$tmp/containers.test" ./scenarios/containers)
cd tests/scenarios/containers
# shellcheck disable=SC2016 # expanded inside
AETHERIUM_CONTAINERS_COMPOSE=$made AETHERIUM_CONTAINERS_BASE=$base \
  as_root unshare --net -- sh -ec 'ip link set lo up && exec "$@"' sh "$tmp/containers.test" -test.v -test.timeout 20m "$@"
