"""grpcio's client, generic: `status` is the code, `reason` the message, `trailers` the trailing metadata."""

import base64

import grpc

from cases import pattern
from common import Reader, jobs, say


def pairs(listed):
    return [(name, base64.b64decode(value) if name.endswith("-bin") else value) for name, value in listed]


def shown(metadata):
    return [[name, base64.b64encode(value).decode() if isinstance(value, bytes) else value] for name, value in metadata or ()]


def call(channel, run, one):
    asked = one["grpc"]
    messages = iter([pattern(size) for size in asked["asked"]])
    how = {"server": channel.unary_stream, "client": channel.stream_unary, "both": channel.stream_stream}
    method = how.get(asked["kind"], channel.unary_unary)(one["target"])
    stream_out, stream_in = asked["kind"] in ("client", "both"), asked["kind"] in ("server", "both")
    options = {
        "metadata": [("x-run", run), ("x-case", one["id"]), *pairs(asked.get("metadata", []))],
        "timeout": asked.get("timeout"),
        "compression": grpc.Compression.Gzip if asked.get("compression") else None,
    }
    reader, count = Reader(), 0
    given = messages if stream_out else next(messages)
    handle = method(given, **options) if stream_in else method.future(given, **options)
    try:
        for message in handle if stream_in else [handle.result()]:
            count += 1
            reader.take(message)
    except grpc.RpcError:
        pass  # the handle has its code
    seen = reader.seen()
    say(run, status=handle.code().value[0], reason=handle.details(), version=str(count), fields=shown(handle.initial_metadata()),
        trailers=shown(handle.trailing_metadata()), hints=[], error=None, **seen)


channels = {}
for run, one, base in jobs("grpcio"):
    address = base.removeprefix("http://")
    channel = channels.setdefault(address, grpc.insecure_channel(address))
    try:
        call(channel, run, one)
    except Exception as error:
        say(run, error=type(error).__name__)
