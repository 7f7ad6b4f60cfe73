"""requests and httpx, each with one pool of connections."""

import httpx
import requests

from common import Reader, fields_of, jobs, say, sent_body, target_of


def by_requests(run, one, base, session):
    fields = dict(fields_of(run, one))
    with session.request(one["method"], base + target_of(one, base), headers=fields, data=sent_body(one), stream=True,
                         allow_redirects=False, timeout=10) as answer:
        reader = Reader()
        # Not `stream`, which would undo a coding.
        for part in answer.raw.stream(65536, decode_content=False):
            reader.take(part)
        say(run, status=answer.status_code, reason=answer.reason, version=f"1.{answer.raw.version - 10}",
            fields=[list(field) for field in answer.raw.headers.items()], trailers=[], hints=[], error=None, **reader.seen())


def by_httpx(run, one, base, client):
    fields = [(name, value) for name, value in fields_of(run, one) if value is not None]
    with client.stream(one["method"], base + target_of(one, base), headers=fields, content=sent_body(one)) as answer:
        reader = Reader()
        for part in answer.iter_raw():
            reader.take(part)
        say(run, status=answer.status_code, reason=answer.reason_phrase, version=answer.http_version[5:],
            fields=[[name.decode("latin-1"), value.decode("latin-1")] for name, value in answer.headers.raw],
            trailers=[], hints=[], error=None, **reader.seen())


def each(name, how, with_what):
    for run, one, base in jobs(name):
        try:
            how(run, one, base, with_what)
        except Exception as error:  # whatever a library raises is what its user sees
            say(run, error=type(error).__name__)


with requests.Session() as session:
    session.trust_env = False
    each("requests", by_requests, session)
with httpx.Client(trust_env=False, timeout=10) as client:
    each("httpx", by_httpx, client)
