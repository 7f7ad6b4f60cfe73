# Two Pods with captured connections, each a network namespace of its own, whose sidecars are of user 1337.
# Runs in the network namespace of the first, `web`; $1 is the binary, and the folder is empty.
set -euo pipefail
mesh=$1
sidecar() { setpriv --reuid=1337 --regid=1337 --clear-groups "$@"; }
chmod 755 . && chown 1337:1337 .
# The sidecars' user may not reach where it was built.
if ! sidecar test -x "$mesh"; then
    cp "$mesh" ./mesh && mesh=$PWD/mesh
fi
step() { echo "=== $*"; }
fails() { ! "$@"; }

step 'two Pods with a link between them'
unshare -n sleep 600 & cart=$!
in_cart() { nsenter -t "$cart" -n "$@"; }
here=$(readlink /proc/self/ns/net)
until there=$(readlink "/proc/$cart/ns/net") && [[ $there != "$here" ]]; do :; done
ip link add eth0 type veth peer name eth0 netns "$cart"
pod() { # number, how
    local n=$1
    shift
    "$@" ip link set lo up
    "$@" ip link set eth0 up
    "$@" ip addr add "10.1.0.$n/24" dev eth0
    "$@" ip -6 addr add "fd01::$n/64" dev eth0 nodad
    # Addresses of Services are reached by the way to everything else; none is there.
    "$@" ip route add default via "10.1.0.$((3 - n))"
    "$@" ip -6 route add default via "fd01::$((3 - n))"
}
pod 1 env
pod 2 in_cart

step 'documents'
sidecar "$mesh" ca init --dir ca --trust-domain test.local
for name in web cart; do
    sidecar mkdir "$name"
    cat >"$name/agent.yaml" <<YAML
apiVersion: inmesh.dev/v1alpha1
kind: Agent
workload: {namespace: shop, name: $name, serviceAccount: $name, labels: {app: $name}}
defaultAction: allow
peers: strict
identity: {developmentCA: {dir: ../ca}}
listeners:
- {bind: "127.0.0.1:15001", outbound: {captured: true}}
- {bind: "[::1]:15001", outbound: {captured: true}}
- {bind: "[::]:15006", inbound: {app: 127.0.0.1}}
admin: {bind: "127.0.0.1:15000"}
YAML
    cat >"$name/cart.yaml" <<YAML
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec:
  clusterIPs: [10.96.0.10, "fd96::10"]
  ports: [{name: http, port: 80, targetPort: 8000, appProtocol: http}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: cart-1
  namespace: shop
  labels: {kubernetes.io/service-name: cart}
  annotations: {inmesh.dev/ids: "spiffe://test.local/ns/shop/sa/cart"}
addressType: IPv6
ports: [{name: http, port: 8000}]
endpoints: [{addresses: ["fd01::2"]}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: cart-2
  namespace: shop
  labels: {kubernetes.io/service-name: cart}
  annotations: {inmesh.dev/ids: "spiffe://test.local/ns/shop/sa/cart"}
addressType: IPv4
ports: [{name: http, port: 8000}]
endpoints: [{addresses: [10.1.0.2]}]
YAML
    sidecar "$mesh" validate --dir "$name"
done

step 'a user without the capability is refused, and is shown why'
fails sidecar "$mesh" capture 2>refused
grep CAP_NET_ADMIN refused
fails "$mesh" capture --user 0

step 'captured, and served'
"$mesh" capture
"$mesh" capture
in_cart "$mesh" capture --exclude-inbound-ports 9000
mkdir www && echo 'hello from cart' >www/index.html
in_cart python3 -m http.server 8000 --bind 127.0.0.1 --directory www &
# http.server itself would ask a name server, which is not there, for the name of this address.
(cd www && in_cart python3 -c "
import http.server, socketserver
address, handler = ('10.1.0.2', 9000), http.server.SimpleHTTPRequestHandler
socketserver.TCPServer(address, handler).serve_forever()") &
sidecar "$mesh" proxy --dir web &
in_cart setpriv --reuid=1337 --regid=1337 --clear-groups "$mesh" proxy --dir cart &
"$mesh" status --wait 60s >/dev/null
in_cart "$mesh" status --wait 60s >/dev/null

ask() { # how..., address
    "${@:1:$#-1}" curl -sS --max-time 20 --retry 20 --retry-delay 1 --retry-connrefused "${@:$#}"
}
step 'by the address of the Service'
for address in 10.96.0.10 '[fd96::10]'; do
    # Both endpoints, by IPv4 and IPv6.
    for _ in 1 2 3 4; do ask env "http://$address/" | grep 'hello from cart'; done
done
step 'an application asks its own Service, and its own Pod'
for _ in 1 2 3 4; do ask in_cart http://10.96.0.10/ | grep 'hello from cart'; done
ask in_cart http://127.0.0.1:8000/ | grep 'hello from cart'
step 'a port that is excluded'
ask sidecar http://10.1.0.2:9000/ | grep 'hello from cart'

step 'none comes in past the sidecar, nor to what it has on loopback'
fails sidecar curl -sS --max-time 20 http://10.1.0.2:8000/
fails sidecar curl -sS --max-time 20 'http://[fd01::2]:8000/'
for port in 15000 15001 15006; do
    fails sidecar curl -sS --max-time 20 "http://10.1.0.2:$port/livez"
done
in_cart "$mesh" status >/dev/null
in_cart curl -sS http://127.0.0.1:15000/metrics >metrics
grep 'mesh_connections_failed.*no-route' metrics
grep 'istio_requests_total.*reporter="destination"' metrics | head -1

step 'and removed'
in_cart "$mesh" capture --remove
in_cart "$mesh" capture --remove
fails sidecar curl -sS --max-time 20 http://10.1.0.2:8000/ 2>removed
grep "Couldn.t connect" removed # the application is on loopback alone
step all
