#!/usr/bin/env python3
"""Reads the example documents of the Gateway API's own repository.

    gateway-api.py MESH CHECKOUT

Each file with an HTTPRoute, GRPCRoute, TLSRoute or TCPRoute is validated as it is, where routes of
Gateways are skipped with a note, and once more with a Service as the parent of each route, so that its
rules are read, with the Services that it names. Exit 1 if a verdict is not the listed one.
"""

import copy
import json
import pathlib
import subprocess
import sys
import tempfile

import yaml

ROUTES = {"HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute"}
# The beginning of a path, and what is said of its routes where they are of Services: they are taken, and
# the share of such a backend is answered with an error.
INVALID_KIND = {
    "examples/standard/default-match-http.yaml": "CustomBackend.acme.io/",
    "examples/standard/multicluster/": "ServiceImport.multicluster.x-k8s.io/",
}


def services(docs):
    """A Service for each backend that a route names, with its ports."""
    named = {}

    def visit(node, namespace):
        if isinstance(node, list):
            for item in node:
                visit(item, namespace)
        if isinstance(node, dict):
            for key, value in node.items():
                refs = value if key == "backendRefs" else [value] if key == "backendRef" else []
                for ref in refs:
                    if ref.get("kind", "Service") == "Service":
                        at = (ref.get("namespace", namespace), ref["name"])
                        named.setdefault(at, set()).add(ref.get("port", 80))
                visit(value, namespace)

    for doc in docs:
        if doc["kind"] in ROUTES:
            visit(doc["spec"], doc["metadata"].get("namespace", "default"))
    for (namespace, name), ports in sorted(named.items()):
        yield service(namespace, name, ports)


def service(namespace, name, ports):
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"ports": [{"name": f"p{p}", "port": p} for p in sorted(ports)]},
    }


def for_services(docs):
    """The same routes, each of a Service of its own, and with what they name."""
    made, parents = [], []
    for number, doc in enumerate(docs):
        if doc["kind"] not in ROUTES:
            continue
        doc = copy.deepcopy(doc)
        namespace = doc["metadata"].get("namespace", "default")
        name = f"parent-{number}"
        doc["spec"]["parentRefs"] = [{"group": "", "kind": "Service", "name": name, "port": 80}]
        parents.append(service(namespace, name, {80}))
        made.append(doc)
    return made + parents + list(services(docs))


def validate(mesh, docs):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "documents.yaml")
        path.write_text(yaml.safe_dump_all(docs))
        ran = subprocess.run(
            [mesh, "validate", "--embedded", "--json", "--dir", folder],
            capture_output=True, text=True, timeout=60, check=False)
        return ran.returncode, ran.stdout + ran.stderr


def main():
    mesh, checkout = sys.argv[1], pathlib.Path(sys.argv[2])
    read, invalid, bad = 0, 0, 0
    for path in sorted(checkout.glob("examples/**/*.yaml")):
        docs = [d for d in yaml.safe_load_all(path.read_text()) if d]
        if not any(d["kind"] in ROUTES for d in docs):
            continue
        name = str(path.relative_to(checkout))
        listed = next((what for start, what in INVALID_KIND.items() if name.startswith(start)), None)
        for how, given, what in [("as it is", docs, None), ("of Services", for_services(docs), listed)]:
            read += 1
            invalid += what is not None
            code, said = validate(mesh, given)
            is_said = "(ResolvedRefs False, InvalidKind)" in said and what in said if what else (
                "InvalidKind" not in said)
            if code != 0 or '"valid": true' not in said or not is_said:
                bad += 1
                print(f"--- {name} ({how}): exit {code}\n{said}")
    print(json.dumps({"read": read, "of another kind as listed": invalid, "otherwise": bad}))
    return bad != 0 or read == 0


if __name__ == "__main__":
    sys.exit(main())
