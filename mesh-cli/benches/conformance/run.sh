#!/usr/bin/env bash
# The official conformance suite of the Gateway API (profiles MESH-HTTP and MESH-GRPC, every extended feature) on a
# cluster with nothing in it: installs a CA, a control plane and its webhook, runs the suite on injected Pods and
# writes its report.
#
#   KUBECONFIG=... run.sh --mesh target/release/mesh --image mesh:dev --crds FOLDER --suite conformance.test [--report FILE]
#
# Needs kubectl and openssl, an image of the binary on the nodes (at /usr/local/bin/mesh), the definitions of the Gateway
# API, and the suite as a test binary (`go test -c` of a test that calls conformance.RunConformance). The API server
# must reach Services: the webhook is one.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mesh='' image='' crds='' suite='' report=$here/report.yaml
while (($#)); do
    case $1 in
        --mesh) mesh=$2 ;;
        --image) image=$2 ;;
        --crds) crds=$2 ;;
        --suite) suite=$2 ;;
        --report) report=$2 ;;
        *) echo "run.sh: $1 is no flag of it" >&2; exit 2 ;;
    esac
    shift 2
done
[[ -n $mesh && -n $image && -n $crds && -n $suite ]] || { sed -n '2,12p' "$0" >&2; exit 2; }

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"; [[ -z ${roots:-} ]] || kill "$roots" 2>/dev/null || true' EXIT

kubectl apply --server-side -f "$crds" >/dev/null
"$mesh" crds | kubectl apply --server-side -f - >/dev/null
"$mesh" ca init --dir "$scratch/root" --trust-domain cluster.local >/dev/null
cat "$scratch/root/ca.pem" "$scratch/root/ca.key" >"$scratch/root.pem"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=mesh-control -days 30 \
    -addext 'subjectAltName=DNS:mesh-control.mesh-system.svc' \
    -keyout "$scratch/tls.key" -out "$scratch/tls.crt" 2>/dev/null

kubectl create namespace mesh-system
kubectl -n mesh-system create secret generic mesh-ca-root --from-file=root.pem="$scratch/root.pem"
kubectl -n mesh-system create secret tls mesh-webhook --cert="$scratch/tls.crt" --key="$scratch/tls.key"
root() { kubectl -n "$1" create configmap mesh-root --from-file=ca.crt="$scratch/root/ca.pem"; }
root mesh-system
sed "s|MESH_IMAGE|$image|" "$here/mesh.yaml" | kubectl apply -f - >/dev/null
kubectl -n mesh-system rollout status deployment/mesh-ca deployment/mesh-control --timeout=120s
kubectl apply -f - <<YAML
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: {name: inmesh}
webhooks:
- name: inject.inmesh.dev
  admissionReviewVersions: [v1]
  sideEffects: None
  failurePolicy: Fail
  reinvocationPolicy: IfNeeded
  clientConfig:
    service: {namespace: mesh-system, name: mesh-control, path: /inject, port: 15017}
    caBundle: $(base64 -w 0 <"$scratch/tls.crt")
  namespaceSelector: {matchLabels: {inmesh.dev/inject: enabled}}
  objectSelector: {matchExpressions: [{key: inmesh.dev/inject, operator: NotIn, values: [disabled]}]}
  rules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods]}]
YAML

# The suite makes its Namespaces itself; their Pods wait for the roots.
(
    for _ in $(seq 1 600); do
        for namespace in gateway-conformance-mesh gateway-conformance-mesh-consumer; do
            root "$namespace" >/dev/null 2>&1 || true
        done
        sleep 0.5
    done
) &
roots=$!

features=Mesh,MeshClusterIPMatching,MeshConsumerRoute,MeshHTTPRouteRewritePath,MeshHTTPRouteSchemeRedirect
features+=,MeshHTTPRouteRedirectPort,MeshHTTPRouteRedirectPath,MeshHTTPRouteBackendRequestHeaderModification
features+=,MeshHTTPRouteQueryParamMatching,MeshHTTPRouteNamedRouteRule,HTTPRoute,HTTPRoute303RedirectStatusCode
features+=,HTTPRoute307RedirectStatusCode,HTTPRoute308RedirectStatusCode,HTTPRouteParentRefPort
features+=,HTTPRouteResponseHeaderModification,GRPCRoute
"$suite" -test.v -organization inmesh -project inmesh -version "$("$mesh" --version | cut -d' ' -f2)" \
    -url https://inmesh.example -contact https://inmesh.example \
    -conformance-profiles MESH-HTTP,MESH-GRPC -supported-features "$features" -mesh-name mesh -gateway-class none \
    -allow-crds-mismatch -namespace-labels inmesh.dev/inject=enabled -report-output "$report"
