#!/usr/bin/env python3
"""Writes `hot.ld`, by which the linker lays the functions that a request runs beside each other in `mesh`.

Usage: hot.py MESH MAP > hot.ld

MESH is a build with its symbols, MAP is what its linker wrote of it:

    cargo rustc --profile bench -p inmesh-cli --bin mesh -- -C link-arg=-Wl,-Map=mesh.map

Pairs of agents run under callgrind while h2load sends POSTs of 1 KiB: over HTTP/1.1, over HTTP/2 and as opaque bytes. A
function is listed where one agent calls it at least once for every fourth request. What all of them
run comes first; within that the order is that of instructions a request and byte, so that few pages hold what is run most.

A linker script cannot name one instance of a generic function: its name ends in a hash that each compiler makes anew. So a
line stands for all instances in one crate, and is left out where those that are run are less than a fifth of them.
"""

import argparse
import collections
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time

REQUESTS, WARM_UP = 16000, 400
SHARE = 0.2  # of the bytes that a line stands for, those that are run

SERVICE = """apiVersion: v1
kind: Service
metadata: {{name: app, namespace: hot}}
spec: {{ports: [{{name: main, port: 80, appProtocol: {protocol}}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: app
  namespace: hot
  labels: {{kubernetes.io/service-name: app}}
  annotations: {{inmesh.dev/ids: spiffe://hot.test/ns/hot/sa/server}}
addressType: IPv4
ports: [{{name: main, port: {port}}}]
endpoints: [{{addresses: ["127.0.0.1"]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: app, namespace: hot}}
spec:
  selector: {{matchLabels: {{app: server}}}}
  rules: [{{from: [{{source: {{principals: [hot.test/ns/hot/sa/client]}}}}]}}]
"""

AGENT = """apiVersion: inmesh.dev/v1alpha1
kind: Agent
workload: {{namespace: hot, name: {role}, serviceAccount: {role}, labels: {{app: {role}}}}}
defaultAction: deny
peers: strict
identity: {{developmentCA: {{dir: {work}/ca}}}}
loopbackEndpoints: allow
accessLog: {{path: /dev/null}}
listeners:
- {listener}
"""

NGINX = """daemon off;
worker_processes 1;
pid {work}/nginx.pid;
error_log {work}/nginx.log warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path {work}/body;
    proxy_temp_path {work}/proxy;
    fastcgi_temp_path {work}/fastcgi;
    uwsgi_temp_path {work}/uwsgi;
    scgi_temp_path {work}/scgi;
    server {{ listen 127.0.0.1:{h1}; location / {{ return 200 "{answer}"; }} }}
    server {{ listen 127.0.0.1:{h2} http2; location / {{ return 200 "{answer}"; }} }}
}}
"""


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as held:
        return held.getsockname()[1]


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)


def load(port, requests, work, protocol, meanwhile=lambda: None):
    """Sends POSTs; what h2load says of them, and whether each was answered with 200."""
    kind = ["-c4", "-m4"] if protocol == "kubernetes.io/h2c" else ["--h1", "-c16"]
    with subprocess.Popen(["h2load", *kind, "-t1", "-n", str(requests), "-d", f"{work}/sent", f"http://127.0.0.1:{port}/items/42"],
                          stdout=subprocess.PIPE, text=True) as sending:
        meanwhile()
        said, _ = sending.communicate()
    return said, f"status codes: {requests} 2xx" in said


def warm_up(port, work, protocol):
    """Sends POSTs until the application answers them all."""
    for _ in range(300):
        said, good = load(port, WARM_UP, work, protocol)
        if good:
            return
        time.sleep(0.2)
    sys.exit(f"hot: {protocol} does not reach the application:\n{said}")


def profile(mesh, work, protocol, app):
    """Runs a pair under callgrind; the files that it wrote, one of each agent."""
    name = protocol.replace("/", "-")
    ports = {"client": free_port(), "server": free_port()}
    listeners = {
        "client": f'{{bind: "127.0.0.1:{ports["client"]}", outbound: {{appProtocol: {protocol}, service: {{name: app, port: 80}}}}}}',
        "server": f'{{bind: "127.0.0.1:{ports["server"]}", inbound: {{app: "127.0.0.1:{app}", appProtocol: {protocol}}}}}',
    }
    agents, files = [], []
    for role, listener in listeners.items():
        home = f"{work}/{name}-{role}"
        write(f"{home}/mesh.yaml", SERVICE.format(protocol=protocol, port=ports["server"]))
        write(f"{home}/agent.yaml", AGENT.format(role=role, work=work, listener=listener))
        files.append(f"{home}/callgrind.out")
        agents.append(subprocess.Popen(
            ["valgrind", "-q", "--tool=callgrind", "--demangle=no", "--instr-atstart=no", f"--callgrind-out-file={files[-1]}",
             mesh, "proxy", "--log", "error", "--config", home], stdin=subprocess.DEVNULL))
    try:
        warm_up(ports["client"], work, protocol)

        def count():
            # Handshakes are over by then.
            time.sleep(1)
            for agent in agents:
                subprocess.run(["callgrind_control", "-i", "on", str(agent.pid)], check=True, capture_output=True)

        said, good = load(ports["client"], REQUESTS, work, protocol, count)
        if not good:
            sys.exit(f"hot: not all requests over {protocol} were answered:\n{said}")
    finally:
        for agent in agents:
            agent.send_signal(signal.SIGTERM)
        for agent in agents:
            agent.wait(60)
    return files


def read(path):
    """Instructions of each function itself, and how often it was called."""
    names, instructions, calls = {}, collections.Counter(), collections.Counter()

    def name(text):
        number, _, rest = text.partition(" ")
        # A function that calls itself is listed once for each depth.
        return names.setdefault(number, re.sub(r"'\d+$", "", rest))

    inclusive = False
    with open(path) as file:
        for line in file:
            line = line.rstrip("\n")
            if line.startswith("fn="):
                of = name(line[3:])
            elif line.startswith("cfn="):
                called = name(line[4:])
            elif line.startswith("calls="):
                calls[called] += int(line[6:].split()[0])
                inclusive = True
            elif line[:1] and line[0] in "+-*0123456789":
                if not inclusive:
                    instructions[of] += int(line.split()[1])
                inclusive = False
    return instructions, calls


def pattern(file, section):
    """What stands for an input section whatever compiler, crate version and build made it."""
    crate = re.search(r"\.(\w+)\.[0-9a-f]{16}-cgu", file)
    member = re.search(r"\([0-9a-f]+-(.*\.o)\)$", file)
    if crate:
        file = f"*.{crate[1]}.*"
    else:
        file = f"*-{member[1]}" if member and section == ".text" else "*"
    section = re.sub(r"\.llvm\.\d+$", "", section)
    section = re.sub(r"17h[0-9a-f]{16}E$", "17h*", section)
    section = re.sub(r"aws_lc_\d+_\d+_\d+_", "aws_lc_*_", section)
    return file, re.sub(r"Cs[0-9A-Za-z]+_", "Cs*_", section)


def sections(path):
    """Bytes of each pattern, the bytes of each section, and the section of each symbol, as a map of lld says."""
    of_pattern, size, home, here = collections.Counter(), {}, {}, None
    with open(path) as file:
        for line in file:
            fields = line.split(None, 4)
            if len(fields) < 5 or not re.fullmatch(r"[0-9a-f]+", fields[0]):
                continue
            name = fields[4].rstrip("\n")
            if re.search(r":\(\.[^()]*\)$", name):
                here = None
                if ":(.text" in name:
                    file_name, section = name[:-1].rsplit(":(", 1)
                    here = (file_name, section)
                    size[here] = int(fields[2], 16)
                    of_pattern[pattern(*here)] += size[here]
                    # The map has names for people, but a function's own section has its name.
                    home.setdefault(section.removeprefix(".text."), here)
            elif here:
                home.setdefault(name, here)
    return of_pattern, size, home


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mesh")
    parser.add_argument("map")
    arguments = parser.parse_args()
    of_pattern, size, home = sections(arguments.map)
    with tempfile.TemporaryDirectory() as work:
        subprocess.run([arguments.mesh, "ca", "init", f"{work}/ca", "--trust-domain", "hot.test"], check=True, capture_output=True)
        write(f"{work}/sent", "x" * 1024)
        h1, h2 = free_port(), free_port()
        write(f"{work}/nginx.conf", NGINX.format(work=work, h1=h1, h2=h2, answer="x" * 1024))
        app = subprocess.Popen(["nginx", "-p", work, "-c", f"{work}/nginx.conf", "-e", "stderr"], stdin=subprocess.DEVNULL)
        try:
            warm_up(h1, work, "http")
            run = {protocol: [read(file) for file in profile(arguments.mesh, work, protocol, port)]
                   for protocol, port in [("http", h1), ("kubernetes.io/h2c", h2), ("tcp", h1)]}
        finally:
            app.terminate()
            app.wait()
    # Of each section the most that one agent runs of it, and for which protocols it is run.
    hot, protocols = collections.Counter(), collections.defaultdict(set)
    for protocol, agents in run.items():
        for instructions, calls in agents:
            mine = collections.Counter()
            for name, count in instructions.items():
                if name in home and calls[name] >= REQUESTS / 4:
                    mine[home[name]] += count / REQUESTS
                    protocols[pattern(*home[name])].add(protocol)
            hot |= mine
    lines = collections.defaultdict(lambda: [0, 0])
    for section, count in hot.items():
        line = lines[pattern(*section)]
        line[0] += count
        line[1] += size[section]
    kept = [line for line, (_, run) in lines.items() if run >= SHARE * of_pattern[line]]
    kept.sort(key=lambda line: (-len(protocols[line]), sorted(protocols[line]), -lines[line][0] / of_pattern[line]))
    print("/* Written by benches/hot.py: the functions that a request runs, so that they lie beside each other. */")
    print("SECTIONS\n{\n  .text.hot :\n  {")
    for file, section in kept:
        print(f"    {file}({section})")
    print("  }\n}\nINSERT BEFORE .text;")
    print(f"{len(hot)} functions of {sum(size[of] for of in hot)} bytes are run, {len(kept)} lines stand for "
          f"{sum(of_pattern[of] for of in kept)} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
