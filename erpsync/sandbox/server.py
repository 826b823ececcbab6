"""The sandbox as a server: in a thread of its own for tests, in the foreground for the command line.

>>> with Sandbox() as sandbox:
...     httpx.get(f"{sandbox.url}/sys/auto-discovery")
"""

import signal
import threading
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Self

import msgspec

from erpsync.sandbox.behaviour import Behaviour
from erpsync.sandbox.faults import Fault
from erpsync.sandbox.filter import Sql
from erpsync.sandbox.instance import Instance
from erpsync.sandbox.listener import Server, listen
from erpsync.sandbox.model import SETS
from erpsync.sandbox.query import Projection, Query, page_sql
from erpsync.sandbox.sites import touch


class Sandbox:
    """An ERP.net-like instance on loopback. Its methods may be called from any thread, while it serves or not."""

    def __init__(
        self,
        port: int = 0,
        license_slots: int | None = None,
        token_ttl: int | None = None,
        rows: int = 1250,
        clock_scale: float = 1.0,
        database: str | None = None,
        behaviour: Behaviour | None = None,
    ) -> None:
        """Seeds `rows` products, unless the SQLite file `database` holds an earlier sandbox.

        Without `database` the rows live in a temporary one. `license_slots` (5) and `token_ttl` (3600 seconds) win
        over those of `behaviour`. With a `clock_scale` of 60 sessions last a 60th of their time;
        tokens live for `token_ttl` seconds whatever the scale.
        """
        self._port = port
        given = {"license_slots": license_slots, "token_ttl": token_ttl}
        changes = {name: value for name, value in given.items() if value is not None}
        behaviour = (behaviour or Behaviour()).changed(changes)
        self._instance = Instance(behaviour, rows=rows, clock_scale=clock_scale, database=database)
        self._server: Server | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._instance.database.close()

    @property
    def url(self) -> str:
        """The instance root, without a slash at its end."""
        return self._instance.url

    def start(self) -> None:
        """Returns when it accepts connections. Raises OSError when the port is taken."""
        listener = listen(self._port)
        self._port = listener.getsockname()[1]
        self._instance.url = f"http://127.0.0.1:{self._port}"
        self._server = Server(self._instance)
        self._thread = threading.Thread(
            target=self._server.run, args=([listener],), name="sandbox", daemon=True
        )
        self._thread.start()
        self._server.ready.wait()

    def stop(self) -> None:
        """Returns when it has stopped; open connections are closed. Stopping twice is fine; it can start again."""
        if self._server is not None and self._thread is not None:
            self._server.leave()
            self._thread.join()
        self._server = self._thread = None

    def serve_forever(self, on_ready: Callable[[str], object]) -> int:
        """Serves until SIGTERM or SIGINT; `on_ready` gets the URL. Returns the number of the signal.

        For the main thread of a process; other threads must not have these signals unblocked.
        """
        signals = {signal.SIGTERM, signal.SIGINT}
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        try:
            with self:
                on_ready(self.url)
                return int(signal.sigwait(signals))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def stats(self) -> dict[str, Any]:
        """The same as `GET /_sandbox/stats`; see `Instance.stats`."""
        return self._instance.stats()

    def sessions(self) -> list[dict[str, object]]:
        """The open sessions."""
        with self._instance.lock:
            return self._instance.sessions.listing()

    def fail(self, fault: Fault | Mapping[str, Any] | None = None, **fields: Any) -> None:
        """Arms a fault, given as such, as its JSON form, or by its fields. Raises msgspec.ValidationError."""
        if not isinstance(fault, Fault):
            fault = msgspec.convert(
                {**(fault or {}), **{key.rstrip("_"): value for key, value in fields.items()}}, Fault
            )
        with self._instance.lock:
            self._instance.faults.arm(fault)

    def clear_faults(self) -> None:
        """Disarms every fault."""
        with self._instance.lock:
            self._instance.faults.clear()

    @property
    def behaviour(self) -> Behaviour:
        """The switches as they are now."""
        return self._instance.behaviour

    def behave(self, **changes: Any) -> None:
        """Changes switches from now on. Raises ValueError for an unknown one."""
        with self._instance.lock:
            self._instance.behaviour = self._instance.behaviour.changed(changes)

    def advance(self, seconds: float) -> None:
        """Time passes for sessions, API transactions and tokens already issued."""
        with self._instance.lock:
            self._instance.clock.advance(seconds)

    def skew(self, seconds: float) -> None:
        """Puts the instance's wall clock ahead: the Date header, `iat` of tokens, update times of rows."""
        self._instance.clock.skew = seconds

    def occupy(self, slots: int) -> None:
        """Lets other people hold so many licence slots from now on."""
        with self._instance.lock:
            self._instance.sessions.occupy(slots)

    def register(
        self, client_id: str, secret: str | None = None, scope: str = "read update", **fields: Any
    ) -> None:
        """Adds or replaces a trusted application; `fields` are those of `applications.Application`."""
        with self._instance.lock:
            self._instance.identity.applications.register(client_id, secret, scope=scope, **fields)

    def set_secret(self, client_id: str, secret: str) -> None:
        """Rotates an application's secret."""
        with self._instance.lock:
            self._instance.identity.applications.set_secret(client_id, secret)

    def set_password(self, login: str, password: str) -> None:
        """Changes a person's password, which ends their refresh tokens. Raises KeyError."""
        with self._instance.lock:
            self._instance.identity.set_password(login, password)

    def reference_token(self, client_id: str, login: str | None = None, days: float | None = None) -> str:
        """Mints a reference token (`enrt_…`), for the application's system user unless a person is named."""
        with self._instance.lock:
            return self._instance.identity.reference_token(client_id, login, days)

    def revoke_tokens(self) -> None:
        """From now on no token issued so far is accepted: the API answers 401."""
        with self._instance.lock:
            self._instance.identity.tokens.revoke_all()

    def tokens(self) -> list[str]:
        """Every token ever issued, over or not, and the codes, verifiers and assertions that went with them: for
        tests that look where none may be."""
        with self._instance.lock:
            identity = self._instance.identity
            return [*identity.tokens.texts(), *identity.sign_ins.codes(), *identity.grants.proofs]

    def restart_sessions(self) -> None:
        """Forgets sessions and transactions, as a restart of the server does; tokens survive."""
        self._instance.restart()

    def rows(self, set_name: str) -> int:
        """How many rows a set has."""
        with self._instance.lock:
            sql = f'SELECT count(*) FROM "{SETS[set_name].name}"'  # noqa: S608 - a name of the model
            return int(self._instance.database.query(sql)[0][0])

    def read(self, set_name: str, *attributes: str) -> list[dict[str, Any]]:
        """All rows with these attributes, in page order, as the API would show them; numbers are Decimal."""
        sql = page_sql(SETS[set_name], Query(Projection(attributes), Sql("")))
        with self._instance.lock:
            rows = self._instance.database.query(sql.text, sql.values)
        decoder = msgspec.json.Decoder(float_hook=Decimal)
        return [decoder.decode(row[0]) for row in rows]

    def touch(self, set_name: str, count: int = 1) -> list[str]:
        """Saves the first rows as if somebody had changed them: version and update time rise. Returns their ids."""
        return touch(self._instance, set_name, count)

    def insert(self, set_name: str, **values: Any) -> str:
        """Creates a row by the rules of the API, and returns its id.

        Required references that are not given point at the first row there is.
        """
        with self._instance.lock:
            return self._instance.writer.post(SETS[set_name], self._with_references(set_name, values))

    def change(self, set_name: str, row_id: str, **values: Any) -> None:
        """Changes a row by the rules of the API."""
        with self._instance.lock:
            self._instance.writer.update(SETS[set_name], row_id, values)

    def delete(self, set_name: str, row_id: str) -> None:
        """Deletes a row by the rules of the API."""
        with self._instance.lock:
            self._instance.writer.delete(SETS[set_name], row_id)

    def _with_references(self, set_name: str, values: Mapping[str, Any]) -> dict[str, Any]:
        missing = [
            item
            for item in SETS[set_name].attributes.values()
            if item.kind == "ref" and "required" in item.flags and item.name not in values
        ]
        first = 'SELECT id FROM "{}" ORDER BY sort LIMIT 1'
        query = self._instance.database.query
        found = {item.name: f"{item.target}({query(first.format(item.target))[0][0]})" for item in missing}
        return {**{name: {"@odata.id": reference} for name, reference in found.items()}, **values}
