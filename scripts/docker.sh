#!/usr/bin/env bash
# An installation on this host's Docker engine (config/docker-compose.yml).
#   build           the images of our programs, around the binaries in bin/
#   up              start everything; workers join the first time
#   infrastructure  start PostgreSQL, Redis and Loki alone, reachable from this host
#   down            stop all of it and every VM; the data stays (PURGE=1: it goes)
# BASE is the image that the worker's is made from (default debian:bookworm-slim),
# PACKAGES are more of Debian's for it, BUILD_ARGS more for `docker build`.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

workers=(worker-1 worker-2)
env_file=$ROOT/config/.env

compose() { docker compose -f "$ROOT/config/docker-compose.yml" "$@"; }

# remember NAME VALUE keeps a setting for compose, once.
remember() {
  grep -qs "^$1=" "$env_file" || (umask 077 && echo "$1=$2" >>"$env_file")
}

# renew NAME VALUE keeps a setting for compose in place of what it was.
renew() {
  local others
  others=$(grep -sv "^$1=" "$env_file" || true)
  (umask 077 && printf '%s\n' ${others:+"$others"} "$1=$2" >"$env_file.new")
  mv "$env_file.new" "$env_file"
}

passwords() {
  remember POSTGRES_PASSWORD "$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')"
  remember GRAFANA_PASSWORD "$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')"
  remember REDIS_PASSWORD "$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')"
}

build() {
  local image file
  while read -r image file; do
    say "building $image"
    # shellcheck disable=SC2086 # words for docker
    docker build --quiet ${BASE:+--build-arg "BASE=$BASE"} --build-arg "PACKAGES=${PACKAGES:-}" ${BUILD_ARGS:-} \
      --file "$ROOT/services/$file" --tag "$image:${AETHERIUM_TAG:-latest}" "$ROOT"
  done <<'IMAGES'
aetherium-gateway gateway/Dockerfile
aetherium-worker core/Dockerfile.worker
aetherium-migrate core/Dockerfile.migrate
aetherium-standalone standalone/Dockerfile
IMAGES
}

up() {
  passwords
  say "starting PostgreSQL, Redis, Loki and the gateway"
  compose up --detach loki || say "Loki does not start: lines are on stderr alone"
  compose up --detach --wait postgres redis gateway
  # A token counts for an hour: a worker that has not joined by now gets a new one. That
  # of one that has is not touched, or its container would be made anew.
  local name variable joined token
  joined=$(compose exec -T gateway aetherium worker ls --quiet)
  for name in "${workers[@]}"; do
    grep -qxF "$name" <<<"$joined" && continue
    variable=$(tr a-z- A-Z_ <<<"$name")_TOKEN
    token=$(compose exec -T gateway aetherium worker token create --quiet)
    renew "$variable" "$token"
  done
  say "starting ${workers[*]}"
  compose up --detach --wait "${workers[@]}"
  say "the API is at http://$(compose port gateway 7300)"
  echo "docker compose -f config/docker-compose.yml exec gateway aetherium run -- uname -a"
}

infrastructure() {
  passwords
  compose -f "$ROOT/config/docker-compose.infrastructure.yml" up --detach --wait postgres redis loki
  # shellcheck source=/dev/null
  source "$env_file"
  echo "export AETHERIUM_DATABASE='postgres://aetherium:$POSTGRES_PASSWORD@127.0.0.1:${POSTGRES_PORT:-5432}/aetherium?sslmode=disable'"
  echo "export AETHERIUM_QUEUE='redis://:$REDIS_PASSWORD@127.0.0.1:${REDIS_PORT:-6379}/0'"
  echo "export AETHERIUM_LOG_LOKI=http://127.0.0.1:${LOKI_PORT:-3100}"
}

down() {
  [ -e "$env_file" ] || return 0
  local name
  for name in "${workers[@]}"; do
    if [ -n "$(compose ps --quiet "$name")" ]; then
      say "ending $name and its VMs"
      compose stop "$name"
      # What it made on the host beside its container: control groups.
      compose run --rm --no-deps --no-TTY "$name" down
    fi
  done
  if [ -n "${PURGE:-}" ]; then
    compose --profile '*' down --volumes
    rm -f "$env_file"
  else
    compose --profile '*' down
  fi
}

case ${1:-} in
  build | up | infrastructure | down) "$1" ;;
  *) echo "usage: $0 build|up|infrastructure|down" >&2; exit 2 ;;
esac
