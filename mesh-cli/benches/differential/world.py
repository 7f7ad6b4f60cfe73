"""The processes: a server of each kind, and a pair of agents with a way to each of them, declared and detected."""

import os
import socket
import subprocess
import time
import urllib.request


def free_ports(count):
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


class World:
    def __init__(self, here, work, tools, mesh):
        self.here, self.work, self.tools, self.mesh = here, work, tools, mesh
        self.processes, self.ports = [], {}

    def start(self, name, command, **more):
        log = open(f"{self.work}/{name}.log", "w")
        self.processes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **more))

    def stop(self):
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()

    def server(self, name):
        """Starts one, or raises what it lacks."""
        (port,) = free_ports(1)
        work, tools, seen = self.work, self.tools, f"{self.work}/seen-{name}"
        env = {**os.environ, "CASES": f"{work}/cases.json", "SEEN": seen, "PYTHONPATH": f"{self.here}:{self.here}/servers",
               "PYTHONDONTWRITEBYTECODE": "1"}
        say = [str(port), f"{work}/cases.json", seen]
        commands = {
            "node": ["node", f"{self.here}/servers/node.mjs", *say],
            "uvicorn": [f"{tools}/py/bin/uvicorn", "python_app:asgi", "--port", str(port), "--log-level", "warning",
                        "--timeout-keep-alive", "60", "--http", "h11"],
            "gunicorn": [f"{tools}/py/bin/gunicorn", "python_app:wsgi", "-b", f"127.0.0.1:{port}", "-k", "gthread", "--threads", "8",
                         "--keep-alive", "60", "--log-level", "warning", "--chdir", work, "--limit-request-field_size", "8190"],
            "go": [f"{tools}/go-server", *say],
            "go2": [f"{tools}/go-server", *say],
            "java": ["java", "-cp", f"{tools}/java", "Server", str(port), f"{work}/cases.txt", seen],
            "nginx": ["nginx", "-p", work, "-c", f"{work}/nginx.conf", "-e", "stderr"],
            "grpc": [f"{tools}/py/bin/python", f"{self.here}/servers/grpc_server.py", *say],
        }
        if name == "nginx":
            self.files(port, seen)
        self.start(name, commands[name], env=env)
        self.ports[name, "direct"] = port

    def files(self, port, seen):
        root = f"{self.work}/www"
        os.makedirs(f"{root}/folder", exist_ok=True)
        # The agents run as the user that runs this; so does nginx, whose worker would be another.
        with open(f"{self.here}/servers/nginx.conf") as file:
            text = file.read().replace("@DIR@", self.work).replace("@PORT@", str(port)).replace("@SEEN@", seen)
        with open(f"{self.work}/nginx.conf", "w") as file:
            file.write(f"user {os.environ.get('USER') or 'root'};\n" * (os.getuid() == 0) + text)
        page = "<p>" + "a word of text " * 400
        for name, text in {"file.txt": "a file\n", "empty": "", "large.bin": "0123456789" * 20000, "page.html": page,
                           "\u20ac.txt": "euro\n", "a b.txt": "space\n", "folder/index.html": "index\n"}.items():
            with open(f"{root}/{name}", "w") as file:
                file.write(text)
            os.utime(f"{root}/{name}", (1445412480, 1445412480))

    def agents(self, servers):
        ways = {"declared": {"grpc": "grpc", "go2": "kubernetes.io/h2c"}, "detected": {}}
        subprocess.run([self.mesh, "ca", "init", f"{self.work}/ca", "--trust-domain", "td.test"], check=True, capture_output=True)
        admin = free_ports(2)
        text = {}
        for at, side in enumerate(["client", "server"]):
            os.makedirs(f"{self.work}/{side}")
            with open(f"{self.here}/mesh/{side}/agent.yaml") as file:
                text[side] = file.read().replace("@DIR@", self.work).replace("@ADMIN@", str(admin[at]))
        services = []
        for way in ways:
            for name in servers:
                outer, inner = free_ports(2)
                protocol = f", appProtocol: {ways[way].get(name, 'http')}" if way == "declared" else ""
                text["client"] += f'- bind: "127.0.0.1:{outer}"\n  outbound: {{service: {{name: {name}-{way}, port: 80}}{protocol}}}\n'
                text["server"] += f'- bind: "127.0.0.1:{inner}"\n  inbound: {{app: "127.0.0.1:{self.ports[name, "direct"]}"{protocol}}}\n'
                services.append(service(f"{name}-{way}", protocol, inner))
                self.ports[name, way] = outer
        with open(f"{self.here}/mesh/server/policy.yaml") as file:
            write(f"{self.work}/server/policy.yaml", file.read())
        write(f"{self.work}/client/services.yaml", "---\n".join(services))
        for side in ["server", "client"]:
            write(f"{self.work}/{side}/agent.yaml", text[side])
            self.start(f"agent-{side}", [self.mesh, "proxy", "--config", f"{self.work}/{side}"])
        for port in admin:
            ready(f"http://127.0.0.1:{port}/readyz")

    def await_servers(self):
        for (name, way), port in self.ports.items():
            if way == "direct":
                if name == "grpc":
                    connected(port)
                else:
                    ready(f"http://127.0.0.1:{port}/")


def service(name, protocol, port):
    return f"""apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: default}}
spec:
  ports: [{{name: main, port: 80{protocol}}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {name}-1
  namespace: default
  labels: {{kubernetes.io/service-name: {name}}}
  annotations: {{inmesh.dev/ids: "spiffe://td.test/ns/default/sa/server"}}
addressType: IPv4
ports: [{{name: main, port: {port}}}]
endpoints: [{{addresses: ["127.0.0.1"]}}]
"""


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def ready(url):
    for _ in range(200):
        try:
            urllib.request.urlopen(url, timeout=2)
            return
        except urllib.error.HTTPError as error:
            if error.code != 503:
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise SystemExit(f"nothing answers at {url}")


def connected(port):
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"nothing listens at {port}")
