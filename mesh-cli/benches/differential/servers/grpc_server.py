"""grpcio's server, generic, so that no code is generated: it answers by the metadata x-case and writes what it saw."""

import base64
import hashlib
import json
import sys
import time
from concurrent import futures

import grpc

from cases import pattern

port, cases, seen = sys.argv[1:]
with open(cases) as file:
    TABLE = {one["id"]: one for one in json.load(file)}
CODES = {code.value[0]: code for code in grpc.StatusCode}


def pairs(listed):
    return [(name, base64.b64decode(value) if name.endswith("-bin") else value) for name, value in listed]


def shown(metadata):
    return [[name, base64.b64encode(value).decode() if isinstance(value, bytes) else value] for name, value in metadata or ()]


def answer(messages, context):
    metadata = shown(context.invocation_metadata())
    by_name = dict(metadata)
    one = TABLE[by_name["x-case"]]["grpc"]
    sum, size, count = hashlib.sha256(), 0, 0
    for message in messages:
        sum.update(message)
        size, count = size + len(message), count + 1
    left = context.time_remaining()
    limited = "none" if left is None or left > 1e6 else "near" if left < 2 else "far"
    with open(seen, "a") as file:
        file.write(json.dumps({"run": by_name["x-run"], "method": "POST", "target": str(count), "version": limited, "fields": metadata,
                               "size": size, "digest": sum.hexdigest(), "trailers": []}) + "\n")
    time.sleep(one.get("pause", 0))
    context.send_initial_metadata(pairs(one.get("initial", [])))
    context.set_trailing_metadata(pairs(one.get("trailing", [])))
    for size in one["given"]:
        yield pattern(size)
    if "code" in one:
        context.abort(CODES[one["code"]], one["details"])


def single(request, context):
    for message in answer([request], context):
        return message


def joined(requests, context):
    for message in answer(requests, context):
        return message


def streamed(request, context):
    yield from answer([request], context)


METHODS = {
    "unary": grpc.unary_unary_rpc_method_handler(single),
    "client": grpc.stream_unary_rpc_method_handler(joined),
    "server": grpc.unary_stream_rpc_method_handler(streamed),
    "both": grpc.stream_stream_rpc_method_handler(answer),
}
server = grpc.server(futures.ThreadPoolExecutor(8))
server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Echo", METHODS)])
server.add_insecure_port(f"127.0.0.1:{port}")
server.start()
server.wait_for_termination()
