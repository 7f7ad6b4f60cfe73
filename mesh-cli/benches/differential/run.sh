#!/usr/bin/env bash
# Programs of six languages speak to each other directly and through a pair of agents; each difference in what one of
# them sees must stand in docs/differences.md. What cannot be had here is skipped with a line.
# Usage: run.sh [--mesh BINARY] [--tools DIR] [--only CASE-GLOB]
#   --mesh BINARY   default target/release/mesh
#   --tools DIR     keeps what is installed for the next run; by default all is in a temporary folder
#   --only GLOB     cases by their id, such as 'path-*'
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mesh=${CARGO_TARGET_DIR:-$here/../../../target}/release/mesh tools='' only=''
while (($#)); do
    case $1 in
        --mesh) mesh=$2 ;;
        --tools) tools=$2 ;;
        --only) only=$2 ;;
        *) sed -n '4,7s/^# //p' "$0" >&2; exit 2 ;;
    esac
    shift 2 || { sed -n '4,7s/^# //p' "$0" >&2; exit 2; }
done
[[ -x $mesh ]] || { echo "differential: $mesh is not a program" >&2; exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# The folder is removed: drive.py ends what it starts.
tools=${tools:-$work/tools}
mkdir -p "$tools"
tools=$(realpath "$tools")

clients=() servers=()
skip() { # reason, client, server; `-` for no such one
    echo "skipped: $1"
    [[ $2 == - ]] || clients+=("$2")
    [[ $3 == - ]] || servers+=("$3")
}

python3 -m venv "$tools/py"
pip() { "$tools/py/bin/pip" -q install --disable-pip-version-check "$@" 2>>"$work/pip.log"; }
pip requests==2.34.2 || skip "requests cannot be installed" requests -
pip httpx==0.28.1 || skip "httpx cannot be installed" httpx -
pip uvicorn==0.54.0 h11==0.16.0 websockets==17.4 || skip "uvicorn and websockets cannot be installed" websockets uvicorn
pip gunicorn==27.0.1 || skip "gunicorn cannot be installed" - gunicorn
pip grpcio==1.85.1 || skip "grpcio cannot be installed" grpcio grpc
if [[ " ${clients[*]} " == *" requests "* || " ${clients[*]} " == *" httpx "* ]]; then
    clients+=(requests httpx) # one program has both
fi
if command -v go >/dev/null && {
    (cd "$here/servers/go" && GO111MODULE=off go build -o "$tools/go-server" main.go) &&
        (cd "$here/clients/go" && GO111MODULE=off go build -o "$tools/go-client" main.go)
} >"$work/go.log" 2>&1; then :; else skip "go is not here, or does not build" go go; skip "so there is no HTTP/2 of net/http" go2 go2; fi
if command -v javac >/dev/null && javac -d "$tools/java" "$here"/*/*.java >"$work/java.log" 2>&1; then :; else
    skip "a JDK of 17 or later is not here" java java
fi
node -e 'if (+process.versions.node.split(".")[0] < 20) process.exit(1)' 2>/dev/null || skip "Node 20 or later is not here" node node
command -v curl >/dev/null || skip "curl is not installed" curl -
command -v nginx >/dev/null || skip "nginx is not installed" - nginx

"$tools/py/bin/python" "$here/drive.py" "$work" "$tools" "$(realpath "$mesh")" "${clients[*]}" "${servers[*]}" ${only:+"$only"}
