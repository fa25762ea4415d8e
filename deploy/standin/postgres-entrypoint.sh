#!/usr/bin/env bash
# First start: make the cluster, its user and its database. Every start: run the server.
# Only what docker-compose.yml relies on; the container already runs as `postgres`.
set -euo pipefail

if [ "${1:-postgres}" != postgres ] && [ "${1#-}" = "$1" ]; then
  exec "$@"
fi
[ "${1:-}" = postgres ] && shift

user=${POSTGRES_USER:-postgres}
database=${POSTGRES_DB:-$user}
if [ -n "${POSTGRES_PASSWORD:-}" ] && [ -n "${POSTGRES_PASSWORD_FILE:-}" ]; then
  echo "set either POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE, not both" >&2
  exit 1
fi
password_file=${POSTGRES_PASSWORD_FILE:-/dev/null}

if [ ! -s "$PGDATA/PG_VERSION" ]; then
  # shellcheck disable=SC2086  # several options in one variable, as in the official image
  initdb --pgdata "$PGDATA" --username "$user" --encoding UTF8 \
    --auth-local trust --auth-host scram-sha-256 \
    --pwfile <(if [ -n "${POSTGRES_PASSWORD:-}" ]; then echo "$POSTGRES_PASSWORD"; else cat "$password_file"; fi) \
    ${POSTGRES_INITDB_ARGS:-}
  echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
  if [ "$database" != postgres ]; then
    pg_ctl --pgdata "$PGDATA" --wait --options "-c listen_addresses=''" start
    createdb --username "$user" --host /var/run/postgresql --maintenance-db postgres "$database"
    pg_ctl --pgdata "$PGDATA" --wait --mode fast stop
  fi
fi
exec postgres -c listen_addresses='*' "$@"
