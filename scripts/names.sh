#!/usr/bin/env bash
# Makes names below the previews' domain resolve on this host, where a package of
# the distribution's can: libnss-myhostname has the C library resolve names below
# localhost, whatever DNS says. Does nothing where they do resolve.
#   --offer   only says so, and asks first where there is somebody to ask; NAMES=yes
#             and NAMES=no are the answer
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

domain=${AETHERIUM_LISTEN_PREVIEW_DOMAIN:-aeth.localhost}
resolves() { getent ahosts "8080-abcdefghij0123456789.$domain" >/dev/null; }
offer=
[ "${1:-}" != --offer ] || offer=1

if ! command -v getent >/dev/null || resolves; then
  [ -n "$offer" ] || echo "Names below $domain resolve on this host, or it has no getent to tell."
  exit 0
fi
echo
echo "Names below $domain do not resolve on this host: previews and SDKs are not found by name."
case $domain in
  localhost | *.localhost) ;;
  *)
    echo "Have *.$domain point to this host in its zone, or have its resolver ask the server's own: docs/TLS.md"
    [ -n "$offer" ]
    exit
    ;;
esac
if ! command -v apt-get >/dev/null; then
  echo "systemd-resolved resolves them, and so does nss-myhostname in hosts: of /etc/nsswitch.conf (docs/TLS.md)"
  [ -n "$offer" ]
  exit
fi
if [ -n "$offer" ]; then
  answer=${NAMES:-}
  if [ -z "$answer" ] && [ -t 0 ] && [ -t 1 ]; then
    read -r -p "Install libnss-myhostname, which resolves them? [Y/n] " answer || answer=no
    answer=${answer:-yes}
  fi
  case $answer in
    [yY]*) ;;
    *)
      echo "\"make names\" installs libnss-myhostname, which resolves them (more in docs/TLS.md)."
      exit 0
      ;;
  esac
fi
say "installing libnss-myhostname"
as_root apt-get update -qq || true # one broken source must not matter
as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends libnss-myhostname >/dev/null
resolves || {
  echo "They still do not: see hosts: of /etc/nsswitch.conf (docs/TLS.md)" >&2
  exit 1
}
echo "Names below $domain resolve now."
