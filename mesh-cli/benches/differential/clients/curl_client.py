"""curl, one process an exchange. Its dump of heads has the informational ones before, the trailers after."""

import os
import re
import subprocess
import tempfile

from cases import body_of
from common import fields_of, jobs, say, target_of
import hashlib


def command(run, one, base, folder):
    line = ["curl", "-s", "-g", "--path-as-is", "-m", "10", "-D", f"{folder}/head", "-o", f"{folder}/body"]
    target = target_of(one, base)
    if target.startswith("/"):
        url = (base + target).encode("latin-1")
    else:
        line += ["--request-target", target]
        url = base.encode()
    line += ["--http1.0"] if one.get("http10") else ["--http1.1"]
    line += ["-I"] if one["method"] == "HEAD" else ["-X", one["method"]]
    fields = fields_of(run, one)
    for name, value in fields:
        text = f"{name}:" if value is None else f"{name};" if value == "" else f"{name}: {value}"
        line += ["-H", text.encode("latin-1")]
    if one["body"] is not None:
        with open(f"{folder}/sent", "wb") as file:
            file.write(body_of(one["body"]))
        line += ["--data-binary", f"@{folder}/sent"]
        if one["body"]["framing"] == "chunked":
            line += ["-H", "transfer-encoding: chunked"]
        if not one.get("expect"):
            line += ["-H", "expect:"]
        if not any(name == "content-type" for name, _ in fields):
            line += ["-H", "content-type: application/octet-stream"]
    return line + [url]


def parse(head):
    blocks = [[]]
    for line in head.decode("latin-1").split("\r\n"):
        if line.startswith("HTTP/"):
            blocks.append([line])
        elif line:
            blocks[-1].append(line)
    answers = []
    for block in blocks:
        if block:
            match = re.match(r"HTTP/([\d.]+) (\d+) ?(.*)", block[0])
            fields = [[part.strip() for part in line.split(":", 1)] for line in block[1:] if ":" in line]
            answers.append((match[1], int(match[2]), match[3], fields))
    return answers


def trailing(head):
    """What follows the empty line of the last head."""
    last = head.rfind(b"HTTP/1.")
    _, _, rest = head[last:].partition(b"\r\n\r\n")
    return [[part.strip() for part in line.split(":", 1)] for line in rest.decode("latin-1").split("\r\n") if ":" in line]


def main():
    for run, one, base in jobs("curl"):
        with tempfile.TemporaryDirectory() as folder:
            code = subprocess.run(command(run, one, base, folder), stdin=subprocess.DEVNULL).returncode
            head = read(f"{folder}/head")
            body = read(f"{folder}/body") if one["method"] != "HEAD" else b""
        answers = parse(head)
        if not answers:
            say(run, error=f"curl {code}")
            continue
        version, status, reason, fields = answers[-1]
        trailers = trailing(head)
        fields = fields[:len(fields) - len(trailers)]
        say(run, status=status, version=version, reason=reason, fields=fields, trailers=trailers, size=len(body),
            digest=hashlib.sha256(body).hexdigest(), streamed=False, error=f"curl {code}" if code else None,
            hints=[one[1] for one in answers[:-1] if one[1] != 100])


def read(path):
    if not os.path.exists(path):
        return b""
    with open(path, "rb") as file:
        return file.read()


main()
