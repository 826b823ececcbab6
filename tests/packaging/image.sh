#!/bin/bash
# Builds the Dockerfile unchanged and runs the image, without a container engine: buildah with chroot isolation over a
# stand-in for python:3.13-slim made by debootstrap and PYTHON313, the prefix of a CPython 3.13. By hand, as root:
#   apt-get install buildah debootstrap && PYTHON313=/usr/local tests/packaging/image.sh
# The first run takes some minutes, later ones use what is kept in ${XDG_CACHE_HOME:-~/.cache}/erpsync-image.
set -euo pipefail
repository=$(cd "$(dirname "$0")/../.." && pwd)
kept=${XDG_CACHE_HOME:-$HOME/.cache}/erpsync-image
base=docker.io/library/python:3.13-slim
image=localhost/erpsync:test
work=$(mktemp -d)
container=
export BUILDAH_ISOLATION=chroot
buildah() { command buildah --root "$kept/storage" --runroot "$kept/run" --storage-driver vfs "$@"; }
tidy() { [ -z "$container" ] || buildah rm "$container" >/dev/null 2>&1 || true; rm -rf "$work"; }
trap tidy EXIT
mkdir -p "$kept"

build_base() {
    local prefix=${PYTHON313:?the prefix of a CPython 3.13} mirror
    mirror=$(grep -rhm1 '^URIs:' /etc/apt/sources.list.d/*.sources | head -1 | awk '{print $2}')
    debootstrap --variant=minbase --include=ca-certificates,libssl3,libsqlite3-0,libffi8,libbz2-1.0,liblzma5,libreadline8 \
        bookworm "$work/tree" "$mirror" >"$work/debootstrap.log" 2>&1 || { tail "$work/debootstrap.log"; exit 1; }
    rm -rf "$work"/tree/var/lib/apt/lists/* "$work"/tree/var/cache/apt/* "$work/tree/etc/apt/sources.list"
    tar -C "$prefix" --exclude='lib/python3.13/test' --exclude='*.a' --exclude=__pycache__ -cf - bin lib include \
        | tar -C "$work/tree/usr/local" -xf -
    # What only a machine behind its own authority needs lives in the stand-in, not in the Dockerfile.
    cp /etc/ssl/certs/ca-certificates.crt "$work/tree/etc/ssl/certs/ca-certificates.crt"
    printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n' >"$work/tree/etc/pip.conf"
    sed -i '1s|^#!.*python.*|#!/usr/local/bin/python3.13|' "$work"/tree/usr/local/bin/pip*
    ln -sf python3.13 "$work/tree/usr/local/bin/python3"
    ln -sf python3.13 "$work/tree/usr/local/bin/python"
    tar -C "$work/tree" -cf "$work/base.tar" .
    container=$(buildah from scratch)
    buildah add -q "$container" "$work/base.tar" / >/dev/null
    buildah config --env PATH=/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin --env LANG=C.UTF-8 "$container"
    buildah run "$container" -- sh -c 'ldconfig && python -c "import ssl, sqlite3, bz2, lzma, ctypes, zlib"'
    buildah commit -q --rm "$container" "$base" >/dev/null
    container=
}

buildah inspect --type image "$base" >/dev/null 2>&1 || build_base

# Packages come from where this machine's pip gets them.
proxies=()
for name in PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS PIP_DEFAULT_TIMEOUT http_proxy https_proxy no_proxy; do
    [ -z "${!name:-}" ] || proxies+=(--env "$name=${!name}")
done
buildah bud -q --pull-never --format docker --layers=false "${proxies[@]}" -t "$image" "$repository" >/dev/null
buildah inspect --type image "$image" | python3 -c '
import json, sys
config = json.load(sys.stdin)["Docker"]["config"]
assert config["User"] == "10001:10001" and config["StopSignal"] == "SIGTERM" and config["Healthcheck"], config
assert not any("SECRET" in line for line in config["Env"]), config["Env"]'
echo "built"

container=$(buildah from --pull-never "$image")
run() { buildah run --user 10001:10001 "$container" -- "$@"; }
run erpsync --version
run erpsync plugins --format json | python3 -c '
import json, sys
names = {plugin["name"] for plugin in json.load(sys.stdin)}
assert {"mirror", "http_call"} <= names, names'
run sh -c 'test "$(id -u)" = 10001 && touch /data/x && ! touch /opt/erpsync/x 2>/dev/null'
echo "user 10001 writes to /data and nowhere else"

# The daemon in a network of its own, so that nothing else on this machine can answer for it.
cat >"$work/erpsync.toml" <<'TOML'
[metrics]
listen = "127.0.0.1:9465"
TOML
chmod 755 "$work" && chmod 644 "$work/erpsync.toml"
buildah copy -q "$container" "$work/erpsync.toml" /etc/erpsync/erpsync.toml >/dev/null
export -f buildah run
export kept container
unshare --net --pid --fork --kill-child --mount-proc bash -euc '
    ip link set lo up
    run erpsync daemon 2>"$0/daemon.log" &
    daemon=$!
    for _ in $(seq 100); do run erpsync status --check >/dev/null 2>&1 && healthy=yes && break; sleep 0.1; done
    [ "${healthy:-no}" = yes ] || { cat "$0/daemon.log"; echo "the daemon did not become healthy"; exit 1; }
    echo "the health check passes"
    kill -TERM "$(grep -o "\"pid\":[0-9]*" "$0/daemon.log" | cut -d: -f2)"
    wait $daemon && echo "SIGTERM ends it with 0"
' "$work"
