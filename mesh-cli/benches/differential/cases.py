"""The table of exchanges: what a client asks, what the server answers, and which programs can say it.

A case has an id, a request and an answer. Clients and servers read it as JSON, those in Java as lines of text.
A body is `pattern(size)`, or the bytes of `data`; its framing is `length`, `chunked`, or `close` for an answer
that ends with its connection.
"""

import base64
import gzip
import json

CLIENTS = ["curl", "go", "node", "requests", "httpx", "java"]
# nginx serves files and has a table of its own.
SERVERS = ["node", "uvicorn", "gunicorn", "go", "java"]
RAW = ["curl", "go"]  # send a target and fields as they are given
KIB, MIB = 1024, 1024 * 1024


def pattern(size):
    return (bytes((at * 31 + 7) % 251 for at in range(251)) * (size // 251 + 1))[:size]


def case(id, method="GET", target="/", fields=(), body=None, answer=None, clients=None, servers=None, **more):
    answered = {"status": 200, "fields": [["content-type", "text/plain"]], "body": {"size": 5, "framing": "length"}}
    answered.update(answer or {})
    return {
        "id": id, "method": method, "target": target, "fields": [list(field) for field in fields], "body": body,
        "answer": answered, "clients": clients or CLIENTS, "servers": servers or SERVERS, **more,
    }


def sent(size, framing="length", **more):
    return {"size": size, "framing": framing, **more}


def status(code, *fields, body=sent(5)):
    return {"status": code, "fields": [list(field) for field in fields], "body": body}


def but(names, *out):
    return [name for name in names if name not in out]


def methods():
    no_body = ["GET", "HEAD", "DELETE", "OPTIONS"]
    for method in no_body:
        yield case(f"method-{method.lower()}", method)
    for method in ["POST", "PUT", "PATCH", "DELETE"]:
        yield case(f"method-{method.lower()}-body", method, body=sent(64))
    yield case("method-get-body", "GET", body=sent(64), clients=["curl", "go", "requests", "httpx", "java"])
    yield case("method-propfind", "PROPFIND", fields=[["depth", "1"]])
    yield case("method-query", "QUERY", body=sent(32))
    yield case("method-options-star", "OPTIONS", "*", clients=["curl"], servers=but(SERVERS, "java"))
    yield case("method-head-length", "HEAD", answer=status(200, body=sent(4096)))
    yield case("method-head-chunked", "HEAD", answer=status(200, body=sent(4096, "chunked")))
    yield case("method-head-404", "HEAD", answer=status(404))


def bodies():
    for name, size in [("empty", 0), ("byte", 1), ("kib", KIB), ("mib", MIB)]:
        yield case(f"body-{name}", "POST", body=sent(size))
        yield case(f"body-{name}-chunked", "POST", body=sent(size, "chunked"))
    packed = base64.b64encode(gzip.compress(pattern(8 * KIB), mtime=0)).decode()
    yield case("body-gzip", "POST", fields=[["content-encoding", "gzip"]], body={"data": packed, "framing": "length"})
    yield case("body-type", "POST", fields=[["content-type", "application/json; charset=utf-8"]], body=sent(20))
    yield case("body-trailers", "POST", body=sent(300, "chunked", trailers=[["x-sum", "17"], ["x-end", "yes"]]),
               clients=["go"], servers=["go", "node"])
    accepted = [["expect", "100-continue"]]
    yield case("expect-accepted", "POST", fields=accepted, body=sent(2000), expect=True,
               clients=["curl", "go", "java"])
    yield case("expect-refused", "POST", fields=accepted, body=sent(2000), expect=True,
               answer={**status(413), "early": True}, clients=["curl"], servers=["node", "go"])
    for code, framing in [(413, "length"), (401, "chunked")]:
        yield case(f"early-{code}", "POST", body=sent(2 * MIB, framing), answer={**status(code), "early": True},
                   servers=["node", "uvicorn", "go"])


def answers():
    for name, size in [("empty", 0), ("byte", 1), ("64k", 64 * KIB), ("4m", 4 * MIB)]:
        for framing in ["length", "chunked"]:
            yield case(f"answer-{name}-{framing}", answer=status(200, body=sent(size, framing)))
    yield case("answer-close", answer=status(200, body=sent(20000, "close")), servers=["node", "go"])
    yield case("answer-http10", answer={**status(200, body=sent(300, "close")), "http10": True}, servers=["node", "go"])
    yield case("answer-connection-close", answer=status(200, ["connection", "close"]), servers=but(SERVERS, "java"))
    yield case("answer-stream", answer=status(200, ["content-type", "text/event-stream"], ["cache-control", "no-cache"],
                                             body=sent(60, "chunked", parts=3, pause_ms=250)), streamed=True)
    for code in [201, 202, 203, 299, 300, 400, 401, 403, 404, 409, 418, 429, 451, 499, 500, 501, 502, 503, 504, 599]:
        yield case(f"status-{code}", answer=status(code), clients=["curl", "go"] if code % 2 else ["node", "httpx"])
    yield case("status-204", answer=status(204, body=None))
    yield case("status-205", answer=status(205, body=sent(0)), servers=["node", "go"], clients=["curl", "go"])
    yield case("status-304", answer=status(304, ["etag", '"v1"'], ["cache-control", "max-age=60"], body=None),
               fields=[["if-none-match", '"v1"']])
    yield case("status-304-length", answer=status(304, ["etag", '"v1"'], ["content-length", "1234"], body=None),
               servers=["node"], clients=["curl", "go"])
    for code in [301, 302, 303, 307, 308]:
        yield case(f"redirect-{code}", "POST", answer=status(code, ["location", "/else%2Fwhere/../x?a=b&c=%20"]),
                   body=sent(10))
    yield case("redirect-absolute", answer=status(302, ["location", "http://127.0.0.1:@PORT@/next"]))
    yield case("reason", answer={**status(200), "reason": "Quite Fine"}, servers=["node", "gunicorn"])
    yield case("hints", answer={**status(200), "hints": [["link", "</a.css>; rel=preload"]]},
               clients=["curl", "go"], servers=["node", "go"])
    trailed = status(200, ["trailer", "x-sum, x-end"], body=sent(700, "chunked", trailers=[["x-sum", "17"], ["x-end", "yes"]]))
    yield case("answer-trailers", answer=trailed, clients=RAW, servers=["node", "go"])
    yield case("answer-trailers-wanted", fields=[["te", "trailers"], ["connection", "te"]], answer=trailed, clients=RAW,
               servers=["node", "go"])
    yield case("range-206", fields=[["range", "bytes=0-9"]],
               answer=status(206, ["content-range", "bytes 0-9/100"], ["accept-ranges", "bytes"], body=sent(10)))
    yield case("range-416", fields=[["range", "bytes=900-"]], answer=status(416, ["content-range", "bytes */100"]))
    yield case("retry-after", answer=status(503, ["retry-after", "120"]))
    yield case("http10-keep-alive", fields=[["connection", "keep-alive"]], http10=True, clients=["curl"])
    yield case("http10-close", http10=True, clients=["curl"])
    yield case("http10-no-host", fields=[["host", None]], http10=True, clients=["curl"], servers=but(SERVERS, "java"))


def answer_fields():
    yield case("cookies-set", answer=status(200, ["set-cookie", "a=1; Path=/"], ["set-cookie", "b=2; HttpOnly"],
                                            ["set-cookie", 'c="x, y"; Expires=Wed, 21 Oct 2037 07:28:00 GMT']))
    yield case("challenges", answer=status(401, ["www-authenticate", 'Basic realm="a, b"'],
                                           ["www-authenticate", 'Bearer realm="x"']))
    yield case("answer-duplicates", answer=status(200, ["x-two", "1"], ["x-two", "2"], ["vary", "accept"], ["vary", "origin"]))
    yield case("answer-empty-value", answer=status(200, ["x-empty", ""]))
    yield case("answer-spaces", answer=status(200, ["x-inner", "a  b\tc"]))
    yield case("answer-90", answer=status(200, *[[f"x-field-{at}", str(at)] for at in range(90)]))
    yield case("answer-big-field", answer=status(200, ["x-big", "v" * 6000]))
    yield case("answer-obs-text", answer=status(200, ["x-word", "caf\xc3\xa9"]), clients=["curl", "go"], servers=["node", "go"])
    packed = base64.b64encode(gzip.compress(pattern(8 * KIB), mtime=0)).decode()
    yield case("answer-gzip", fields=[["accept-encoding", "gzip"]], answer=status(
        200, ["content-encoding", "gzip"], ["vary", "accept-encoding"], body={"data": packed, "framing": "length"}))
    yield case("answer-coding-unknown", clients=["curl", "go"], answer=status(200, ["content-encoding", "x-own"]))
    yield case("answer-caching", answer=status(200, ["etag", 'W/"a,b"'], ["last-modified", "Wed, 21 Oct 2015 07:28:00 GMT"],
                                               ["cache-control", 'private="x-y", max-age=0'], ["age", "7"], ["expires", "0"]))
    yield case("answer-disposition", answer=status(200, ["content-disposition", "attachment; filename*=UTF-8''%e2%82%ac.txt"]))
    yield case("answer-security", answer=status(200, ["strict-transport-security", "max-age=1"], ["alt-svc", "clear"],
                                                ["access-control-allow-origin", "*"], ["content-language", "de, en"]))
    yield case("answer-hop", answer=status(200, ["connection", "x-hop"], ["x-hop", "1"], ["keep-alive", "timeout=9"]),
               servers=["node"], clients=["curl", "go"])
    yield case("answer-own-server", answer=status(200, ["server", "own/1"], ["via", "1.1 inner"], ["x-powered-by", "y"]))


def request_fields():
    yield case("cookies", fields=[["cookie", "a=1"], ["cookie", "b=2; c=3"]], clients=RAW)
    yield case("cookie", fields=[["cookie", "a=1; b=2"]])
    yield case("duplicates", fields=[["x-two", "1"], ["x-two", "2"], ["accept", "a/b"], ["accept", "c/d"]], clients=RAW)
    yield case("empty-value", fields=[["x-empty", ""]])
    yield case("inner-spaces", fields=[["x-inner", "a  b\tc"]], clients=but(CLIENTS, "java"))
    yield case("fields-80", fields=[[f"x-field-{at}", str(at)] for at in range(80)])
    # gunicorn takes 100 fields.
    yield case("fields-120", fields=[[f"x-field-{at}", str(at)] for at in range(120)], servers=["go", "node"])
    yield case("big-field", fields=[["x-big", "v" * 6000]])
    yield case("obs-text", fields=[["x-word", "caf\xc3\xa9"]], clients=RAW, servers=["node", "go", "uvicorn"])
    yield case("negotiation", fields=[["accept", "text/html;q=0.9, */*;q=0.1"], ["accept-language", "de, en;q=0.5"],
                                      ["accept-encoding", "br;q=0.3, identity"]])
    yield case("authorization", fields=[["authorization", "Basic dTpw"], ["x-api-key", "k"]])
    yield case("conditional", fields=[["if-match", '"a", W/"b"'], ["if-modified-since", "Wed, 21 Oct 2015 07:28:00 GMT"],
                                      ["if-range", '"x"']])
    yield case("forwarded", fields=[["forwarded", "for=192.0.2.1;proto=https"], ["x-forwarded-for", "192.0.2.1, 10.0.0.1"],
                                    ["x-forwarded-proto", "https"], ["x-forwarded-host", "shop.example"], ["x-real-ip", "192.0.2.1"]])
    yield case("via", fields=[["via", "1.0 fred, 1.1 p.example"], ["max-forwards", "3"]], clients=RAW)
    yield case("origin", fields=[["origin", "https://shop.example"], ["referer", "https://shop.example/x?y"]], clients=but(CLIENTS))
    yield case("request-id", fields=[["x-request-id", "11-22"], ["x-correlation-id", "33"]])
    yield case("trace", fields=[["traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"],
                                ["tracestate", "vendor=1"], ["baggage", "a=b;c"]])
    yield case("client-cert-claim", fields=[["x-forwarded-client-cert", "By=spiffe://x;URI=spiffe://y"]])
    yield case("hop", fields=[["connection", "x-hop"], ["x-hop", "1"]], clients=RAW)
    yield case("keep-alive", fields=[["keep-alive", "timeout=5"], ["proxy-connection", "keep-alive"]], clients=["curl"])
    yield case("te", fields=[["te", "trailers"]], clients=RAW)
    yield case("te-gzip", fields=[["te", "gzip;q=0.5"], ["connection", "te"]], clients=["curl"])
    yield case("upgrade-unknown", fields=[["connection", "upgrade"], ["upgrade", "own/1"]], clients=["curl"],
               servers=["go", "java", "gunicorn"])
    # Node gives each Upgrade to its handler, which here is one for WebSocket.
    yield case("upgrade-h2c", clients=["java"], servers=but(SERVERS, "node"), upgrade_h2c=True)
    yield case("priority", fields=[["priority", "u=1, i"], ["dnt", "1"], ["save-data", "on"]])
    yield case("content-length-zero", "GET", fields=[["content-length", "0"]], clients=["curl"])
    yield case("underscore", fields=[["x_under_score", "1"], ["x.dot", "2"]], clients=RAW)
    yield case("agent-none", fields=[["user-agent", None]], clients=["curl", "requests"])
    yield case("no-accept", fields=[["accept", None]], clients=["curl"])


def targets():
    plain = {
        "slash-escaped": "/a%2Fb/@x%2fy", "backslash-escaped": "/a%5Cb", "slashes": "//a//b/", "dot": "/a/./b",
        "dots": "/a/../b", "dots-end": "/a/b/..", "dots-escaped": "/a/%2e%2E/b", "tilde": "/%7Euser/~x", "utf8": "/caf%C3%A9/%E2%82%AC",
        "hex-lower": "/caf%c3%a9", "params": "/a;b=c;d/e;f", "sub-delims": "/:@!$&'()*+,=-._~", "escaped-delims": "/%3A%40%21%24%3F%23%26",
        "trailing": "/a/b/", "space": "/a%20b", "percent": "/100%25/x", "long": "/" + "p" * 4000, "extension": "/v1/x:custom",
    }
    for name, target in plain.items():
        # What other clients make of a path is theirs; those that send it as it is can tell.
        yield case(f"path-{name}", target=target, clients=RAW + ["httpx", "node", "java", "requests"])
    yield case("path-raw-utf8", target="/caf\xc3\xa9", clients=["curl"], servers=["go"])
    yield case("path-bad-escape", target="/a%zz", clients=["curl"], servers=["node", "uvicorn"])
    yield case("path-braces", target="/a|b{c}[d]", clients=["curl"], servers=["node", "go"])
    yield case("path-caret", target="/a^b`c", clients=["curl"], servers=["node", "go"])
    queries = {
        "empty": "/a?", "twice": "/a?b=1&b=2", "plus": "/a?q=x+y%20z%2B", "slash": "/a?u=http://h/p//q/../r", "question": "/a?b?c",
        "bare": "/a?flag&x=&=y", "semicolon": "/a?b=1;c=2", "lower": "/a?x=%c3%a9", "encoded-amp": "/a?x=%26%3D%23", "long": "/a?" + "q" * 4000,
        "brackets": "/a?x[]=1&x[]=2", "root": "/?x",
    }
    for name, target in queries.items():
        yield case(f"query-{name}", target=target, clients=but(CLIENTS, "java") if "[" in target else CLIENTS)
    yield case("target-absolute", target="http://127.0.0.1:@PORT@/abs?x=1", clients=["curl"], servers=["go", "node"])


def nginx():
    only = {"servers": ["nginx"]}
    files = {
        "file": "/file.txt", "file-empty": "/empty", "file-large": "/large.bin", "missing": "/missing", "folder": "/folder",
        "folder-index": "/folder/", "dots": "/folder/../file.txt", "slashes": "//file.txt", "escaped": "/f%69le.txt",
        "utf8": "/%E2%82%AC.txt", "space": "/a%20b.txt", "forbidden": "/forbidden", "moved": "/moved?x=1", "gone": "/gone",
        "none": "/none", "headers": "/headers",
    }
    for name, target in files.items():
        yield case(f"nginx-{name}", target=target, **only)
    for name, value in {"first": "0-9", "last": "-5", "from": "100000-", "middle": "10-19", "outside": "99999999-"}.items():
        yield case(f"nginx-range-{name}", target="/large.bin", fields=[["range", f"bytes={value}"]], **only)
    yield case("nginx-if-none-match", target="/file.txt", fields=[["if-none-match", "*"]], **only)
    yield case("nginx-not-modified", target="/file.txt", fields=[["if-modified-since", "Wed, 21 Oct 2037 07:28:00 GMT"]], **only)
    yield case("nginx-if-match-failed", target="/file.txt", fields=[["if-match", '"other"']], **only)
    yield case("nginx-head", "HEAD", "/large.bin", **only)
    yield case("nginx-gzip", target="/page.html", fields=[["accept-encoding", "gzip"]], **only)
    yield case("nginx-head-gzip", "HEAD", "/page.html", fields=[["accept-encoding", "gzip"]], **only)
    yield case("nginx-post-file", "POST", "/file.txt", body=sent(10), **only)
    yield case("nginx-too-large", "POST", "/small", body=sent(200 * KIB), **only)
    yield case("nginx-http10", target="/page.html", http10=True, clients=["curl"], **only)
    yield case("nginx-unsupported-method", "BREW", "/file.txt", **only, clients=["curl", "go"])


def websocket():
    def row(id, messages, **more):
        # The fields and body of the answer are the library's.
        return case(f"websocket-{id}", clients=["websockets"], servers=["node", "uvicorn"], websocket={"messages": messages, **more})

    yield row("text", ["a word", "caf\u00e9", ""])
    yield row("binary", [{"size": 1}, {"size": 60000}])
    yield row("protocol", ["x"], protocols=["second.v2", "first"])
    yield row("deflate", ["y" * 5000], compression="deflate")
    yield row("many", [str(at) for at in range(200)])
    yield row("close-code", [], code=4001, reason="enough")


def grpc():
    def row(id, kind="unary", asked=(64,), given=(64,), **more):
        return case(f"grpc-{id}", "POST", f"/test.Echo/{kind}", clients=["grpcio"], servers=["grpc"],
                    grpc={"kind": kind, "asked": list(asked), "given": list(given), **more})

    yield row("unary")
    yield row("empty", asked=[0], given=[0])
    yield row("large", asked=[3 * MIB], given=[3 * MIB])
    yield row("server-stream", "server", given=[10] * 1000)
    yield row("client-stream", "client", asked=[10] * 1000)
    yield row("both-streams", "both", asked=[100] * 200, given=[100] * 200)
    yield row("no-answers", "server", given=[])
    for code in range(1, 17):
        yield row(f"status-{code}", code=code, details=f"code {code}", given=[])
    yield row("status-text", code=9, details="caf\u00e9 100% \n two", given=[])
    yield row("status-details", code=9, details="x", given=[], trailing=[["grpc-status-details-bin", "CAkSAXg="]])
    yield row("status-after-messages", "server", given=[10, 10], code=8, details="enough")
    yield row("metadata", metadata=[["x-a", "1"], ["x-a", "2"], ["x-b-bin", "AP8="]], initial=[["y-a", "1"], ["y-b-bin", "/wA="]],
              trailing=[["z-a", "1"], ["z-a", "2"]])
    yield row("deadline", timeout=0.5, pause=3)
    yield row("deadline-far", timeout=30)
    yield row("gzip", compression="gzip", asked=[20000], given=[20000])
    yield row("too-large-answer", given=[5 * MIB])
    yield row("too-large-request", asked=[5 * MIB])
    yield row("unimplemented", "nowhere")


def table():
    parts = [methods, bodies, answers, answer_fields, request_fields, targets, nginx, websocket, grpc]
    rows = [row for part in parts for row in part()]
    # What Go says to Go it says over HTTP/2 too, but for what only HTTP/1 has.
    rows += [{**row, "id": f"h2-{row['id']}", "clients": ["go2"], "servers": ["go2"]} for row in rows
             if "go" in row["clients"] and "go" in row["servers"] and not row["answer"].get("http10")
             and (row["answer"]["body"] or {}).get("framing") != "close"]
    ids = [row["id"] for row in rows]
    assert len(ids) == len(set(ids)), "two cases have one id"
    return rows


def body_of(body):
    if body is None:
        return b""
    return base64.b64decode(body["data"]) if "data" in body else pattern(body["size"])


def lines(rows):
    """The table for Java: a line a case, of fields that are base64 between tabs."""

    def text(pairs):
        return "\n".join(f"{name}: {value}" for name, value in pairs if value is not None)

    def packed(value):
        return base64.b64encode(value.encode() if isinstance(value, str) else value).decode()

    for row in rows:
        if "grpc" in row or "websocket" in row:
            continue
        asked, answer = row["body"], row["answer"]
        given = answer["body"] or {}
        yield "\t".join(packed(value) for value in [
            row["id"], row["method"], row["target"], text(row["fields"]), "" if asked is None else asked["framing"],
            body_of(asked), str(answer["status"]), text(answer["fields"]), given.get("framing", ""), body_of(answer["body"]),
            str(given.get("parts", 1)), str(given.get("pause_ms", 0)), "h2c" if row.get("upgrade_h2c") else "",
            "early" if answer.get("early") else "", "expect" if row.get("expect") else "",
        ])


if __name__ == "__main__":
    print(json.dumps(table()))
