#!/bin/sh
# Make the secrets docker-compose.yml hands out as files. Keeps every file that is there already.
#
#   deploy/secrets.sh                     into deploy/secrets (ignored by git)
#   SECRETS=/etc/privacy-gateway deploy/secrets.sh
#
# The folder is closed to other accounts of the host; the files are readable so that the containers,
# which run as other numbers than you, can read those mounted into them.
set -eu
folder=${SECRETS:-$(dirname "$0")/secrets}
mkdir -p "$folder"
chmod 0700 "$folder"
cd "$folder"
umask 0222

random() { od -An -N"$1" -tx1 /dev/urandom | tr -d ' \n'; }
keep() { if [ -s "$1" ]; then cat >/dev/null; else rm -f "$1"; cat >"$1"; fi; }

random 24 | keep postgres_password
printf 'postgresql://gateway:%s@postgres:5432/gateway' "$(cat postgres_password)" | keep database_url
# The superuser above migrates and sets these up; gateway and workers get no more than their own role.
for role in migrator api worker auditor; do
  random 24 | keep "database_${role}_password"
  printf 'postgresql://gateway_%s:%s@postgres:5432/gateway' "$role" \
    "$(cat "database_${role}_password")" | keep "database_url_$role"
done
random 12 | keep admin_password
random 32 | keep opa_token
# The policy server is told the hash only.
printf '{"gateway_access": {"token_sha256": "%s"}}\n' \
  "$(sha256sum opa_token | cut -d ' ' -f 1)" | keep opa_access.json
# What the owners' policies are signed with, what opens the way to them, and where the policy server
# fetches them. It is told the public key only.
[ -s opa_bundle_key ] || openssl version >/dev/null || { echo "openssl is needed" >&2; exit 1; }
openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 2>/dev/null | keep opa_bundle_key
random 32 | keep opa_bundle_token
public=$(openssl pkey -in opa_bundle_key -pubout | awk '{printf "%s\\n", $0}')
keep opa_config.json <<EOF
{
  "services": {
    "gateway": {
      "url": "http://gateway:8081",
      "credentials": {"bearer": {"token": "$(cat opa_bundle_token)"}}
    }
  },
  "keys": {"gateway": {"algorithm": "ES256", "key": "$public"}},
  "bundles": {
    "gateway": {
      "service": "gateway",
      "resource": "v1/bundles/policies",
      "signing": {"keyid": "gateway", "scope": "privacy-gateway"},
      "polling": {"min_delay_seconds": 1, "max_delay_seconds": 2}
    }
  }
}
EOF
echo "secrets in $(pwd)" >&2
