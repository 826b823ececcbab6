"""The control API and its client, over a real Unix socket."""

import asyncio
import os
import pwd
import threading
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest

from erpsync.cli.exit_code import code_of_error
from erpsync.control.client import ControlClient
from erpsync.control.listener import bind_control_socket
from erpsync.core.errors import (
    ConfigError,
    DaemonRefusedError,
    NoDaemonError,
    UnansweredError,
    UnknownJobError,
)

ME = pwd.getpwuid(os.getuid()).pw_name


async def ask(socket: Path, question: Callable[[ControlClient], Any]) -> Any:
    def blocking() -> Any:
        with ControlClient(socket) as client:
            return question(client)

    return await asyncio.to_thread(blocking)


async def test_a_claim_says_who_asked_and_for_what(served: Any, socket_path: Path) -> None:
    """The kernel says who asks; parameters arrive as given, empty ones not at all."""
    run = await ask(
        socket_path, lambda client: client.claim("products", {"dry_run": True, "set": {"a.b": 1}})
    )
    assert served.heard == [("products", {"dry_run": True, "set": {"a.b": 1}}, ME)]
    assert (run["id"], run["state"], run["requested_by"]) == ("r1", "pending", ME)


@pytest.mark.parametrize("silent", [2, 9])
async def test_a_claim_without_an_answer_is_asked_for_again(
    served: Any, socket_path: Path, silent: int
) -> None:
    """With the same wish, so that it is one claim; without any answer it says what may be yet, which is no "no"."""
    served.silent = silent

    def claim() -> Any:
        with ControlClient(socket_path, patience=0.3) as client:
            return client.claim_all(["products"], {})

    if silent < 3:
        assert [run["id"] for run in await asyncio.to_thread(claim)] == ["r1"]
    else:
        with pytest.raises(UnansweredError, match="may run products yet") as caught:
            await asyncio.to_thread(claim)
        assert (code_of_error(caught.value), caught.value.hint) == (75, "erpsync runs products")
    assert len(served.wishes) == 3
    assert len({*served.wishes}) == 1


async def test_a_run_is_followed_to_its_end(served: Any, socket_path: Path) -> None:
    """Waiting for a run answers with its progress meanwhile and with its outcome after the end."""
    await ask(socket_path, lambda client: client.claim("products", {}))
    assert (await ask(socket_path, lambda client: client.find("r1")))["progress"] == {
        "done": 3,
        "total": None,
    }
    waiting = asyncio.create_task(ask(socket_path, lambda client: client.find("r1", wait=20)))
    assert await ask(socket_path, lambda client: client.cancel("r1")) is True
    run = await waiting
    assert (run["state"], run["outcome"], run["progress"]) == ("finished", "cancelled", None)


async def test_pauses_say_until_when_and_why(served: Any, socket_path: Path) -> None:
    """A pause arrives with its end, its reason and who asked; None resumes all; an end without a zone is refused."""
    until = datetime(2026, 5, 2, 6, tzinfo=UTC)
    assert await ask(socket_path, lambda client: client.pause(["a", "b"], until, "audit")) == [
        {"job": "a"},
        {"job": "b"},
    ]
    answer = await ask(socket_path, lambda client: client.resume(None))
    assert answer == {"resumed": ["products"], "released": False}
    assert served.heard == [("pause", ["a", "b"], until, "audit", ME), ("resume", None, ME)]
    with pytest.raises(DaemonRefusedError, match="until"):
        await ask(socket_path, lambda client: client.pause(["a"], until.replace(tzinfo=None), None))


async def test_a_refused_reload_arrives_with_every_problem(served: Any, socket_path: Path) -> None:
    """The client raises what the daemon found, with its places."""
    with pytest.raises(ConfigError) as caught:
        await ask(socket_path, lambda client: client.reload())
    assert caught.value.problems[0].text().splitlines()[1] == "  --> erpsync.toml:3:1"


@pytest.mark.parametrize(
    ("job", "error", "retryable"),
    [
        ("prodcts", UnknownJobError, False),
        ("locked", DaemonRefusedError, True),
        ("fault", DaemonRefusedError, False),
    ],
)
async def test_refusals_keep_their_kind(
    served: Any, socket_path: Path, job: str, error: type[Exception], retryable: bool
) -> None:
    """An unknown job comes back as such with its hint, a locked state is retryable, a fault says nothing secret."""
    with pytest.raises(error) as caught:
        await ask(socket_path, lambda client: client.claim(job, {}))
    assert caught.value.retryable is retryable  # type: ignore[attr-defined]
    assert caught.value.hint  # type: ignore[attr-defined]
    assert "sandbox-secret" not in str(caught.value)


async def test_runs_are_asked_for_again(served: Any, socket_path: Path) -> None:
    """What is not done again comes back with its kind; a run for dead letters and one with a window are claimed."""
    with pytest.raises(DaemonRefusedError) as refused:
        await ask(socket_path, lambda client: client.retry("r1", force=True))
    assert (refused.value.kind, code_of_error(refused.value)) == ("RunRefusedError", 2)
    await ask(socket_path, lambda client: client.retry_dead("products"))
    window = ["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"]
    await ask(socket_path, lambda client: client.claim("products", {"window": window}))
    assert served.heard == [
        ("retry", "r1", True, ME),
        ("products", {"dead": ["r0"]}, ME),
        ("products", {"window": window}, ME),
    ]
    with pytest.raises(DaemonRefusedError, match="window"):
        await ask(socket_path, lambda client: client.claim("products", {"window": window[::-1]}))
    assert await ask(socket_path, lambda client: client.backfill("products", window, 3600, "may")) == []
    with pytest.raises(DaemonRefusedError, match="window"):
        await ask(socket_path, lambda client: client.backfill("products", window[::-1], 3600, None))
    days = (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC))
    assert served.heard[-1] == ("backfill", "products", days, timedelta(hours=1), "may", ME)
    await ask(socket_path, lambda client: client.reset_cursor("products@acme"))
    assert served.heard[-1] == ("reset_cursor", "products@acme", ME)


async def test_malformed_requests_are_told_where(served: Any, socket_path: Path) -> None:
    """An unknown key, an unknown path and an unknown run are answered in the one error shape."""
    transport = httpx2.AsyncHTTPTransport(uds=str(socket_path))
    async with httpx2.AsyncClient(transport=transport, base_url="http://daemon") as http:
        answers = [
            await http.post("/runs", json={"job": "products", "parms": {}}),
            await http.get("/nothing"),
            await http.get("/runs/none"),
        ]
        paths = (await http.get("/openapi.json")).json()["paths"]
    assert [answer.status_code for answer in answers] == [422, 404, 404]
    assert all(set(answer.json()["error"]) == {"type", "message", "hint"} for answer in answers)
    assert "parms" in answers[0].json()["error"]["message"]
    runs = {
        "/runs",
        "/claims",
        "/runs/{run_id}",
        "/runs/{run_id}/cancel",
        "/runs/{run_id}/retry",
        "/jobs/{job}/dead/retry",
        "/jobs/{job}/cursor/reset",
        "/jobs/{job}/backfill",
    }
    identities = {"/identities", "/identities/{name}", "/identities/{name}/fetch"}
    assert (
        set(paths)
        == {"/status", "/pause", "/reload", "/resume", "/instances/{name}/examine"} | runs | identities
    )


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (rb'{"job": "\ud800"}', "application/json"),
        (rb'{"job": "products", "params": {"set": {"a": "\ud800"}}}', "application/json"),
        (b"\xff{", "text/plain"),
    ],
)
async def test_text_that_is_none_is_malformed(served: Any, socket_path: Path, body: bytes, kind: str) -> None:
    """Half a surrogate pair, which JSON can spell and nothing can store, or bytes that nobody calls JSON, are the
    caller's fault."""
    transport = httpx2.AsyncHTTPTransport(uds=str(socket_path))
    async with httpx2.AsyncClient(transport=transport, base_url="http://daemon") as http:
        answer = await http.post("/runs", content=body, headers={"content-type": kind})
    assert (answer.status_code, answer.json()["error"]["type"]) == (422, "InvalidRequestError")
    assert served.heard == []


async def test_no_answer_holds_a_secret(served: Any, socket_path: Path) -> None:
    """Whatever a room behind the API says by mistake, in a document, an error or a problem; what the commands ask
    by, an id or an instant, stays."""
    served.secret = "2026"
    transport = httpx2.AsyncHTTPTransport(uds=str(socket_path))
    async with httpx2.AsyncClient(transport=transport, base_url="http://daemon") as http:
        answers = [
            await http.get("/status"),
            await http.get("/identities/2026"),
            await http.post("/runs", json={"job": "a2026"}),
            await http.post("/runs", json={"2026": ""}),
            await http.post("/reload"),
        ]
        claimed = (await http.post("/runs", json={"job": "products"})).json()
    assert [answer.status_code for answer in answers] == [200, 404, 404, 422, 409]
    assert all("2026" not in answer.text and "[redacted]" in answer.text for answer in answers)
    assert claimed["fire_at"].startswith("2026")


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_has_an_end(served: Any, socket_path: Path, declared: bool) -> None:
    """A body beyond a megabyte is answered 413, whether its length was declared or not; one below is taken."""

    async def body(size: int) -> AsyncIterator[bytes]:
        yield b'{"job": "products", "params": {"set": {"a": "' + b"a" * size + b'"}}}'

    transport = httpx2.AsyncHTTPTransport(uds=str(socket_path))
    answers = []
    async with httpx2.AsyncClient(transport=transport, base_url="http://daemon") as http:
        for size in (2 << 20, 900_000):
            chunks = body(size)
            content = await anext(chunks) if declared else chunks
            answers.append(
                await http.post("/runs", content=content, headers={"content-type": "application/json"})
            )
    assert [answer.status_code for answer in answers] == [413, 201]
    assert answers[0].json()["error"]["type"] == "InvalidRequestError"


def test_no_daemon_is_said_so(tmp_path: Path) -> None:
    """Where nothing listens the client says that there is no daemon."""
    with ControlClient(tmp_path / "absent.sock") as client, pytest.raises(NoDaemonError):
        client.status()


def test_a_daemon_that_ends_over_a_question_is_no_daemon_that_was_never_asked(tmp_path: Path) -> None:
    """Killed before it answers it may have claimed what was asked for: that is said, so that nobody asks twice."""
    with bind_control_socket(tmp_path / "control.sock", 0o600, None) as listener:

        def end() -> None:
            for _ in range(2):  # the client's knock, and its question
                listener.accept()[0].close()

        ending = threading.Thread(target=end)
        ending.start()
        with ControlClient(tmp_path / "control.sock") as client, pytest.raises(NoDaemonError) as caught:
            client.claim("products", {})
        ending.join()
    assert "ended before it answered" in str(caught.value)
    assert "erpsync runs" in caught.value.hint


async def test_identities_are_seen_and_asked(served: Any, socket_path: Path) -> None:
    """All of them, one by a name with any sign in it, one after a real request, and what an instance looks like."""
    assert [each["identity"] for each in await ask(socket_path, ControlClient.identities)] == ["night@acme"]
    one = await ask(socket_path, lambda client: client.identity("night@acme"))
    assert one == {"identity": "night@acme", "claims": {}}
    fetched = await ask(socket_path, lambda client: client.identity("night@acme", fetch=True))
    assert fetched["fetched"] == {"scope": ["read"]}
    assert await ask(socket_path, lambda client: client.examine("a b", api=True)) == [
        {"instance": "a b", "verdict": "ok"}
    ]
    assert served.heard == [("examine", "a b", True)]


@pytest.mark.parametrize(("name", "code"), [("refused", 77), ("away", 75), ("nigth@acme", 2)])
async def test_refusals_of_tokens_keep_their_exit_code(
    served: Any, socket_path: Path, name: str, code: int
) -> None:
    """What the identity server said ends the command as if it had asked itself; an unknown name is usage."""
    with pytest.raises(DaemonRefusedError) as caught:
        await ask(socket_path, lambda client: client.identity(name, fetch=True))
    assert code_of_error(caught.value) == code
