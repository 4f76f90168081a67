#!/bin/sh
# Starts Redis with its data in /data.
#   REDIS_PASSWORD  what clients have to give; without it, nothing
# Arguments go to the server.
set -eu

if [ "$(id -u)" = 0 ]; then
  chown 999:999 /data
  exec chroot --userspec=999:999 --groups= / "$0" "$@"
fi

cd /data
# In a file, since arguments can be read by everybody.
{ [ -z "${REDIS_PASSWORD:-}" ] || printf 'requirepass %s\n' "$REDIS_PASSWORD"; } >/tmp/redis.conf
unset REDIS_PASSWORD
exec redis-server /tmp/redis.conf --dir /data --bind '* -::*' --protected-mode no "$@"
