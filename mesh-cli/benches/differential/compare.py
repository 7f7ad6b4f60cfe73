"""What an exchange through the agents shows that it does not show directly, and the list that explains it.

The list is the page docs/differences.md: of each row of a table, the code words of the first column are differences
(`answer -keep-alive`, with `*` and `?`), those of the second say which exchanges they belong to (`client=curl,go`).
"""

import fnmatch
import re


def normal(value):
    return re.sub(r"(127\.0\.0\.1|localhost):\d+", r"\1:PORT", value)


def by_name(pairs):
    out = {}
    for name, value in pairs:
        out.setdefault(name.lower(), []).append("DATE" if name.lower() == "date" else normal(value or ""))
    out.pop("x-run", None)
    return out


def fields_differ(side, before, after):
    before, after = by_name(before), by_name(after)
    for name in sorted(before.keys() | after.keys()):
        if name not in after:
            yield f"{side} -{name}", before[name]
        elif name not in before:
            yield f"{side} +{name}", after[name]
        elif before[name] != after[name]:
            yield f"{side} ~{name}", (before[name], after[name])


def answers_differ(before, after, streamed):
    if bool(before.get("error")) != bool(after.get("error")):
        yield f"answer error {before.get('error') or 'none'}>{after.get('error') or 'none'}", after
    if before.get("status") != after.get("status"):
        yield f"answer status {before.get('status')}>{after.get('status')}", after
        return
    if "status" not in before:
        return
    for part in ["reason", "version", "hints"] + (["streamed"] if streamed else []):
        if before[part] != after[part]:
            yield f"answer {part}", (before[part], after[part])
    if (before["size"], before["digest"]) != (after["size"], after["digest"]):
        yield "answer body", (before["size"], after["size"])
    yield from fields_differ("answer", before["fields"], after["fields"])
    yield from fields_differ("answer trailer", before["trailers"], after["trailers"])


def requests_differ(before, after):
    if len(before) != len(after):
        yield f"request count {len(before)}>{len(after)}", after
    if not before or not after:
        return
    before, after = before[0], after[0]
    for part in ["method", "target", "version"]:
        if normal(before[part]) != normal(after[part]):
            yield f"request {part}", (before[part], after[part])
    if (before["size"], before["digest"]) != (after["size"], after["digest"]):
        yield "request body", (before["size"], after["size"])
    yield from fields_differ("request", before["fields"], after["fields"])
    yield from fields_differ("request trailer", before["trailers"], after["trailers"])


def differences(direct, through, streamed):
    """`direct` are several: what varies by itself is no difference. Each is (the client's view, the server's views)."""
    found = []
    for answer, requests in direct:
        found.append([*answers_differ(answer, through[0], streamed), *requests_differ(requests, through[1])])
    return min(found, key=len)


class Listed:
    """A row of the page."""

    def __init__(self, tokens, where, line):
        self.tokens, self.where, self.line, self.used = tokens, where, line, False

    def explains(self, token, exchange):
        fits = all(any(fnmatch.fnmatchcase(exchange[key], one) for one in globs) for key, globs in self.where.items())
        found = fits and any(fnmatch.fnmatchcase(token, one) for one in self.tokens)
        self.used = self.used or found
        return found


def listed(page):
    rows = []
    with open(page) as file:
        for number, line in enumerate(file, 1):
            cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
            tokens = re.findall(r"`((?:answer|request) [^`]+)`", cells[0])
            if line.startswith("|") and tokens:
                where = dict(one.split("=", 1) for one in re.findall(r"`([a-z]+=[^`]+)`", cells[1]))
                assert len(cells) == 3 and cells[2], f"{page}:{number}: a row has three cells, and a reason"
                assert set(where) <= {"case", "client", "server", "way"}, f"{page}:{number}: {where}"
                rows.append(Listed(tokens, {key: value.split(",") for key, value in where.items()}, number))
    return rows
