"""What the clients in Python share: the jobs, and a line for each exchange."""

import hashlib
import json
import sys
import time

from cases import body_of


def jobs(client):
    """The jobs of one client: (run, its case, the server's base URL)."""
    with open(sys.argv[1]) as file:
        table = {one["id"]: one for one in json.load(file)}
    with open(sys.argv[2]) as file:
        for job in json.load(file):
            if job["client"] == client:
                yield job["run"], table[job["case"]], job["base"]


def say(run, **seen):
    print(json.dumps({"run": run, **seen}), flush=True)


def target_of(one, base):
    return one["target"].replace("@PORT@", base.rsplit(":", 1)[1])


def fields_of(run, one):
    return [["x-run", run], ["x-case", one["id"]], *one["fields"]]


def sent_body(one):
    """The bytes, or a generator of them where the length is not to be known."""
    if one["body"] is None:
        return None
    data = body_of(one["body"])
    if one["body"]["framing"] == "length":
        return data
    return (data[at:at + 8192] for at in range(0, len(data), 8192))


class Reader:
    """Takes an answer's body: its size, its digest, and whether it came in pieces over some time."""

    def __init__(self):
        self.sum, self.size, self.first, self.last = hashlib.sha256(), 0, None, None

    def take(self, part):
        if part:
            self.sum.update(part)
            self.size += len(part)
            self.last = time.monotonic()
            self.first = self.first or self.last

    def seen(self):
        spread = (self.last or 0) - (self.first or 0)
        return {"size": self.size, "digest": self.sum.hexdigest(), "streamed": spread > 0.2}
