"""Calling addresses: the sandbox's API with its token, and a raw server that misbehaves."""

import asyncio
import contextlib
import json
import threading
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest

from erpsync import Retry
from erpsync.jobs.http_call.plugin import http_call
from erpsync.plugins.settings import validate_settings
from erpsync.sandbox.server import Sandbox
from erpsync.testing.run import RunOutcome

RunJob = Callable[..., RunOutcome]


@dataclass
class RawServer:
    """Answers every connection with the same bytes and keeps what it was sent."""

    answer: bytes
    url: str = ""
    requests: list[bytes] = field(default_factory=list)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            (int(line[15:]) for line in head.splitlines() if line.lower().startswith(b"content-length")), 0
        )
        self.requests.append(head + await reader.readexactly(length))
        writer.write(self.answer)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()


@contextmanager
def answering(answer: bytes) -> Iterator[RawServer]:
    """A raw HTTP server on loopback, in a thread of its own."""
    server, ready, loop = RawServer(answer), threading.Event(), asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        async with await asyncio.start_server(server.handle, "127.0.0.1", 0) as listening:
            server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/hook"
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    ready.wait()
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


def http(status: int, body: str = "", *headers: str, content_type: str = "text/plain") -> bytes:
    lines = (
        f"HTTP/1.1 {status} X",
        f"content-type: {content_type}",
        f"content-length: {len(body)}",
        *headers,
    )
    return ("\r\n".join(lines) + f"\r\nconnection: close\r\n\r\n{body}").encode()


def test_a_relative_address_is_below_the_api_and_carries_the_token(run_job: RunJob, sandbox: Sandbox) -> None:
    """The instance's own API is called with its token; the answer becomes an artifact."""
    settings = {
        "url": "General_Products_Products",
        "query": {"$top": 3, "$select": "Id,PartNumber"},
        "save_as": "three.json",
    }
    outcome = run_job(http_call, settings)
    assert outcome.outcome == "succeeded", outcome.error
    saved = (outcome.artifacts / "three.json").read_bytes()
    assert len(json.loads(saved)["value"]) == 3
    assert outcome.result is not None
    assert outcome.result.note == f"200, {len(saved)} bytes"
    assert outcome.counts.read == 1


def test_elsewhere_no_token_goes(run_job: RunJob) -> None:
    """Another server gets the headers of the settings, secrets resolved, and no token of the instance."""
    with answering(http(204)) as server:
        settings = {
            "url": server.url,
            "headers": {"X-Key": {"secret": "hook"}, "Accept": "a/b"},
            "query": {"a": ["1", "2"]},
        }
        outcome = run_job(http_call, settings, secrets={"hook": "s3cret-value"})
    assert outcome.outcome == "succeeded", outcome.error
    (sent,) = server.requests
    assert sent.startswith(b"GET /hook?a=1&a=2 HTTP/1.1")
    assert b"x-key: s3cret-value" in sent.lower()
    assert b"authorization" not in sent.lower()
    assert "s3cret-value" not in repr(outcome)


@pytest.mark.parametrize(("settings", "body", "kind"), [
    ({"json": {"a": [1, None, "ж"]}}, '{"a":[1,null,"ж"]}', b"application/json"),
    ({"body": "plain", "headers": {"Content-Type": "text/plain"}}, "plain", b"text/plain"),
])  # fmt: skip
def test_a_body_is_sent(run_job: RunJob, settings: dict[str, object], body: str, kind: bytes) -> None:
    """JSON and text go out as they are written; a write counts as written."""
    with answering(http(200)) as server:
        outcome = run_job(http_call, {"url": server.url, "method": "POST", **settings})
    assert outcome.counts.written == 1
    assert server.requests[0].endswith(body.encode())
    assert kind in server.requests[0]


def test_an_expected_status_may_be_any(run_job: RunJob) -> None:
    """Where statuses are listed, those and no others are fine."""
    with answering(http(404)) as server:
        assert run_job(http_call, {"url": server.url, "expect": [404]}).outcome == "succeeded"
    with answering(http(200)) as server:
        assert run_job(http_call, {"url": server.url, "expect": [404]}).outcome == "failed"


@pytest.mark.parametrize(("status", "method", "repeatable", "again"), [
    (503, "GET", False, True),
    (503, "POST", False, False),
    (503, "POST", True, True),
    (429, "POST", False, True),
    (400, "GET", False, False),
    (302, "GET", False, False),
    (409, "PUT", True, False),
])  # fmt: skip
def test_a_refusal_is_tried_again_only_where_that_is_harmless(
    run_job: RunJob, status: int, method: str, repeatable: bool, again: bool
) -> None:
    """What may pass is retryable for reads and repeatable requests; the message holds the beginning of the answer."""
    with answering(http(status, "not  now\n" + "x" * 500)) as server:
        outcome = run_job(http_call, {"url": server.url, "method": method, "repeatable": repeatable})
    assert outcome.error is not None
    assert outcome.error.retryable is again
    assert outcome.error.message.startswith(f"{method} {server.url} answered {status}: not now xxx")
    assert len(outcome.error.message) < 300


def test_the_server_says_when(run_job: RunJob) -> None:
    """Retry-After decides when the next attempt is."""
    with answering(http(503, "", "Retry-After: 120")) as server:
        outcome = run_job(http_call, {"url": server.url})
    assert isinstance(outcome.exception, Retry)
    assert outcome.exception.after == timedelta(minutes=2)


def test_refused_credentials_are_told_as_such(run_job: RunJob) -> None:
    """A 401 or 403 is not tried again with the same credentials."""
    with answering(http(403)) as server:
        outcome = run_job(http_call, {"url": server.url})
    assert outcome.error is not None
    assert (outcome.error.type, outcome.error.retryable) == ("AuthFailed", False)


def test_an_answer_that_repeats_a_secret_is_not_repeated(run_job: RunJob) -> None:
    """Secrets in a refusal's text, short ones too, are removed before anybody sees it."""
    with answering(http(400, "bad key abc, use another")) as server:
        outcome = run_job(
            http_call, {"url": server.url, "headers": {"X": {"secret": "k"}}}, secrets={"k": "abc"}
        )
    assert outcome.error is not None
    assert outcome.error.message.endswith("bad key [redacted], use another")


@pytest.mark.parametrize(("method", "again"), [("GET", True), ("POST", False)])
def test_half_an_answer_leaves_a_write_uncertain(run_job: RunJob, method: str, again: bool) -> None:
    """After bytes were sent only a read is tried again; for a write people must look."""
    with answering(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf") as server:
        outcome = run_job(http_call, {"url": server.url, "method": method, "save_as": "x"})
    assert outcome.error is not None
    assert outcome.error.retryable is again
    assert ("may have been carried out" in outcome.error.hint) is not again
    assert list(outcome.artifacts.iterdir()) == []


def test_a_write_that_never_left_may_be_tried_again(run_job: RunJob) -> None:
    """A refused connection is retryable for every method: nothing was sent."""
    with answering(http(200)) as server:
        url = server.url
    outcome = run_job(http_call, {"url": url, "method": "POST"})
    assert outcome.error is not None
    assert outcome.error.retryable


def test_a_dry_run_reads_but_never_writes(run_job: RunJob, tmp_path: Path) -> None:
    """A dry run skips a write with its reason, sends a read, and keeps no file."""
    with answering(http(200, "x")) as server:
        skipped = run_job(http_call, {"url": server.url, "method": "POST"}, dry_run=True)
        assert (skipped.outcome, skipped.reason) == ("succeeded", "a dry run sends no POST")
        assert server.requests == []
        assert run_job(http_call, {"url": server.url, "save_as": "a"}, dry_run=True).outcome == "succeeded"
        assert list((tmp_path / "data" / "artifacts").iterdir()) == []


@pytest.mark.parametrize(("settings", "message"), [
    ({"url": "ftp://example.org/x"}, '"url" must begin with https:// or lead below the instance\'s API'),
    ({"url": "http://[bad/x"}, '"url" is no address'),
    ({"url": "x", "json": {}, "body": "y", "method": "POST"}, "give json or body, not both"),
    ({"url": "x", "body": "y"}, "a GET carries no body"),
])  # fmt: skip
def test_settings_that_make_no_request_are_told(
    run_job: RunJob, settings: dict[str, object], message: str
) -> None:
    """Nothing is sent where the settings cannot work."""
    outcome = run_job(http_call, settings)
    assert outcome.error is not None
    assert message in outcome.error.message
    assert not outcome.error.retryable


def test_the_example_is_valid() -> None:
    """Every job of example.toml has settings that the plugin takes."""
    document = tomllib.loads((Path(__file__).parent / "example.toml").read_text())
    jobs = [job for job in document["jobs"].values() if job["plugin"] == "http_call"]
    assert jobs
    for job in jobs:
        validate_settings(http_call, job["with"], None)
