#!/bin/bash
# Starts PostgreSQL, and initializes PGDATA first where it is empty.
#   POSTGRES_PASSWORD  the superuser's password over TCP; without it, none is asked
#   POSTGRES_DB        a database to create at the first start
# Over the Unix socket no password is asked. Arguments go to the server.
set -euo pipefail

if [ "$(id -u)" = 0 ]; then
  # The server refuses to run as root.
  mkdir -p "$PGDATA"
  chown 999:999 "$PGDATA"
  chmod 700 "$PGDATA"
  exec chroot --userspec=999:999 --groups= / "$0" "$@"
fi

if [ ! -s "$PGDATA/PG_VERSION" ]; then
  method=trust
  password=()
  if [ -n "${POSTGRES_PASSWORD:-}" ]; then
    method=scram-sha-256
    password=(--pwfile=/dev/stdin)
  fi
  initdb --pgdata="$PGDATA" --no-sync --username=postgres --no-locale --encoding=UTF8 --auth-local=trust --auth-host="$method" "${password[@]}" <<<"${POSTGRES_PASSWORD:-}"
  echo "host all all all $method" >>"$PGDATA/pg_hba.conf"
  if [ -n "${POSTGRES_DB:-}" ] && [ "$POSTGRES_DB" != postgres ]; then
    echo "CREATE DATABASE \"$POSTGRES_DB\"" | postgres --single -D "$PGDATA" postgres >/dev/null
  fi
  # Once and for all of it: a snapshot holds what a crash would leave.
  sync -f "$PGDATA"
fi
unset POSTGRES_PASSWORD

exec postgres -D "$PGDATA" -c "listen_addresses=*" -c unix_socket_directories=/run/postgresql "$@"
