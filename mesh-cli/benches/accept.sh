#!/usr/bin/env bash
# The agent pair under a paced load while everything changes:
#
#   h2load, curl --plain--> mesh proxy (outbound) --mutual TLS--> mesh proxy (inbound) --> nginx
#
# Twice, over HTTP/1.1 and over HTTP/2 on both sides of the mesh: 1,000 requests a second, leaf
# certificates of 20 s that both agents renew from a development CA, and an edit of an HTTPRoute
# each second, good and bad in turn, by atomic rename. Not one request may fail, each good edit
# must be live within a second, each bad one refused with what was good serving on. Before that:
# what a caller without a certificate gets, and a server with another identity than it should have.
#
# h2load paces each client by a timer (`--rps`): the mean is right, one second is not exactly like
# the next; the spread is printed. Needs nginx, h2load, openssl, curl (Debian: nginx-light
# nghttp2-client openssl curl). Every process started here is ended by its id.
set -euo pipefail

usage() {
    cat <<'USAGE'
usage: accept.sh [--mesh BIN] [--seconds N] [--rate N] [--quick] [--keep]

  --mesh BIN   the agent (default: release, quick-release or debug of the target folder)
  --seconds N  the load over each protocol, default 120; five edits in each six seconds
  --rate N     requests a second, default 1000
  --quick      the same as --seconds 10
  --keep       leave the folder with configurations and logs
USAGE
}

here=$(cd "$(dirname "$0")" && pwd)
target=${CARGO_TARGET_DIR:-$here/../../target}
mesh='' seconds=120 rate=1000 keep=''
while (($#)); do
    case $1 in
        --mesh) mesh=$2; shift ;;
        --seconds) seconds=$2; shift ;;
        --rate) rate=$2; shift ;;
        --quick) seconds=10 ;;
        --keep) keep=1 ;;
        *) usage >&2; exit 2 ;;
    esac
    shift || { usage >&2; exit 2; }
done
for profile in release quick-release debug; do
    [[ -n $mesh || ! -x $target/$profile/mesh ]] || mesh=$target/$profile/mesh
done
[[ -x $mesh ]] || { echo "accept: build the agent first: cargo build --release" >&2; exit 2; }
for tool in nginx h2load openssl curl; do
    command -v "$tool" >/dev/null || { echo "accept: $tool is not installed" >&2; exit 2; }
done

clients=20
work=$(mktemp -d)
declare -a started=() # every process of ours, to be ended by its id
failures=0

finish() {
    local pid
    for pid in "${started[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
    # The agents drain for a second or two; what is left after that is cut.
    for _ in {1..50}; do
        pid=''
        for pid in "${started[@]}"; do ! kill -0 "$pid" 2>/dev/null || break; pid=''; done
        [[ -n $pid ]] || break
        sleep 0.1
    done
    for pid in "${started[@]}"; do kill -KILL "$pid" 2>/dev/null || true; done
    if [[ -n $keep ]]; then echo "left in $work"; else rm -rf "$work"; fi
}
trap finish EXIT

check() { # ok (0 or 1, as a status), what, figures
    if (($1 == 0)); then
        printf 'ok    %-34s %s\n' "$2" "$3"
    else
        printf 'FAIL  %-34s %s\n' "$2" "$3"
        failures=$((failures + 1))
    fi
}

holds() { # an arithmetic condition; sets $REPLY to its status
    REPLY=0
    (($1)) || REPLY=1
}

next_port=$((20000 + RANDOM % 8000))
port() { # sets $REPLY to a port on which nothing listens
    while :; do
        next_port=$((next_port + 1))
        if ! (exec 3<>"/dev/tcp/127.0.0.1/$next_port") 2>/dev/null; then
            REPLY=$next_port
            return
        fi
    done
}

start() { # name, command...
    local name=$1
    shift
    "$@" >"$work/$name.out" 2>"$work/$name.log" </dev/null &
    started+=($!)
}

publish() { # folder, name; the text on standard input: beside it, then renamed
    cat >"$1/.$2.new"
    mv "$1/.$2.new" "$1/$2"
}

metric() { # admin port, name: prints its value, 0 where it is not there yet
    curl -sf --max-time 2 "http://127.0.0.1:$1/metrics" | awk -v n="$2" '$1 == n { v = $2 } END { print v + 0 }'
}

now() { # sets $REPLY to milliseconds
    REPLY=$((${EPOCHREALTIME/[.,]/} / 1000))
}

until_true() { # milliseconds, command...: sets $took; fails where it did not come true in time
    local limit=$1 begin
    shift
    now; begin=$REPLY
    while :; do
        if "$@"; then now; took=$((REPLY - begin)); return 0; fi
        now; took=$((REPLY - begin))
        ((took < limit)) || return 1
        sleep 0.02
    done
}

# --- the application: nginx with a port for each protocol

port; app_h1=$REPLY; port; app_h2=$REPLY
port; in_h1=$REPLY; port; in_h2=$REPLY; port; in_admin=$REPLY
port; out_h1=$REPLY; port; out_h2=$REPLY; port; out_wrong=$REPLY; port; out_stranger=$REPLY
port; out_admin=$REPLY; port; stranger=$REPLY
# What goes wrong on purpose is asked for as /wrong, the only path that nginx logs.
cat >"$work/nginx.conf" <<NGINX
user $(id -un);
daemon off;
worker_processes 1;
pid $work/nginx.pid;
error_log $work/nginx-error.log warn;
events { worker_connections 4096; }
http {
    keepalive_timeout 3600s;
    keepalive_requests 1000000000;
    client_body_temp_path $work/body;
    proxy_temp_path $work/proxy;
    fastcgi_temp_path $work/fastcgi;
    uwsgi_temp_path $work/uwsgi;
    scgi_temp_path $work/scgi;
    access_log off;
    server {
        listen 127.0.0.1:$app_h1 backlog=4096;
        listen 127.0.0.1:$app_h2 http2 backlog=4096;
        location / { return 200 "hello from nginx\n"; }
        location /wrong { access_log $work/wrong.log; return 200 "never\n"; }
    }
}
NGINX
: >"$work/wrong.log"
start nginx nginx -p "$work" -c "$work/nginx.conf" -e stderr

# --- the agents

"$mesh" ca init "$work/ca" --trust-domain accept.local >"$work/ca.log" 2>&1
agent() { # name, admin port; the listeners on standard input
    mkdir "$work/$1"
    publish "$work/$1" agent.yaml <<AGENT
apiVersion: inmesh.dev/v1alpha1
kind: Agent
workload: {namespace: shop, name: $1, serviceAccount: $1, labels: {app: $1}}
defaultAction: deny
peers: strict
identity:
  developmentCA: {dir: $work/ca, lifetime: 20s}
loopbackEndpoints: allow
limits: {drainLead: 100ms, drainDeadline: 2s}
admin: {bind: "127.0.0.1:$2"}
listeners:
$(cat)
AGENT
}
service() { # name, appProtocol, port of the inbound agent, service account
    cat <<SERVICE
---
apiVersion: v1
kind: Service
metadata: {name: $1, namespace: shop}
spec:
  ports: [{name: app, port: 80, appProtocol: $2}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: $1-1
  namespace: shop
  labels: {kubernetes.io/service-name: $1}
  annotations: {inmesh.dev/ids: "spiffe://accept.local/ns/shop/sa/$4"}
addressType: IPv4
ports: [{name: app, port: $3}]
endpoints: [{addresses: [127.0.0.1]}]
SERVICE
}
route() { # name, value of the header, what else the rule says
    cat <<ROUTE
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: $1, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: $1}]
  rules:
  - filters:
    - type: ResponseHeaderModifier
      responseHeaderModifier: {set: [{name: x-edit, value: "$2"}]}
    backendRefs: [{name: $1, port: 80${3:-}}]
ROUTE
}

agent app "$in_admin" <<LISTENERS
- {bind: "127.0.0.1:$in_h1", inbound: {app: "127.0.0.1:$app_h1", appProtocol: http}}
- {bind: "127.0.0.1:$in_h2", inbound: {app: "127.0.0.1:$app_h2", appProtocol: kubernetes.io/h2c}}
LISTENERS
publish "$work/app" policy.yaml <<'POLICY'
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: app-from-caller, namespace: shop}
spec:
  selector: {matchLabels: {app: app}}
  action: ALLOW
  rules:
  - from:
    - source: {principals: ["accept.local/ns/shop/sa/caller"]}
POLICY
agent caller "$out_admin" <<LISTENERS
- {bind: "127.0.0.1:$out_h1", outbound: {appProtocol: http, service: {name: h1, port: 80}}}
- {bind: "127.0.0.1:$out_h2", outbound: {appProtocol: kubernetes.io/h2c, service: {name: h2, port: 80}}}
- {bind: "127.0.0.1:$out_wrong", outbound: {appProtocol: http, service: {name: wrong, port: 80}}}
- {bind: "127.0.0.1:$out_stranger", outbound: {appProtocol: http, service: {name: stranger, port: 80}}}
LISTENERS
{
    service h1 http "$in_h1" app
    service h2 kubernetes.io/h2c "$in_h2" app
    service wrong http "$in_h1" ledger   # the agent of app stands where that of ledger should
    service stranger http "$stranger" app # and here a server of the same CA that counts bytes
} | publish "$work/caller" services.yaml
for proto in h1 h2; do route $proto 0 | publish "$work/caller" route-$proto.yaml; done

for name in app caller; do start "$name" "$mesh" proxy --config "$work/$name"; done
answers() { curl -sf --max-time 2 -o "$work/answer" "$@"; }
for admin in "$in_admin" "$out_admin"; do
    until_true 15000 answers "http://127.0.0.1:$admin/readyz" || {
        echo "accept: an agent did not become ready:" >&2
        cat "$work/app.log" "$work/caller.log" >&2
        exit 1
    }
done
url_h1=http://127.0.0.1:$out_h1/ url_h2=http://127.0.0.1:$out_h2/
until_true 5000 answers "$url_h1" || cat "$work/caller.log"
holds "took < 5000"; check "$REPLY" "h1: curl through both agents" "$(cat "$work/answer")"
until_true 5000 answers --http2-prior-knowledge "$url_h2" || cat "$work/caller.log"
holds "took < 5000"; check "$REPLY" "h2: curl through both agents" "$(cat "$work/answer")"

# --- a caller without a certificate, and what the server shows

request=$'GET /wrong HTTP/1.1\r\nhost: h1\r\n\r\n'
ended=0
{ printf '%s' "$request"; sleep 2; } | timeout 10 openssl s_client -connect "127.0.0.1:$in_h1" \
    -tls1_3 -alpn http/1.1 -showcerts -CAfile "$work/ca/ca.pem" >"$work/s_client.out" 2>"$work/s_client.err" || ended=$?
alert=$(grep -o 'alert certificate required' "$work/s_client.err" | head -n 1 || true)
holds "ended != 0 && ended != 124 && $(grep -c '^HTTP/' "$work/s_client.out" || true) == 0"
[[ -n $alert ]] || REPLY=1
check "$REPLY" "no certificate: refused at first read" "exit $ended, ${alert:-no alert}"
names=$(openssl x509 -noout -ext subjectAltName <"$work/s_client.out" | tail -n +2 | tr -d ' ' | tr ',' '\n')
holds "$(grep -c . <<<"$names") == 1"
[[ $names == URI:spiffe://accept.local/ns/shop/sa/app ]] || REPLY=1
check "$REPLY" "server certificate: one URI SAN" "$(tr '\n' ' ' <<<"$names")"

# --- a server that may not serve the endpoint

before=$(metric "$in_admin" mesh_config_generation) # only to see that it answers
[[ -n $before ]]
code=$(curl -s --max-time 10 -o "$work/answer" -D "$work/headers" -w '%{http_code}' "http://127.0.0.1:$out_wrong/wrong")
reason=$(tr -d '\r' <"$work/headers" | awk 'tolower($1) == "x-mesh-reason:" { print $2 }')
holds "code == 503 && $(wc -l <"$work/wrong.log") == 0"
[[ $reason == wrong-server ]] || REPLY=1
check "$REPLY" "wrong server: refused" "$code $reason; nginx saw $(wc -l <"$work/wrong.log") requests"
"$mesh" ca issue spiffe://accept.local/ns/shop/sa/stranger --ca "$work/ca" --out "$work/stranger" >"$work/issue.log" 2>&1
start stranger openssl s_server -accept "127.0.0.1:$stranger" -tls1_3 -quiet -alpn http/1.1,h2,mesh-tcp/1 -Verify 1 \
    -cert "$work/stranger/cert.pem" -cert_chain "$work/stranger/cert.pem" -key "$work/stranger/key.pem" -CAfile "$work/stranger/bundle.pem"
listening() { (exec 3<>"/dev/tcp/127.0.0.1/$stranger") 2>/dev/null; }
until_true 5000 listening || true
code=$(curl -s --max-time 10 -o "$work/answer" -D "$work/headers" -w '%{http_code}' "http://127.0.0.1:$out_stranger/wrong")
reason=$(tr -d '\r' <"$work/headers" | awk 'tolower($1) == "x-mesh-reason:" { print $2 }')
holds "code == 503 && $(wc -c <"$work/stranger.out") == 0"
[[ $reason == wrong-server ]] || REPLY=1
check "$REPLY" "wrong server: not a byte sent" "$code $reason; it read $(wc -c <"$work/stranger.out") bytes"

# --- the load, while certificates rotate and the route is edited

edit_of() { # protocol: prints what a request sees of the last good edit
    local -a how=()
    [[ $1 == h1 ]] || how=(--http2-prior-knowledge)
    local url=url_$1
    curl -sf --max-time 2 -o /dev/null -D - "${how[@]}" "${!url}" | tr -d '\r' | awk 'tolower($1) == "x-edit:" { print $2 }'
}
sees() { [[ $(edit_of "$1") == "$2" ]]; }
refused() { (($(metric "$out_admin" mesh_config_refusals_total) == $1)); }

bad() { # protocol, number: an edit that must be refused
    case $(($2 % 3)) in
        0) route "$1" "bad-$2" ", wieght: 1" ;;
        1) route "$1" "bad-$2" ", weight: -1" ;;
        2) route "$1" "bad-$2" "" | sed 's/^  rules:/  rules: [/' ;;
    esac
}

phase() { # protocol
    local proto=$1 total=$((rate * seconds)) edits=$((seconds * 5 / 6)) how=() url=url_$1
    local generation refusals rotations begin good=0 bad=0 slowest=0 missed='' n pid ended=0
    [[ $proto == h2 ]] || how=(--h1)
    rotations=$(($(metric "$in_admin" mesh_certificate_rotations_total) + $(metric "$out_admin" mesh_certificate_rotations_total)))
    generation=$(metric "$out_admin" mesh_config_generation)
    refusals=$(metric "$out_admin" mesh_config_refusals_total)
    h2load "${how[@]}" -n "$total" -c "$clients" -t 1 --rps "$((rate / clients))" \
        --log-file "$work/$proto.requests" "${!url}" >"$work/$proto.h2load" 2>&1 </dev/null &
    pid=$!
    started+=("$pid")
    now; begin=$REPLY
    for ((n = 1; n <= edits; n++)); do
        now; local wait=$((begin + n * 1000 - REPLY))
        ((wait <= 0)) || sleep "$(printf '%d.%03d' $((wait / 1000)) $((wait % 1000)))"
        if ((n % 2)); then
            route "$proto" "$n" "" | publish "$work/caller" "route-$proto.yaml"
            if until_true 1000 sees "$proto" "$n"; then good=$((good + 1)); else missed+=" good:$n"; fi
            ((took <= slowest)) || slowest=$took
        else
            bad "$proto" $((n / 2)) | publish "$work/caller" "route-$proto.yaml"
            if until_true 1000 refused $((refusals + bad + 1)) && sees "$proto" $((n - 1)); then
                bad=$((bad + 1))
            else
                missed+=" bad:$n"
            fi
        fi
    done
    wait "$pid" || ended=$?
    generation=$(($(metric "$out_admin" mesh_config_generation) - generation))
    refusals=$(($(metric "$out_admin" mesh_config_refusals_total) - refusals))
    rotations=$(($(metric "$in_admin" mesh_certificate_rotations_total) + $(metric "$out_admin" mesh_certificate_rotations_total) - rotations))

    local requests codes took_s spread latency
    requests=$(grep '^requests:' "$work/$proto.h2load" || true)
    codes=$(grep '^status codes:' "$work/$proto.h2load" || true)
    took_s=$(awk -F'[ ,s]+' '/^finished in/ { print $0 }' "$work/$proto.h2load" | sed 's/,.*//')
    # Of whole seconds only: the first and the last are cut.
    spread=$(awk '{ s = int($1 / 1e6); n[s]++; if (!first || s < first) first = s; if (s > last) last = s }
        END { for (s = first + 1; s < last; s++) { if (!low || n[s] < low) low = n[s]; if (n[s] > high) high = n[s] }
              print low "-" high }' "$work/$proto.requests")
    latency=$(awk '{ print $3 }' "$work/$proto.requests" | sort -n | awk '{ v[NR] = $1 }
        END { printf "p50 %.1f ms, p99 %.1f ms, max %.0f ms", v[int((NR + 1) / 2)] / 1e3, v[int((NR * 99 + 99) / 100)] / 1e3, v[NR] / 1e3 }')
    REPLY=0
    [[ $ended == 0 && $requests == *" $total succeeded, 0 failed, 0 errored, 0 timeout"* && $codes == *" $total 2xx, 0 3xx, 0 4xx, 0 5xx"* ]] || REPLY=1
    check "$REPLY" "$proto: $rate requests/s, 0 errors" "${requests#requests: }; ${codes#status codes: }"
    local span
    span=$(awk '{ if (!a || $1 < a) a = $1; if ($1 > b) b = $1 } END { printf "%d", (b - a) / 1e3 }' "$work/$proto.requests")
    # A load that is not kept up does not count as that rate.
    holds "$span < seconds * 1050 && $span > seconds * 900"
    check "$REPLY" "$proto: pace kept" "$took_s; $spread in each second; $latency"
    holds "good == (edits + 1) / 2 && generation == good"
    check "$REPLY" "$proto: good edits live within 1 s" "$good of $(((edits + 1) / 2)) seen by curl, slowest $slowest ms; generation +$generation"
    holds "bad == edits / 2 && refusals == bad"
    check "$REPLY" "$proto: bad edits refused" "$bad of $((edits / 2)) left the last good serving; refusals +$refusals${missed:+; missed$missed}"
    # Both agents renew at about half the lifetime of 20 s.
    holds "rotations >= 2 * (seconds / 15)"
    check "$REPLY" "$proto: certificates rotated" "$rotations leaves of two agents in $seconds s"
    # What was good serves the next phase.
    route "$proto" end "" | publish "$work/caller" "route-$proto.yaml"
    until_true 1000 sees "$proto" end || true
}

echo "# $seconds s over each protocol, $rate requests/s over $clients connections, $("$mesh" --version), load average $(cut -d' ' -f1 /proc/loadavg)"
phase h1
phase h2
warnings=$(grep -h -E 'WARN|ERROR' "$work/app.log" "$work/caller.log" | grep -v -e 'DEVELOPMENT CA' -e 'refused: ' -e wrong -e 'NoCertificates' -e 'no-certificate' || true)
echo "# other warnings in the agents' logs: $(grep -c . <<<"$warnings" || true)"
head -n 5 <<<"$warnings"
((failures == 0)) || { echo "$failures checks failed"; exit 1; }
echo "all checks passed"
