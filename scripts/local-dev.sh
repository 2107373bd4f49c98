#!/usr/bin/env bash
# An installation of processes of their own on this host: PostgreSQL and Redis
# from local packages, a gateway and two workers.
#   up       install what is missing, and start what does not run
#   down     end all of it and remove what it made on the host; the data stays
#   status   which processes run
# DEV_DIR is where everything is kept (default /var/lib/aetherium-dev).
# DEV_ADDRESS is where the API is served (default 127.0.0.1:7300).
# DEV_WORKER_PORT is the first of four that workers listen on (default 7310).
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

export DEV_DIR=${DEV_DIR:-/var/lib/aetherium-dev} DEV_ADDRESS=${DEV_ADDRESS:-127.0.0.1:7300} DEV_WORKER_PORT=${DEV_WORKER_PORT:-7310}
if [ "$(id -u)" != 0 ]; then
  exec sudo --preserve-env=DEV_DIR,DEV_ADDRESS,DEV_WORKER_PORT "$0" "$@"
fi
workers=(worker-1 worker-2)

export AETHERIUM_DATABASE="postgres:///aetherium?host=$DEV_DIR/run&user=aetherium"
export AETHERIUM_QUEUE="unix://$DEV_DIR/run/redis.sock"
export AETHERIUM_SEAL_KEY_FILE="$DEV_DIR/seal.key"

alive() { [ -f "$1" ] && kill -0 "$(head -1 "$1")" 2>/dev/null; }

postgres() { runuser -u postgres -- "$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -1)/$1" "${@:2}"; }

# run starts a program of ours and waits until it says that it is ready.
run() { # NAME PROGRAM
  local dir=$DEV_DIR/$1
  alive "$dir/server.pid" && return
  mkdir -p "$dir"
  say "starting $1"
  local ready
  ready=$(mktemp -u "$DEV_DIR/run/ready.XXXXXX")
  mkfifo -m 600 "$ready"
  AETHERIUM_DATA_DIR=$dir AETHERIUM_READY_FD=3 setsid "$BIN/$2" serve 3>"$ready" >>"$dir/server.log" 2>&1 </dev/null &
  if [ "$(cat "$ready")" != ready ]; then
    rm -f "$ready"
    tail -n 20 "$dir/server.log" >&2
    exit 1
  fi
  rm -f "$ready"
}

end() { # PID-FILE
  alive "$1" || return 0
  local pid
  pid=$(head -1 "$1")
  kill "$pid"
  tail --pid="$pid" -f /dev/null
}

up() {
  if ! command -v redis-server >/dev/null || ! compgen -G "/usr/lib/postgresql/*/bin/initdb" >/dev/null; then
    "$ROOT/scripts/install-deps.sh" --test
  fi
  if [ ! -x "$BIN/aetherium-gateway" ] || [ ! -x "$BIN/aetherium-worker" ]; then
    make -C "$ROOT" build
  fi
  mkdir -p "$DEV_DIR/run"
  chmod 711 "$DEV_DIR"
  chown postgres: "$DEV_DIR/run"
  if [ ! -d "$DEV_DIR/postgres" ]; then
    install -d -o postgres -m 700 "$DEV_DIR/postgres"
    postgres initdb --pgdata="$DEV_DIR/postgres" --username=postgres --auth=trust --encoding=UTF8 --locale=C >/dev/null
  fi
  if ! alive "$DEV_DIR/postgres/postmaster.pid"; then
    say "starting PostgreSQL"
    postgres pg_ctl start --silent --wait --pgdata="$DEV_DIR/postgres" --log="$DEV_DIR/postgres/log" \
      --options="-c listen_addresses='' -c unix_socket_permissions=0700 -k $DEV_DIR/run" >/dev/null
  fi
  if [ -z "$(postgres psql -h "$DEV_DIR/run" -U postgres -Atc "SELECT 1 FROM pg_roles WHERE rolname = 'aetherium'")" ]; then
    postgres createuser -h "$DEV_DIR/run" -U postgres aetherium
    postgres createdb -h "$DEV_DIR/run" -U postgres --owner=aetherium --encoding=UTF8 --template=template0 aetherium
  fi
  if ! alive "$DEV_DIR/run/redis.pid"; then
    say "starting Redis"
    install -d -m 700 "$DEV_DIR/redis"
    redis-server --port 0 --unixsocket "$DEV_DIR/run/redis.sock" --unixsocketperm 700 --dir "$DEV_DIR/redis" --appendonly yes \
      --pidfile "$DEV_DIR/run/redis.pid" --daemonize yes --logfile "$DEV_DIR/redis/log" --maxmemory-policy noeviction >/dev/null
  fi
  AETHERIUM_LISTEN_ADDRESS=$DEV_ADDRESS run gateway aetherium-gateway
  export AETHERIUM_WORKER_GATEWAY=http://$DEV_ADDRESS
  local i=0 token
  for name in "${workers[@]}"; do
    token=
    [ -e "$DEV_DIR/$name/worker.pem" ] || token=$(AETHERIUM_DATA_DIR=$DEV_DIR/gateway "$BIN/aetherium" worker token create --quiet)
    AETHERIUM_WORKER_NAME=$name AETHERIUM_WORKER_TOKEN=$token AETHERIUM_WORKER_ADDRESS=127.0.0.1:$((DEV_WORKER_PORT + 2 * i)) \
      AETHERIUM_WORKER_METRICS=127.0.0.1:$((DEV_WORKER_PORT + 2 * i + 1)) run "$name" aetherium-worker
    i=$((i + 1))
  done
  say "the API is at http://$DEV_ADDRESS"
  echo "export AETHERIUM_DATA_DIR=$DEV_DIR/gateway   # aetherium finds it by this"
}

down() {
  for name in "${workers[@]}"; do
    end "$DEV_DIR/$name/server.pid"
    [ -d "$DEV_DIR/$name" ] && AETHERIUM_LOG_LEVEL=warn AETHERIUM_DATA_DIR=$DEV_DIR/$name "$BIN/aetherium-worker" down
  done
  end "$DEV_DIR/gateway/server.pid"
  end "$DEV_DIR/run/redis.pid"
  if alive "$DEV_DIR/postgres/postmaster.pid"; then
    postgres pg_ctl stop --silent --wait --mode=fast --pgdata="$DEV_DIR/postgres"
  fi
}

status() {
  local name state
  for name in "$DEV_DIR"/{postgres/postmaster.pid,run/redis.pid,gateway/server.pid} "${workers[@]/#/$DEV_DIR/}"; do
    [ -d "$name" ] && name=$name/server.pid
    state=stopped
    alive "$name" && state="pid $(head -1 "$name")"
    printf '%-50s %s\n' "$name" "$state"
  done
}

case ${1:-} in
  up | down | status) "$1" ;;
  *) echo "usage: $0 up|down|status" >&2; exit 2 ;;
esac
