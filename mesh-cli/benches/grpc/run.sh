#!/usr/bin/env bash
# Streams of 10,000 small messages of grpc-go, up and down, ten at once on one connection and with readers that pause,
# through a pair of agents: each must arrive whole.
# Usage: run.sh MESH [RUNS], 100 runs by default.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mesh=$(realpath "$1")
runs=${2:-100}
dir=$(mktemp -d)
agents=()
finish() {
    local pid
    for pid in "${agents[@]}"; do kill "$pid" 2>/dev/null || true; done
    rm -rf "$dir"
}
trap finish EXIT
mkdir "$dir/go"
cp "$here/main.go" "$dir/go"
cd "$dir/go"
go mod init streams 2>> "$dir/go.log"
go get google.golang.org/grpc@v1.76.0 2>> "$dir/go.log" || { cat "$dir/go.log" >&2; exit 2; }
go mod tidy 2>> "$dir/go.log"
go build -o streams . 2>> "$dir/go.log" || { cat "$dir/go.log" >&2; exit 2; }
cd "$dir"
"$mesh" ca init ca --trust-domain td.test > /dev/null 2>&1
next=$((20000 + RANDOM % 8000))
port() { # sets $REPLY to a port on which nothing listens
    while next=$((next + 1)); (exec 3<>"/dev/tcp/127.0.0.1/$next") 2>/dev/null; do :; done
    REPLY=$next
}
port; app=$REPLY
port; server=$REPLY
port; client=$REPLY
agent() { # role, listener
    mkdir "$1"
    cat > "$1/agent.yaml" <<YAML
apiVersion: inmesh.dev/v1alpha1
kind: Agent
workload: {namespace: default, name: $1, serviceAccount: $1}
defaultAction: allow
peers: strict
identity: {developmentCA: {dir: ../ca}}
loopbackEndpoints: allow
listeners:
- $2
YAML
    cat > "$1/app.yaml" <<YAML
apiVersion: v1
kind: Service
metadata: {name: app, namespace: default}
spec: {ports: [{name: grpc, port: 80, appProtocol: kubernetes.io/h2c}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: app-1
  namespace: default
  labels: {kubernetes.io/service-name: app}
  annotations: {inmesh.dev/ids: "spiffe://td.test/ns/default/sa/server"}
addressType: IPv4
ports: [{name: grpc, port: $server}]
endpoints: [{addresses: ["127.0.0.1"]}]
YAML
    "$mesh" proxy --config "$1" 2> "$1.log" &
    agents+=($!)
}
agent server "{bind: \"127.0.0.1:$server\", inbound: {app: \"127.0.0.1:$app\", appProtocol: kubernetes.io/h2c}}"
agent client "{bind: \"127.0.0.1:$client\", outbound: {appProtocol: kubernetes.io/h2c}}"
for _ in $(seq 100); do
    if (exec 3<>"/dev/tcp/127.0.0.1/$client") 2>/dev/null && (exec 3<>"/dev/tcp/127.0.0.1/$server") 2>/dev/null; then break; fi
    sleep 0.1
done
go/streams "127.0.0.1:$app" "127.0.0.1:$client" "$runs"
