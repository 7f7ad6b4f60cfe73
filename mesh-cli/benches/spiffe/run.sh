#!/usr/bin/env bash
# The SPIFFE libraries of other languages before the Workload API of an agent: py-spiffe, go-spiffe and
# java-spiffe, each skipped with a line where its language or the library cannot be had.
# Usage: run.sh [MESH-BINARY]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mesh=$(realpath "${1:-$here/../../../target/release/mesh}")
dir=$(mktemp -d)
trap 'kill "${agent:-}" 2>/dev/null || true; rm -rf "$dir"' EXIT
cd "$dir"
"$mesh" ca init dev --trust-domain td.test 2>/dev/null
mkdir app
cat > app/agent.yaml <<YAML
apiVersion: inmesh.dev/v1alpha1
kind: Agent
workload: {namespace: shop, name: app, serviceAccount: app}
defaultAction: deny
peers: strict
identity:
  developmentCA: {dir: ../dev}
workloadApi:
  listen: ../api.sock
  entries:
  - {id: "spiffe://td.test/ns/shop/sa/other", uid: $(id -u)}
YAML
"$mesh" proxy --config app 2> agent.log & agent=$!
for _ in $(seq 50); do [[ -S api.sock ]] && break; sleep 0.1; done
address=unix://$dir/api.sock
failed=0
check() {
  local name=$1 out
  shift
  if out=$("$@" 2> "$name.log") && [[ $out == spiffe://td.test/ns/shop/sa/other ]]; then
    echo "ok: $name"
  else
    echo "failed: $name"
    cat "$name.log"
    failed=1
  fi
}
if python3 -m venv py && py/bin/pip -q install 'spiffe==0.3.2' 2> pip.log; then
  check py-spiffe timeout 30 py/bin/python -W ignore "$here/client.py" "$address"
else
  echo "skipped: py-spiffe (it cannot be installed)"
fi
if command -v go > go.log && cp -r "$here/go" go-client && cd go-client \
  && go mod init client 2>> ../go.log && go get github.com/spiffe/go-spiffe/v2@v2.5.0 2>> ../go.log \
  && go mod tidy 2>> ../go.log && go build -o client . 2>> ../go.log; then
  cd "$dir"
  check go-spiffe timeout 30 go-client/client "$address"
else
  cd "$dir"
  echo "skipped: go-spiffe (it cannot be built)"
fi
if command -v javac > /dev/null && command -v mvn > /dev/null && mkdir java && cp "$here/pom.xml" java \
  && mvn -q -B -f java/pom.xml org.apache.maven.plugins:maven-dependency-plugin:3.6.0:copy-dependencies \
    -DoutputDirectory="$dir/java/jars" > java.log 2>&1 \
  && javac -cp "java/jars/*" -d java "$here/Client.java" >> java.log 2>&1; then
  check java-spiffe timeout 60 java -cp "java:java/jars/*" Client "$address"
else
  echo "skipped: java-spiffe (it cannot be had or built)"
fi
exit "$failed"
