#!/usr/bin/env bash
# Build stand-ins for the base images where no image registry can be reached.
#
# From Debian's packages alone: a Debian root by debootstrap, and on top of it Python 3.11,
# PostgreSQL and Redis; and the `opa` that `make servers` built. They behave as the official images
# where this project uses them (paths, users, variables, entry points), and nowhere else: they are
# for tests and offline trials, never for production.
#
#   deploy/standin/build.sh            images that are missing
#   REBUILD=1 deploy/standin/build.sh  all of them again
set -euo pipefail
cd "$(dirname "$0")"

suite=${SUITE:-bookworm}
mirror=${MIRROR:-}                       # empty: the mirror debootstrap was configured with
prefix=${PREFIX:-privacy-gateway-standin}
opa=${OPA_BINARY:-../../.cache/bin/opa}

say() { echo "standin: $*" >&2; }
has() { [ -z "${REBUILD:-}" ] && docker image inspect "$1" >/dev/null 2>&1; }

debian() {
  local image=$prefix/debian:$suite root
  has "$image" && return
  [ "$(id -u)" = 0 ] || { say "debootstrap needs root; run once with sudo"; exit 1; }
  command -v debootstrap >/dev/null || { say "please install debootstrap"; exit 1; }
  root=$(mktemp -d)
  # shellcheck disable=SC2064  # the folder of now, not of later
  trap "rm -rf --one-file-system '$root'" EXIT
  say "debootstrap $suite"
  debootstrap --variant=minbase --include=ca-certificates "$suite" "$root" ${mirror:+"$mirror"} >&2
  rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
  tar --one-file-system --numeric-owner -C "$root" -c . | docker import - "$image" >/dev/null
}

# Packages come over the network of the host: the way the machine itself reaches its mirror.
image() {
  local name=$1 context=$2
  has "$prefix/$name" && return
  say "building $name"
  DOCKER_BUILDKIT=0 docker build --quiet --network host --build-arg BASE="$prefix/debian:$suite" \
    --tag "$prefix/$name" --file "$context/$name.Dockerfile" "$context" >/dev/null
}

opa() {
  has "$prefix/opa" && return
  [ -x "$opa" ] || { say "no opa at $opa; run \`make servers\` first"; exit 1; }
  local context
  context=$(mktemp -d)
  cp "$opa" "$context/opa"
  cp opa.Dockerfile "$context/"
  image opa "$context"
  rm -rf "$context"
}

debian
image python .
image postgres .
image redis .
opa
docker images "$prefix/*" >&2
