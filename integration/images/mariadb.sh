#!/bin/sh
# Starts MariaDB, and initializes /var/lib/mysql first where it is empty.
#   MARIADB_ROOT_PASSWORD  root's password, over the socket as well; required
#   MARIADB_DATABASE       a database to create at the first start
# Arguments go to the server.
set -eu

data=/var/lib/mysql
if [ "$(id -u)" = 0 ]; then
  chown 999:999 "$data"
  exec chroot --userspec=999:999 --groups= / "$0" "$@"
fi

if [ ! -d "$data/mysql" ]; then
  mariadb-install-db --no-defaults --datadir="$data" --auth-root-authentication-method=normal --skip-test-db --force >/tmp/install.log
  umask 077
  {
    echo "SET PASSWORD FOR root@localhost = PASSWORD('$MARIADB_ROOT_PASSWORD');"
    [ -z "${MARIADB_DATABASE:-}" ] || echo "CREATE DATABASE IF NOT EXISTS \`$MARIADB_DATABASE\`;"
  } >/run/mysqld/init.sql
  set -- --init-file=/run/mysqld/init.sql "$@"
fi
unset MARIADB_ROOT_PASSWORD

exec mariadbd --no-defaults --datadir="$data" --socket=/run/mysqld/mysqld.sock --skip-name-resolve --innodb-buffer-pool-size=32M --innodb-log-file-size=16M "$@"
