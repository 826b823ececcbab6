"""The state of one sandbox instance and the one lock that guards it."""

import threading
from datetime import UTC, datetime

from erpsync.sandbox.behaviour import Behaviour
from erpsync.sandbox.data import Database
from erpsync.sandbox.faults import Faults
from erpsync.sandbox.identity import Identity
from erpsync.sandbox.seed import seed
from erpsync.sandbox.sessions import Clock, Sessions
from erpsync.sandbox.transactions import Transactions
from erpsync.sandbox.writes import Writer


class Instance:
    """Everything the sites share. Read and change it only while holding `lock`."""

    def __init__(self, behaviour: Behaviour, *, rows: int, clock_scale: float, database: str | None) -> None:
        self.lock = threading.RLock()
        self.url = ""
        self.behaviour = behaviour
        self.clock = Clock(clock_scale)
        self.sessions = Sessions(self.clock)
        self.transactions = Transactions(self.clock)
        self.faults = Faults()
        self.api_requests = 0
        self.token_requests_now = 0
        self.most_token_requests = 0
        self.database = Database(database)
        if self.database.is_new:
            seed(self.database, rows)
        self.identity = Identity(self.clock, self.database, self.sessions)
        self.writer = Writer(self.database, self.now_text, lambda: self.behaviour.version_conflict_status)

    @property
    def issuer(self) -> str:
        """The authority, exactly as in the tokens."""
        return f"{self.url}/id"

    @property
    def service_root(self) -> str:
        """The root of the Domain API, with its slash."""
        return f"{self.url}/api/domain/odata/"

    def now_text(self) -> str:
        """The instance's wall clock as update times are written: UTC, to the millisecond."""
        moment = datetime.fromtimestamp(self.clock.wall(), UTC)
        return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"

    def restart(self) -> None:
        """Forgets sessions and transactions, as a restart of the server does; tokens survive."""
        with self.lock:
            self.sessions.end_all()
            self.transactions.end_all()

    def stats(self) -> dict[str, object]:
        """What was counted so far.

        `token_requests` and `tokens_issued` are by client id, `most_token_requests_at_once` is how many were under
        way together; `violations` is the sum of `violations_by_kind`: `parallel_tokens` (requests under an older
        token of a service while a newer one is in use), `end_session` (a service called the log-out endpoint),
        `session_cycled` (a token of somebody who signed out), `mixed_credentials` (two credentials in one request).
        A request refused for want of a licence slot is no violation; `licenses_refused` counts those.
        """
        with self.lock:
            sessions = self.sessions
            return {
                "token_requests": dict(self.identity.requests),
                "most_token_requests_at_once": self.most_token_requests,
                "tokens_issued": dict(self.identity.tokens.issued),
                "sessions_opened": sessions.opened_total,
                "sessions_open": len(sessions.listing()),
                "max_sessions_open": sessions.most_open,
                "license_slots": self.behaviour.license_slots,
                "licenses_refused": sessions.refused_total,
                "api_requests": self.api_requests,
                "violations": sessions.violations.total(),
                "violations_by_kind": dict(sessions.violations),
            }
