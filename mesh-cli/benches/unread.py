#!/usr/bin/env python3
"""How much memory an agent holds for answers that no caller reads: 500 streams of HTTP/2 on one connection, or over ten.

Usage: unread.py MESH [--limit MIB]

Each stream asks for an answer of 16 MiB. The caller holds every stream's window at 0 (`window`), or opens all windows and
reads nothing from its sockets (`socket`). It speaks to the agent in front of the application alone (`inbound`), which
takes plaintext for this, and to a pair (`outbound`). Printed is the highest resident memory above that of the same
agent after one exchange, in MiB, and in brackets what is left of it in the end; the script fails where one is above the limit, 64 by default.
"""

import argparse
import http.client
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

STREAMS, ANSWER, SECONDS = 500, 16 * 1024 * 1024, 12
HEADERS, SETTINGS, WINDOW = 1, 4, 8


def application(listener):
    """Answers any request over HTTP/1.1 with 16 MiB, or with a byte where the path is /small."""

    def serve(conn):
        try:
            with conn:
                received = b""
                while part := conn.recv(65536):
                    received += part
                    while b"\r\n\r\n" in received:
                        head, received = received.split(b"\r\n\r\n", 1)
                        size = 1 if head.startswith(b"GET /small") else ANSWER
                        conn.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
                        for _ in range(0, size, 65536):
                            conn.sendall(bytes(min(size, 65536)))
        except OSError:
            pass

    while True:
        conn, _ = listener.accept()
        threading.Thread(target=serve, args=[conn], daemon=True).start()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as held:
        return held.getsockname()[1]


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)


def agents(mesh, work, app):
    """Starts a pair; the processes, and the port to speak to of each."""
    subprocess.run([mesh, "ca", "init", f"{work}/ca", "--trust-domain", "td.test"], check=True, capture_output=True)
    ports = {name: free_port() for name in ["inbound", "secure", "outbound", "inbound-admin", "outbound-admin"]}

    def head(name):
        return f"""apiVersion: inmesh.dev/v1alpha1
kind: Agent
workload: {{namespace: default, name: {name}, serviceAccount: {name}}}
defaultAction: allow
peers: strict
identity: {{developmentCA: {{dir: {work}/ca}}}}
loopbackEndpoints: allow
limits: {{streams: {STREAMS}}}
admin: {{bind: "127.0.0.1:{ports[name + '-admin']}"}}
listeners:
"""

    write(f"{work}/inbound/agent.yaml", head("inbound") + f"""
- bind: 127.0.0.1:{ports['inbound']}
  inbound: {{app: "127.0.0.1:{app}", appProtocol: http, peers: permissive}}
- bind: 127.0.0.1:{ports['secure']}
  inbound: {{app: "127.0.0.1:{app}", appProtocol: http}}
""")
    write(f"{work}/outbound/agent.yaml", head("outbound") + f"""
- bind: 127.0.0.1:{ports['outbound']}
  outbound: {{appProtocol: http, service: {{name: app, port: 80}}}}
""")
    write(f"{work}/outbound/app.yaml", f"""apiVersion: v1
kind: Service
metadata: {{name: app, namespace: default}}
spec: {{ports: [{{name: http, port: 80, appProtocol: http}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: app-1
  namespace: default
  labels: {{kubernetes.io/service-name: app}}
  annotations: {{inmesh.dev/ids: "spiffe://td.test/ns/default/sa/inbound"}}
addressType: IPv4
ports: [{{name: http, port: {ports['secure']}}}]
endpoints: [{{addresses: ["127.0.0.1"]}}]
""")
    log = open(f"{work}/log", "w")
    processes = {side: subprocess.Popen([mesh, "proxy", "--config", f"{work}/{side}"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
                 for side in ["inbound", "outbound"]}
    return processes, ports


def exchange(port):
    """A small exchange, tried until the agent serves."""
    for _ in range(100):
        try:
            conn = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            conn.request("GET", "/small", headers={"host": "app"})
            if conn.getresponse().read() == b"\0":
                return
        except OSError:
            pass
        time.sleep(0.1)
    sys.exit(f"no exchange is served at port {port}")


def frame(kind, flags, stream, payload):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def literal(name, value):
    return bytes([0, len(name)]) + name + bytes([len(value)]) + value


def caller(port, streams, reads):
    """A connection with its requests; where it reads, its streams' windows stay at 0."""
    conn = socket.create_connection(("127.0.0.1", port))
    window = 0 if reads else 2**31 - 1
    conn.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, struct.pack(">HI", 4, window)))
    if not reads:
        conn.sendall(frame(WINDOW, 0, 0, struct.pack(">I", 2**31 - 1 - 65535)))
    block = b"".join([literal(b":method", b"GET"), literal(b":scheme", b"http"), literal(b":authority", b"app"), literal(b":path", b"/")])
    for at in range(streams):
        conn.sendall(frame(HEADERS, 5, 2 * at + 1, block))
    if reads:
        threading.Thread(target=read, args=[conn], daemon=True).start()
    return conn


def read(conn):
    # Without an acknowledgement a server may let the windows be the default.
    conn.sendall(frame(SETTINGS, 1, 0, b""))
    try:
        while conn.recv(65536):
            pass
    except OSError:
        pass


def resident(process):
    with open(f"/proc/{process.pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) / 1024


def measure(mesh, entry, how, connections):
    """The highest growth of each agent."""
    with tempfile.TemporaryDirectory() as work:
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        threading.Thread(target=application, args=[listener], daemon=True).start()
        processes, ports = agents(mesh, work, listener.getsockname()[1])
        held = []
        try:
            exchange(ports["inbound"])
            exchange(ports["outbound"])
            before = {side: resident(process) for side, process in processes.items()}
            held = [caller(ports[entry], STREAMS // connections, how == "window") for _ in range(connections)]
            most, last = dict(before), {}
            end = time.monotonic() + SECONDS
            while time.monotonic() < end:
                for side, process in processes.items():
                    most[side] = max(most[side], resident(process))
                    last[side] = resident(process)
                time.sleep(0.05)
            return {side: most[side] - before[side] for side in processes}, {side: last[side] - before[side] for side in processes}
        finally:
            for conn in held:
                conn.close()
            for process in processes.values():
                process.kill()
                process.wait()


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("mesh")
    options.add_argument("--limit", type=float, default=64)
    given = options.parse_args()
    failed = False
    for entry in ["inbound", "outbound"]:
        for how in ["window", "socket"]:
            for connections in [1, 10]:
                grown, stayed = measure(os.path.abspath(given.mesh), entry, how, connections)
                above = max(grown.values()) > given.limit
                failed |= above
                shown = ", ".join(f"{side} {grown[side]:.1f} ({stayed[side]:.1f})" for side in ["inbound", "outbound"])
                print(f"{entry:9}{how:7} {STREAMS} streams over {connections:2}: {shown}{' TOO MUCH' * above}", flush=True)
    sys.exit(1 if failed else 0)


main()
