"""API transactions: writes kept aside until EndTransaction (data-manipulation/transactions.md)."""

import uuid
from dataclasses import dataclass, field
from typing import Final

from erpsync.sandbox.data import Images
from erpsync.sandbox.errors import ErpError
from erpsync.sandbox.sessions import Clock

LIFE_SECONDS: Final = 25 * 60


@dataclass(frozen=True, slots=True)
class Transaction:
    """An open transaction. `opened` is a reading of `Clock.elapsed`."""

    opened: float
    images: Images = field(default_factory=dict)


class Transactions:
    """The open API transactions."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._open: dict[str, Transaction] = {}

    def begin(self) -> str:
        """Opens one. Returns its id, 32 lower-case hexadecimal digits."""
        transaction_id = uuid.uuid4().hex
        self._open[transaction_id] = Transaction(self._clock.elapsed())
        return transaction_id

    def find(self, transaction_id: str) -> Transaction:
        """The open transaction. Raises ErpError when there is none, or its time is over."""
        transaction = self._open.get(transaction_id)
        if transaction is None or self._clock.elapsed() - transaction.opened >= LIFE_SECONDS:
            self._open.pop(transaction_id, None)
            raise ErpError(f"Invalid TransactionId {transaction_id}", kind="InvalidOperationException")
        return transaction

    def end(self, transaction_id: str) -> Transaction:
        """Takes the transaction away and returns it, for commit or for nothing."""
        transaction = self.find(transaction_id)
        del self._open[transaction_id]
        return transaction

    def end_all(self) -> None:
        """What a restart of the server does."""
        self._open.clear()
