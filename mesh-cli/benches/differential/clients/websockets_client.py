"""The library websockets: what it sends is echoed; `fields` are those of the handshake, `status` is the close code."""

import websockets.sync.client

from cases import pattern
from common import Reader, jobs, say


def talk(run, one, base):
    asked = one["websocket"]
    reader = Reader()
    with websockets.sync.client.connect(
        base.replace("http", "ws", 1) + "/chat", subprotocols=asked.get("protocols"), compression=asked.get("compression"),
        additional_headers={"x-run": run, "x-case": one["id"]}, open_timeout=10, close_timeout=10,
    ) as socket:
        for message in asked["messages"]:
            socket.send(message if isinstance(message, str) else pattern(message["size"]))
            came = socket.recv(timeout=10)
            reader.take(came.encode() if isinstance(came, str) else came)
        socket.close(asked.get("code", 1000), asked.get("reason", ""))
        close = socket.protocol.close_rcvd
    fields = [list(field) for field in socket.response.headers.raw_items() if field[0].lower() != "sec-websocket-accept"]
    say(run, status=close.code if close else 1006, reason=close.reason if close else "", version=str(socket.subprotocol), fields=fields,
        trailers=[], hints=[], error=None, **reader.seen())


for run, one, base in jobs("websockets"):
    try:
        talk(run, one, base)
    except Exception as error:
        say(run, error=type(error).__name__)
