"""One application for uvicorn (`asgi`) and for gunicorn (`wsgi`): it answers by the field x-case and writes what it saw."""

import asyncio
import hashlib
import json
import os
import time

from cases import body_of

with open(os.environ["CASES"]) as file:
    TABLE = {one["id"]: one for one in json.load(file)}


def record(run, **seen):
    with open(os.environ["SEEN"], "a") as file:
        file.write(json.dumps({"run": run, **seen}) + "\n")


def head_of(answer, bytes_of):
    fields = list(answer["fields"])
    body = answer["body"]
    if body and body["framing"] == "length" and answer["status"] != 304:
        fields.append(["content-length", str(len(bytes_of))])
    return fields


def parts_of(answer, data):
    count = (answer["body"] or {}).get("parts", 1)
    return [data[at * len(data) // count:(at + 1) * len(data) // count] for at in range(count)]


async def asgi(scope, receive, send):
    if scope["type"] == "websocket":
        return await echo(scope, receive, send)
    if scope["type"] != "http":
        return
    fields = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]]
    by_name = dict(fields)
    one = TABLE.get(by_name.get("x-case"))
    answer = one["answer"] if one else {"status": 200, "fields": [], "body": None}
    data = b""
    while not answer.get("early"):
        message = await receive()
        data += message.get("body", b"")
        if not message.get("more_body"):
            break
    if one:
        target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        record(by_name.get("x-run"), method=scope["method"], target=target.decode("latin-1"), version=scope["http_version"],
               fields=fields, size=len(data), digest=hashlib.sha256(data).hexdigest(), trailers=[])
    body = body_of(answer["body"])
    head = head_of(answer, body) + ([["connection", "close"]] if answer.get("early") else [])
    await send({"type": "http.response.start", "status": answer["status"],
                "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in head]})
    for at, part in enumerate(parts_of(answer, body)):
        if at:
            await asyncio.sleep(answer["body"]["pause_ms"] / 1000)
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def echo(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept", "subprotocol": next(iter(scope["subprotocols"]), None)})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", **{key: message[key] for key in ["text", "bytes"] if message.get(key) is not None}})


def wsgi(environ, start_response):
    one = TABLE.get(environ.get("HTTP_X_CASE"))
    answer = one["answer"] if one else {"status": 200, "fields": [], "body": None}
    data = environ["wsgi.input"].read()
    if one:
        fields = [[key[5:].lower().replace("_", "-"), value] for key, value in environ.items() if key.startswith("HTTP_")]
        fields += [[key.lower().replace("_", "-"), environ[key]] for key in ["CONTENT_TYPE", "CONTENT_LENGTH"] if key in environ]
        record(environ.get("HTTP_X_RUN"), method=environ["REQUEST_METHOD"], target=environ["RAW_URI"],
               version=environ["SERVER_PROTOCOL"][5:], fields=fields, size=len(data), digest=hashlib.sha256(data).hexdigest(), trailers=[])
    body = body_of(answer["body"])
    # What is of the connection is not an application's to say in WSGI.
    head = [(name, value) for name, value in head_of(answer, body) if name not in ("connection", "keep-alive")]
    start_response(f"{answer['status']} {answer.get('reason', 'Some')}", head)

    def given():
        for at, part in enumerate(parts_of(answer, body)):
            if at:
                time.sleep(answer["body"]["pause_ms"] / 1000)
            yield part

    return given()
