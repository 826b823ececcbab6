"""Sessions and licence slots at a sandbox: a real token manager, real sockets and a real ledger, in virtual time."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import httpx2
import pytest

from erpsync.core.clock import ManualClock
from erpsync.core.errors import BusinessRuleError, LicenseExhaustedError, StoreError, UnreachableError
from erpsync.core.instance import GrantKind, Identity
from erpsync.core.redaction import Redactor
from erpsync.core.token import AccessToken, Auth
from erpsync.erpnet.client import ErpClient
from erpsync.erpnet.gate import SessionGate
from erpsync.erpnet.sites import SiteDirectory
from erpsync.erpnet.slots import SlotBook
from erpsync.erpnet.transport import LASTING, AuthorizedTransport
from erpsync.identity.client import TokenClient
from erpsync.identity.client_credentials import ClientCredentialsSource
from erpsync.identity.gate import ServerGates
from erpsync.identity.manager import TokenManager
from erpsync.identity.metadata import MetadataSource
from erpsync.sandbox.identity import CLIENT_ID, CLIENT_SECRET
from erpsync.sandbox.server import Sandbox
from erpsync.store.sessions import read_sessions, write_sessions
from erpsync.store.state import Store
from tests.erpnet.conftest import PRODUCTS, TLS

MINUTE = 60.0


class House:
    """One daemon's sessions at the sandbox; `pass_time` moves its clock and the sandbox's together."""

    def __init__(self, sandbox: Sandbox, folder: Path, slots: int = 1) -> None:
        self.sandbox = sandbox
        self.folder = folder
        self.slots = slots
        self.clock = ManualClock()
        self.events: list[tuple[str, dict[str, object]]] = []
        self.managers: dict[str, TokenManager] = {}
        self.gates: list[SessionGate] = []
        self.base = httpx2.AsyncHTTPTransport(verify=TLS)
        self.client = httpx2.AsyncClient(transport=self.base)
        self.directory = SiteDirectory(self.client, sandbox.url, clock=self.clock)
        self.store = Store.open(folder / "state.db")
        self.start()

    def emit(self, event: str, /, *, level: str = "info", **fields: object) -> None:
        self.events.append((event, fields))

    def told(self, event: str) -> list[dict[str, object]]:
        return [fields for name, fields in self.events if name == event]

    def start(self) -> None:
        """A new life of the process on the same ledger; token managers stay, as with sealed tokens."""
        self.book = SlotBook("acme", self.slots, self.clock, self.emit)
        self.book.load(self.store.read_now(read_sessions))

    def tokens(self, name: str, client_id: str = CLIENT_ID, secret: str = CLIENT_SECRET) -> TokenManager:
        if name not in self.managers:
            identity = Identity(name, "acme", client_id, (), scope=("read", "update"))
            token_client = TokenClient(
                identity,
                metadata=MetadataSource(self.client, self.directory.identity_url, clock=self.clock),
                secrets=lambda: [secret],
                client=self.client,
                gates=ServerGates(self.clock),
                clock=self.clock,
                emit=self.emit,
                redactor=Redactor(),
            )
            self.managers[name] = TokenManager(
                identity,
                ClientCredentialsSource(token_client),
                clock=self.clock,
                emit=self.emit,
                redactor=Redactor(),
                renewal="late",
            )
        return self.managers[name]

    def erp(
        self, name: str = "night", auth: Auth | None = None, grant: GrantKind = "client_credentials"
    ) -> ErpClient:
        gate = SessionGate(
            name,
            grant,
            auth or self.tokens(name),
            self.book,
            store=self.store,
            clock=self.clock,
            emit=self.emit,
        )
        self.gates.append(gate)
        transport = AuthorizedTransport(
            base=self.base,
            auth=gate,
            origins=self.directory.origins,
            clock=self.clock,
            emit=self.emit,
            instance="acme",
        )
        http = httpx2.AsyncClient(transport=transport)
        return ErpClient(http, self.directory.odata_root, emit=self.emit, clock=self.clock)

    def pass_time(self, seconds: float) -> None:
        self.sandbox.advance(seconds)
        self.clock.advance(timedelta(seconds=seconds))

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110 - sockets and files tell nobody
                await asyncio.sleep(0.002)

    @property
    def requests(self) -> int:
        return sum(self.sandbox.stats()["token_requests"].values())

    async def close(self) -> None:
        for closing in (*self.gates, *self.managers.values()):
            await closing.close()
        await self.client.aclose()
        self.store.close()


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """An instance whose sessions age only when time is passed."""
    with Sandbox(rows=20, clock_scale=0.0) as sandbox:
        yield sandbox


@pytest.fixture
async def house(sandbox: Sandbox, tmp_path: Path) -> AsyncIterator[House]:
    house = House(sandbox, tmp_path)
    yield house
    await house.close()


@pytest.fixture
async def roomy(sandbox: Sandbox, tmp_path: Path) -> AsyncIterator[House]:
    """With two licence slots."""
    house = House(sandbox, tmp_path, slots=2)
    yield house
    await house.close()


async def busy_until(house: House, erp: ErpClient, minute: float) -> None:
    """Calls every ten minutes, so that the session does not end for idleness."""
    while house.clock.boot() + 10 * MINUTE < minute * MINUTE:
        house.pass_time(10 * MINUTE)
        await erp.count(PRODUCTS)
    house.pass_time(minute * MINUTE - house.clock.boot())


async def test_thousand_runs_open_one_session(house: House) -> None:
    """A thousand calls at once take one token, one session, and two writes of the ledger."""
    erp = house.erp()
    calls = asyncio.Semaphore(100)

    async def call() -> int:
        async with calls:
            return await erp.count(PRODUCTS)

    assert set(await asyncio.gather(*(call() for _ in range(1000)))) == {20}
    stats = house.sandbox.stats()
    assert (house.requests, stats["sessions_opened"], stats["violations"]) == (1, 1, 0)
    (session,) = house.store.read_now(read_sessions)
    assert (session.identity, session.kind) == ("night", "service")
    assert len(house.told("session.opened")) == 1


async def test_prepared_run_opens_its_session_without_asking(house: House) -> None:
    """The token asked for before a run starts is young enough for its session; while one is open nothing is asked."""
    erp, gate = house.erp(), house.gates[-1]
    await house.tokens("night").token()
    house.pass_time(10 * MINUTE)
    await gate.prepare()
    assert house.requests == 2
    house.pass_time(35)
    await erp.count(PRODUCTS)
    house.pass_time(MINUTE)
    await gate.prepare()
    await erp.count(PRODUCTS)
    assert (house.requests, house.sandbox.stats()["sessions_opened"]) == (2, 1)
    house.start()
    await house.erp().count(PRODUCTS)
    await house.gates[-1].prepare()
    assert (house.requests, house.sandbox.stats()["sessions_opened"]) == (2, 1)


@pytest.mark.parametrize(("age", "requests"), [(59, 1), (61, 2)])
async def test_a_session_is_opened_with_a_token_of_the_last_minute(
    house: House, age: float, requests: int
) -> None:
    """An older one would end its session early, and the seam would come before its time."""
    await house.tokens("night").token()
    await house.directory.odata_root()
    house.pass_time(age)
    await house.erp().count(PRODUCTS)
    assert house.requests == requests


async def test_prepared_for_a_session_that_is_over_at_the_start(house: House) -> None:
    """A session that will have been idle for too long when the run starts is no reason to have no token then."""
    erp, gate = house.erp(), house.gates[-1]
    await erp.count(PRODUCTS)
    house.pass_time(19.5 * MINUTE)
    await gate.prepare()
    assert house.requests == 2
    house.pass_time(35)
    await erp.count(PRODUCTS)
    assert (house.requests, house.sandbox.stats()["sessions_opened"]) == (2, 2)


async def test_open_session_costs_no_write(house: House) -> None:
    """Within a minute the ledger has said ahead that the session is used: calls write nothing."""
    erp = house.erp()
    await erp.count(PRODUCTS)
    await house.until(lambda: house.store.read_now(read_sessions)[0].opened_at == house.clock.now())
    (before,) = house.store.read_now(read_sessions)
    house.pass_time(59)
    await erp.count(PRODUCTS)
    assert house.store.read_now(read_sessions) == [before]
    house.pass_time(2)
    await erp.count(PRODUCTS)
    (after,) = house.store.read_now(read_sessions)
    assert after.used_at - house.clock.now() == timedelta(seconds=60)
    assert after.opened_at == before.opened_at


async def test_seam_with_one_slot(house: House, sandbox: Sandbox) -> None:
    """A minute before the end calls pause; the first one after it opens the next session: never two, no refusal."""
    sandbox.behave(license_slots=1)
    erp = house.erp()
    await erp.count(PRODUCTS)
    await busy_until(house, erp, 59.5)
    pausing = asyncio.gather(*(erp.count(PRODUCTS) for _ in range(20)))
    await house.until(lambda: house.told("license.waiting"))
    for _ in range(62):
        assert not pausing.done()
        house.pass_time(0.5)
        await asyncio.sleep(0.003)
    await house.until(lambda: house.pass_time(0.2) or pausing.done())
    assert set(await pausing) == {20}
    stats = sandbox.stats()
    assert (stats["sessions_opened"], stats["max_sessions_open"], stats["licenses_refused"]) == (2, 1, 0)
    assert (house.requests, stats["violations"]) == (2, 0)
    assert house.clock.boot() < 61.2 * MINUTE


async def test_no_pause_with_a_second_slot(roomy: House, sandbox: Sandbox) -> None:
    """With a slot to spare the next session opens at the seam at once; all calls change over together."""
    erp = roomy.erp()
    await erp.count(PRODUCTS)
    await busy_until(roomy, erp, 59.2)
    assert await asyncio.gather(*(erp.count(PRODUCTS) for _ in range(20))) == [20] * 20
    stats = sandbox.stats()
    assert (stats["sessions_opened"], roomy.requests, stats["violations"]) == (2, 2, 0)
    assert roomy.book.use().in_use == 2
    roomy.pass_time(3 * MINUTE)
    assert roomy.book.use().in_use == 1


async def test_transaction_passes_the_seam(roomy: House, sandbox: Sandbox) -> None:
    """Calls of an open API transaction go on with the old token while it lives; nothing else opens beside them."""
    erp = roomy.erp()
    await erp.count(PRODUCTS)
    await busy_until(roomy, erp, 58)
    async with erp.transaction(expected=timedelta(seconds=30)) as inside:
        roomy.pass_time(90)
        assert await inside.count(PRODUCTS) == 20
        outside = asyncio.create_task(erp.count(PRODUCTS))
        await asyncio.sleep(0.05)
        assert not outside.done()
        assert sandbox.stats()["sessions_opened"] == 1
    await roomy.until(lambda: roomy.pass_time(0.3) or outside.done())
    assert await outside == 20
    stats = sandbox.stats()
    assert (stats["sessions_opened"], stats["violations"]) == (2, 0)


async def test_rejected_commit_leaves_the_next_transaction_its_session(
    roomy: House, sandbox: Sandbox
) -> None:
    """A commit that was refused and its roll-back end one transaction: the next one keeps others from the seam."""
    erp = roomy.erp()
    sandbox.fail(where="api", times=1, status=500, error={"message": "R1234"}, path="*EndTransaction")
    with pytest.raises(BusinessRuleError):
        async with erp.transaction():
            pass
    (lease,) = roomy.book.leases
    assert not lease.transactions
    await busy_until(roomy, erp, 58)
    async with erp.transaction(expected=timedelta(seconds=30)):
        roomy.pass_time(90)
        outside = asyncio.create_task(erp.count(PRODUCTS))
        await asyncio.sleep(0.05)
        assert sandbox.stats()["sessions_opened"] == 1
    await roomy.until(lambda: roomy.pass_time(0.3) or outside.done())
    assert await outside == 20


async def test_transaction_begins_where_it_fits(house: House, sandbox: Sandbox) -> None:
    """One that may last beyond the seam waits for the next session; other calls go on in this one meanwhile."""
    erp = house.erp()
    await erp.count(PRODUCTS)
    await busy_until(house, erp, 55)

    async def write() -> int:
        async with erp.transaction(expected=timedelta(minutes=5)) as inside:
            return await inside.count(PRODUCTS)

    writing = asyncio.create_task(write())
    await house.until(lambda: house.told("license.waiting"))
    assert await erp.count(PRODUCTS) == 20
    assert not writing.done()
    await house.until(lambda: house.pass_time(2) or writing.done())
    assert await writing == 20
    assert (sandbox.stats()["sessions_opened"], sandbox.stats()["max_sessions_open"]) == (2, 1)
    assert house.clock.boot() < 61.5 * MINUTE


@pytest.mark.parametrize("step", [timedelta(minutes=-30), timedelta(minutes=30)])
async def test_clock_steps_before_the_session(house: House, step: timedelta) -> None:
    """A wall clock set right between token and first call moves no seam: the token ends when its server says."""
    erp = house.erp()
    await house.tokens("night").token()
    house.pass_time(20)
    house.clock.step(step)
    await erp.count(PRODUCTS)
    (lease,) = house.book.leases
    end = 60 * MINUTE + (
        0 if step < timedelta(0) else 20
    )  # set ahead, the token looked too old to open a session
    assert lease.over == pytest.approx(end, abs=1)
    assert lease.seam == pytest.approx(end - MINUTE, abs=1)


async def test_idle_session_is_followed_by_a_fresh_one(house: House, sandbox: Sandbox) -> None:
    """After twenty idle minutes the next call opens a session with a token of its own, so both end together."""
    erp = house.erp()
    await erp.count(PRODUCTS)
    house.pass_time(21 * MINUTE)
    await erp.count(PRODUCTS)
    assert (house.requests, sandbox.stats()["sessions_opened"]) == (2, 2)
    assert [each["reason"] for each in house.told("session.ended")] == ["over"]


async def test_token_lives_on_while_the_identity_server_is_away(house: House, sandbox: Sandbox) -> None:
    """A session is opened with an older token rather than not at all when no other can be had."""
    erp = house.erp()
    await erp.count(PRODUCTS)
    house.pass_time(21 * MINUTE)
    sandbox.fail(where="token", status=503, times=-1)
    calling = asyncio.create_task(erp.count(PRODUCTS))
    await house.until(lambda: house.pass_time(0.5) or calling.done())
    assert await calling == 20
    assert sandbox.stats()["sessions_opened"] == 2


async def test_outage_across_the_seam(house: House, sandbox: Sandbox) -> None:
    """A successor was fetched some minutes before: the next session is opened with it while the identity server is
    away, and only then; no call fails."""
    erp = house.erp()
    await erp.count(PRODUCTS)
    await busy_until(house, erp, 55)
    await erp.count(PRODUCTS)
    assert house.requests == 1
    house.pass_time(MINUTE + 1)
    await erp.count(PRODUCTS)
    await house.until(lambda: house.requests == 2)
    house.pass_time(MINUTE)
    await erp.count(PRODUCTS)
    assert (house.requests, sandbox.stats()["sessions_opened"]) == (2, 1)
    spare = house.tokens("night").held
    sandbox.fail(where="token", status=503, times=-1)
    house.pass_time(2 * MINUTE + 10)
    calling = asyncio.gather(*(erp.count(PRODUCTS) for _ in range(20)))
    await house.until(lambda: house.pass_time(0.5) or calling.done())
    assert await calling == [20] * 20
    assert house.tokens("night").held is spare
    stats = sandbox.stats()
    assert (stats["sessions_opened"], stats["max_sessions_open"], stats["violations"]) == (2, 1, 0)


async def test_successor_is_asked_for_again(house: House, sandbox: Sandbox) -> None:
    """With the identity server away before the seam calls go on, and a successor is asked for twice a minute."""
    erp = house.erp()
    await erp.count(PRODUCTS)
    await busy_until(house, erp, 56.1)
    sandbox.fail(where="token", status=503, times=1)
    await erp.count(PRODUCTS)
    await house.until(lambda: house.told("token.renewal_failed"))
    for _ in range(10):
        await erp.count(PRODUCTS)
    assert house.requests == 2
    house.pass_time(31)
    await erp.count(PRODUCTS)
    await house.until(lambda: house.requests == 3)
    assert sandbox.stats()["sessions_opened"] == 1


async def test_refused_token_still_counts(house: House, sandbox: Sandbox) -> None:
    """After a 401 in an open session its slot is taken until its end: with one slot the run waits for that."""
    erp = house.erp()
    await erp.count(PRODUCTS)
    house.pass_time(5 * MINUTE)
    sandbox.revoke_tokens()
    with pytest.raises(LicenseExhaustedError, match="night until") as caught:
        await erp.count(PRODUCTS)
    assert "401" in caught.value.hint
    assert "seal_key" not in caught.value.hint
    wait = caught.value.retry_after
    assert wait is not None
    assert wait.total_seconds() == pytest.approx(15 * MINUTE, abs=10)  # it is used no more, so it idles out
    house.pass_time(wait.total_seconds() + 5)
    assert await erp.count(PRODUCTS) == 20
    stats = sandbox.stats()
    assert (stats["max_sessions_open"], stats["sessions_opened"], house.requests) == (1, 2, 2)


async def test_single_401_gives_no_session_up(house: House, sandbox: Sandbox) -> None:
    """A 401 that does not come twice costs neither token nor slot, in reads and in writes."""
    erp = house.erp()
    await erp.count(PRODUCTS)
    for _ in range(3):
        sandbox.fail(where="api", status=401, times=1)
        assert await erp.count(PRODUCTS) == 20
        sandbox.fail(where="api", status=401, times=1)
        async with erp.transaction() as inside:
            assert await inside.count(PRODUCTS) == 20
    stats = sandbox.stats()
    assert (house.requests, stats["sessions_opened"], stats["max_sessions_open"]) == (1, 1, 1)
    assert not house.told("token.invalidated")


async def test_fifty_401_cost_one_renewal_and_one_session(roomy: House, sandbox: Sandbox) -> None:
    """T35 through the gate: fifty calls at once are replayed in one new session, with one new token."""
    erp = roomy.erp()
    await erp.count(PRODUCTS)
    sandbox.revoke_tokens()
    assert set(await asyncio.gather(*(erp.count(PRODUCTS) for _ in range(50)))) == {20}
    stats = sandbox.stats()
    assert (roomy.requests, stats["sessions_opened"], stats["max_sessions_open"]) == (2, 2, 2)


async def test_refused_first_call_opens_nothing(house: House, sandbox: Sandbox) -> None:
    """A 401 to the very first call leaves the slot free: the renewed token takes it at once."""
    await house.tokens("night").token()
    sandbox.revoke_tokens()
    assert set(await asyncio.gather(*(house.erp().count(PRODUCTS) for _ in range(1)))) == {20}
    assert sandbox.stats()["sessions_opened"] == 1
    assert len(house.store.read_now(read_sessions)) == 1


SHAPES = [
    {"status": 500, "error": {"message": "MaximumLicenseCountExceeded: all licenses are in use."}},
    {"status": 401, "error": {"message": "MaximumLicenseCountExceeded"}},
    {"status": 403, "body": {"message": "x", "type": "Aloe.MaximumLicenseCountExceededException", "code": 1}},
    {"status": 503, "raw": "<html><h1>MaximumLicenseCountExceeded</h1></html>"},
    {"status": 400, "raw": "MaximumLicenseCountExceeded"},
    {"status": 200, "error": {"message": "MaximumLicenseCountExceeded: all licenses are in use."}},
    {"status": 200, "raw": "<html><h1>MaximumLicenseCountExceeded</h1></html>"},
    {"status": 200, "raw": f"<html>{' ' * 70_000}<h1>MaximumLicenseCountExceeded</h1></html>"},
    {"status": 200, "body": {"error": "MaximumLicenseCountExceeded"}},
    {"status": 200, "body": {"Message": "MaximumLicenseCountExceeded"}},
    {"status": 200, "body": {"error": {"message": {"value": "MaximumLicenseCountExceeded"}}}},
    {"status": 200, "body": ["MaximumLicenseCountExceeded"]},
    {"status": 302, "raw": "<html><h1>MaximumLicenseCountExceeded</h1></html>"},
    {"status": 302, "headers": {"location": "/id/error?why=Maximum%20License+Count%20Exceeded"}},
    {
        "status": 401,
        "headers": {
            "www-authenticate": 'Bearer error="access_denied", '
            'error_description="MaximumLicenseCountExceeded: all in use"'
        },
    },
    {"status": 500, "raw": "maximumlicensecountexceeded"},
    {"status": 500, "raw": "Maximum license\n count exceeded."},
    {"status": 500, "raw": '{"error": {"message": "\\u004daximumLicenseCountExceeded"}}'},
]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape['status']}-{[*shape][1]}")
async def test_full_licence_waits_in_minutes(
    house: House, sandbox: Sandbox, shape: dict[str, object]
) -> None:
    """In any shape it opens nothing, renews nothing, and is asked again after 1, 2, 4 … 20 minutes, once for all."""
    sandbox.fail(where="api", times=-1, **shape)
    erp = house.erp()
    for minutes in (1, 2, 4, 8, 16, 20, 20):
        before = sandbox.stats()["api_requests"]
        for _ in range(3):
            with pytest.raises(LicenseExhaustedError) as caught:
                await asyncio.wait_for(
                    erp.count(PRODUCTS), 20
                )  # else it would be asked again in virtual time
            wait = caught.value.retry_after
            assert wait is not None
            assert wait.total_seconds() == pytest.approx(minutes * MINUTE, abs=2)
        assert sandbox.stats()["api_requests"] - before <= 1
        house.pass_time(minutes * MINUTE + 1)
    await house.until(lambda: not house.store.read_now(read_sessions))
    assert not house.told("token.invalidated")
    sandbox.clear_faults()
    assert await erp.count(PRODUCTS) == 20


@pytest.mark.parametrize(
    "more", [{}, {"@odata.context": "$metadata#X", "Message": "Maximum license count exceeded"}]
)
async def test_data_may_speak_of_licences(house: House, sandbox: Sandbox, more: dict[str, str]) -> None:
    """A row in which somebody wrote of a full licence is a row, and its call has opened a session."""
    note = {**more, "value": [{"Notes": "MaximumLicenseCountExceeded: asked support", "error": "no"}]}
    sandbox.fail(where="api", times=1, status=200, raw=json.dumps(note), path="*" + PRODUCTS + "*")
    page = await house.erp().one_page(PRODUCTS)
    assert list(page) == note["value"]
    assert len(house.told("session.opened")) == 1


async def test_nobody_listening_opens_nothing(house: House, sandbox: Sandbox) -> None:
    """Where no connection comes about no slot is held."""
    erp = house.erp()
    await house.tokens("night").token()
    await house.directory.origins()
    sandbox.stop()
    calling = asyncio.create_task(erp.count(PRODUCTS))
    await house.until(lambda: house.pass_time(1) or calling.done())
    with pytest.raises(UnreachableError):
        await calling
    assert house.book.use().in_use == 0
    await house.until(lambda: not house.store.read_now(read_sessions))


async def test_unanswered_first_call_may_have_opened(house: House, sandbox: Sandbox) -> None:
    """A connection that broke before any answer leaves a session that may be open: it is counted."""
    sandbox.fail(where="api", reset=True, path="*count*")
    calling = asyncio.create_task(house.erp().count(PRODUCTS))
    await house.until(lambda: house.book.leases and house.book.leases[0].doubtful)
    assert house.book.use().in_use == 1
    await house.until(lambda: house.pass_time(1) or calling.done())
    assert await calling == 20
    assert sandbox.stats()["sessions_opened"] == 1


async def test_ledger_is_written_before_the_first_call(house: House, sandbox: Sandbox) -> None:
    """What cannot be written down is not opened."""
    erp = house.erp()
    await house.directory.origins()
    with house.store._writers.begin() as connection:  # type: ignore[union-attr]
        connection.exec_driver_sql("DROP TABLE session")
    with pytest.raises(StoreError):
        await erp.count(PRODUCTS)
    assert sandbox.stats()["sessions_opened"] == 0
    assert house.book.use().in_use == 0


async def test_restart_with_the_token_goes_on_in_the_session(house: House, sandbox: Sandbox) -> None:
    """Twenty restarts within the hour, the token kept: one session, one token."""
    for _ in range(20):
        house.start()
        assert await house.erp().count(PRODUCTS) == 20
        house.pass_time(2 * MINUTE)
    assert (sandbox.stats()["sessions_opened"], house.requests) == (1, 1)


async def test_restart_without_the_token_keeps_the_promise(house: House, sandbox: Sandbox) -> None:
    """The session of the former life holds the slot until its end; it was promised to be used a minute longer."""
    await house.erp().count(PRODUCTS)
    house.managers.clear()
    house.pass_time(1)
    house.start()
    erp = house.erp()
    with pytest.raises(LicenseExhaustedError) as caught:
        await erp.count(PRODUCTS)
    assert "seal_key" in caught.value.hint
    wait = caught.value.retry_after
    assert wait is not None
    assert wait.total_seconds() == pytest.approx(21 * MINUTE, abs=5)
    house.pass_time(wait.total_seconds())
    assert await erp.count(PRODUCTS) == 20
    assert sandbox.stats()["max_sessions_open"] == 1


async def test_opening_that_was_cut_off_is_remembered(house: House) -> None:
    """Killed between the note and the answer: whatever was opened has ended 21 minutes later."""
    await house.erp().count(PRODUCTS)
    (session,) = house.store.read_now(read_sessions)
    promised = house.clock.now() + timedelta(seconds=60)
    house.store.write_now(write_sessions, replace(session, opened_at=promised, used_at=promised))
    house.start()
    (kept,) = house.book.use().sessions
    assert kept.ends_at == promised + timedelta(minutes=20)
    house.pass_time(21.6 * MINUTE)
    assert house.book.use().in_use == 0


async def test_another_identity_waits_for_the_end_and_a_margin(house: House, sandbox: Sandbox) -> None:
    """A slot belongs to its identity until its session's end + 30 s; then the other one gets it."""
    sandbox.register("other", "other-secret")
    await house.erp().count(PRODUCTS)
    other = house.erp("other", house.tokens("other", "other", "other-secret"))
    with pytest.raises(LicenseExhaustedError) as caught:
        await other.count(PRODUCTS)
    wait = caught.value.retry_after
    assert wait is not None
    assert wait.total_seconds() == pytest.approx(20 * MINUTE + 30, abs=3)
    house.pass_time(20 * MINUTE + 30)
    assert await other.count(PRODUCTS) == 20
    assert sandbox.stats()["max_sessions_open"] == 1


class Given:
    """A token that somebody made by hand."""

    def __init__(self, value: str, house: House) -> None:
        now = house.clock.now()
        self.given = AccessToken(value, 1, now, now + timedelta(days=90))

    async def token(
        self, *, min_valid: timedelta = timedelta(0), max_age: timedelta | None = None
    ) -> AccessToken:
        return self.given

    def invalidate(self, version: int, reason: str) -> None:
        pass


async def test_reference_token_has_no_seam(house: House, sandbox: Sandbox) -> None:
    """The same token opens again by itself, after the hour and after idleness, and holds one slot all the time."""
    erp = house.erp("pat", Given(sandbox.reference_token(CLIENT_ID), house), "reference_token")
    for _ in range(15):
        assert await erp.count(PRODUCTS) == 20
        house.pass_time(9 * MINUTE)
        assert house.book.use().in_use == 1
    house.pass_time(21 * MINUTE)
    assert house.book.use().in_use == 0
    assert await erp.count(PRODUCTS) == 20
    stats = sandbox.stats()
    assert (stats["max_sessions_open"], stats["licenses_refused"]) == (1, 0)
    assert stats["sessions_opened"] >= 3


async def test_second_401_is_final(roomy: House, sandbox: Sandbox) -> None:
    """A fresh token that is refused too is not asked for again and again."""
    sandbox.fail(where="api", status=401, times=-1)
    erp = roomy.erp()
    for _ in range(5):
        with pytest.raises(Exception, match="401"):
            await erp.count(PRODUCTS)
    assert roomy.requests == 2


async def test_cancelled_caller_harms_nobody(house: House, sandbox: Sandbox) -> None:
    """Whoever waits for the opening of a session may go away; the others get it."""
    erp = house.erp()
    sandbox.fail(where="token", delay_ms=50, pass_=True)
    first = asyncio.create_task(erp.count(PRODUCTS))
    second = asyncio.create_task(erp.count(PRODUCTS))
    await asyncio.sleep(0.02)
    first.cancel()
    assert await second == 20
    assert (sandbox.stats()["sessions_opened"], house.requests) == (1, 1)


async def test_what_is_meant_for_the_gate_is_not_sent(house: House, sandbox: Sandbox) -> None:
    """How long a transaction may last is said to the gate alone."""
    erp, seen = house.erp(), []
    send = house.base.handle_async_request

    async def seeing(request: httpx2.Request) -> httpx2.Response:
        seen.append(request.headers.keys())
        return await send(request)

    house.base.handle_async_request = seeing  # type: ignore[method-assign]
    async with erp.transaction() as inside:
        await inside.count(PRODUCTS)
    bare = AuthorizedTransport(
        base=house.base, auth=None, origins=frozenset(), clock=house.clock, emit=house.emit, instance="acme"
    )
    async with httpx2.AsyncClient(transport=bare) as client:
        await client.get(sandbox.url, headers={LASTING: "300"})
    assert len(seen) >= 4
    assert not [names for names in seen if LASTING in names]
