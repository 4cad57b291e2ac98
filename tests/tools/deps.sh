#!/bin/sh
# Installs what building and testing need and this machine lacks: the Debian packages of apt.txt, for the groups named.
#   deps.sh PYTHON build [test] [bench]
# As root or with sudo it installs; otherwise it prints the line to run. Machines without apt are left alone.
set -eu
python=$1
shift
here=$(dirname "$0")
command -v dpkg-query >/dev/null 2>&1 || exit 0

installed() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null || true)" = installed ]
}

# Debian's own Python has its headers and venv in packages; others bring them along.
debian_python() {
    command -v "$python" >/dev/null 2>&1 || return 0
    [ "$("$python" -c 'import sys; print(sys.base_prefix)' 2>/dev/null)" = /usr ]
}

missing=
need() {
    case $1 in
    llhttp)
        if installed libllhttp-dev || installed node-llhttp; then return; fi
        missing="$missing llhttp" ;;
    python3-dev | python3-venv)
        if debian_python && ! installed "$1"; then missing="$missing $1"; fi ;;
    gcc)
        if ! command -v "${CC:-gcc}" >/dev/null 2>&1; then missing="$missing gcc"; fi ;;
    make | wrk | openssl)
        if ! command -v "$1" >/dev/null 2>&1; then missing="$missing $1"; fi ;;
    redis-server)
        if ! command -v redis-server >/dev/null 2>&1; then missing="$missing $1"; fi ;;
    *)
        if ! installed "$1"; then missing="$missing $1"; fi ;;
    esac
}

while read -r name group _; do
    case $name in '' | '#'*) continue ;; esac
    for wanted in "$@"; do
        if [ "$wanted" = "$group" ]; then need "$name"; fi
    done
done <"$here/apt.txt"

[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ]; then
    as=
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    as=sudo
else
    case $missing in *llhttp*) missing=$(echo "$missing" | sed 's/ llhttp/ libllhttp-dev (or node-llhttp)/') ;; esac
    echo "ringcorn: missing packages; as root: apt-get install$missing" >&2
    exit 1
fi

$as apt-get -qq update >&2 || echo "ringcorn: apt-get update failed, going on with the old lists" >&2
case $missing in
*llhttp*)
    if apt-cache show libllhttp-dev >/dev/null 2>&1; then name=libllhttp-dev; else name=node-llhttp; fi
    missing=$(echo "$missing" | sed "s/ llhttp/ $name/") ;;
esac
echo "ringcorn: installing:$missing" >&2
# shellcheck disable=SC2086  # a list of names
$as env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $missing >&2
# PostgreSQL's package starts a server of its own; the tests start theirs in a folder that they remove.
