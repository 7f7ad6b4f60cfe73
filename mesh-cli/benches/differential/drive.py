"""Runs every exchange directly (twice) and through the agents (declared, detected), and explains each difference.

Usage: drive.py WORK TOOLS MESH SKIPPED-CLIENTS SKIPPED-SERVERS [CASE-GLOB]
"""

import collections
import fnmatch
import json
import os
import subprocess
import sys

import cases
import compare
from world import World, write

WAYS = ["direct", "again", "declared", "detected"]
HERE = os.path.dirname(os.path.abspath(__file__))
PAGE = os.path.join(HERE, "../../docs/differences.md")


def client_command(name, work, tools, jobs):
    python, table = [f"{tools}/py/bin/python"], [f"{work}/cases.json", jobs]
    return {
        "curl": [*python, f"{HERE}/clients/curl_client.py", *table],
        "go": [f"{tools}/go-client", *table, "go"],
        "go2": [f"{tools}/go-client", *table, "go2"],
        "node": ["node", f"{HERE}/clients/node.mjs", *table],
        "requests": [*python, f"{HERE}/clients/pythons.py", *table],
        "httpx": [*python, f"{HERE}/clients/pythons.py", *table],
        "java": ["java", "-Djdk.httpclient.allowRestrictedHeaders=connection,host,upgrade", "-cp", f"{tools}/java", "Client",
                 f"{work}/cases.txt", jobs],
        "grpcio": [*python, f"{HERE}/clients/grpcio_client.py", *table],
        "websockets": [*python, f"{HERE}/clients/websockets_client.py", *table],
    }[name]


def run_way(way, exchanges, world):
    """What the clients say, by the exchange's number."""
    started = []
    names = sorted({client for _, client, _ in exchanges})
    for name in names:
        path = f"{world.work}/jobs-{way}-{name}"
        port = {server: world.ports[server, "direct" if way == "again" else way] for _, _, server in exchanges}
        jobs = [{"run": f"{way}-{at}", "case": row["id"], "base": f"http://127.0.0.1:{port[server]}", "client": client}
                for at, (row, client, server) in enumerate(exchanges) if client == name]
        lines = "".join(f"{job['run']}\t{job['case']}\t{job['base']}\n" for job in jobs)
        write(path, lines if name == "java" else json.dumps(jobs))
        out, err = open(f"{path}.out", "w"), open(f"{path}.err", "w")
        env = {**os.environ, "PYTHONPATH": f"{HERE}:{HERE}/clients", "PYTHONDONTWRITEBYTECODE": "1", "no_proxy": "*"}
        command = client_command(name, world.work, world.tools, path)
        started.append((name, path, subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=env)))
    said = {}
    for name, path, process in started:
        if process.wait():
            with open(f"{path}.err") as file:
                raise SystemExit(f"the client {name} failed:\n{file.read()[-2000:]}")
        with open(f"{path}.out") as file:
            for line in file:
                one = json.loads(line)
                said[int(one["run"].rsplit("-", 1)[1])] = one
    return said


def seen_by_servers(world):
    seen = collections.defaultdict(list)
    for name in {name for name, _ in world.ports}:
        if os.path.exists(f"{world.work}/seen-{name}"):
            with open(f"{world.work}/seen-{name}") as file:
                for line in file:
                    one = json.loads(line)
                    if name == "nginx":  # whose log has a column for each field
                        one["fields"] = [field for field in one["fields"] if field[1]]
                    seen[one["run"]].append(one)
    return seen


def report(exchanges, said, seen, rows):
    unlisted = collections.defaultdict(list)
    explained = 0
    for at, (row, client, server) in enumerate(exchanges):
        view = {way: (said[way].get(at, {"error": "none said"}), seen[f"{way}-{at}"]) for way in WAYS}
        for way in ["declared", "detected"]:
            exchange = {"case": row["id"], "client": client, "server": server, "way": way}
            for token, detail in compare.differences([view["direct"], view["again"]], view[way], row.get("streamed")):
                if any([one.explains(token, exchange) for one in rows]):
                    explained += 1
                else:
                    unlisted[token].append((exchange, detail))
    for token, found in sorted(unlisted.items(), key=lambda one: -len(one[1])):
        print(f"not listed: {token} ({len(found)} times)")
        for exchange, detail in found[:int(os.environ.get("SHOW", "3"))]:
            print(f"    {' '.join(exchange.values())}: {str(detail)[:300]}")
    for one in rows:
        if not one.used:
            print(f"listed, and not seen in this run: differences.md:{one.line} {', '.join(one.tokens)}")
    failed = sum(len(found) for found in unlisted.values())
    clients = collections.Counter(client for _, client, _ in exchanges)
    print(f"{len(exchanges)} exchanges ({', '.join(f'{name} {count}' for name, count in sorted(clients.items()))}), each directly "
          f"twice and through two agents declared and detected: {explained} differences listed, {failed} not")
    return failed


def main():
    work, tools, mesh, no_clients, no_servers, *only = sys.argv[1:]
    rows = compare.listed(PAGE)
    table = [row for row in cases.table() if not only or fnmatch.fnmatchcase(row["id"], only[0])]
    write(f"{work}/cases.json", json.dumps(table))
    write(f"{work}/cases.txt", "\n".join(cases.lines(table)))
    exchanges = [(row, client, server) for row in table for client in row["clients"] for server in row["servers"]
                 if client not in no_clients.split() and server not in no_servers.split()]
    servers = sorted({server for _, _, server in exchanges})
    world = World(HERE, work, tools, mesh)
    try:
        for server in servers:
            world.server(server)
        world.await_servers()
        world.agents(servers)
        said = {way: run_way(way, exchanges, world) for way in WAYS}
    finally:
        world.stop()
    sys.exit(1 if report(exchanges, said, seen_by_servers(world), rows) else 0)


main()
