"""What a plugin raised, as a value that travels: out of an exception, in the daemon or in a child, to the verdict."""

import asyncio
import traceback
from datetime import timedelta
from typing import Literal

import httpx2
import msgspec

from erpsync.core.errors import (
    ErpsyncError,
    InvalidSettingsError,
    LicenseExhaustedError,
    RunCancelledError,
)
from erpsync.core.redaction import LONGEST_FOREIGN
from erpsync.plugins.contract import AuthFailed, ConfigProblem, Retry, Skip

_LONGEST_TRACE = 4 * LONGEST_FOREIGN
"""Characters that are kept of a trace, which holds the message too; a run's log shows less of it."""

Kind = Literal["error", "retry", "skip", "licence", "stopped", "lost"]


class Fault(msgspec.Struct, frozen=True):
    """Why an attempt gave no result.

    `kind` "skip" is `Skip`, "retry" is `Retry`, "licence" an exhausted licence, "stopped" an end that was asked for,
    "lost" the end of the process that held the attempt, "error" all the rest. `retry_after` is in seconds. `trace` is
    for the run's log only; nothing is redacted yet.
    """

    kind: Kind
    type: str
    message: str
    hint: str = ""
    retryable: bool = False
    retry_after: float | None = None
    trace: str = ""

    @classmethod
    def died(cls, message: str, hint: str = "") -> "Fault":
        """A child process that ended without a word."""
        return cls("error", "ChildDiedError", message, hint)


def fault_of(error: BaseException) -> Fault:
    """The fault that an exception stands for; of a group, its first permanent one decides."""
    try:
        return _fault_of(error)
    except BaseException:  # noqa: BLE001 - the attributes of a plugin's exception may do anything, too
        name = _sayable(type_name(error))[:LONGEST_FOREIGN]
        return Fault("error", name, "the plugin raised an error that cannot be read")


def _fault_of(error: BaseException) -> Fault:
    cause = _decisive(error)
    expected = isinstance(cause, ErpsyncError | Retry | Skip | AuthFailed | ConfigProblem)
    return Fault(
        kind=_kind(cause),
        type=_sayable(type_name(cause))[:LONGEST_FOREIGN],
        message=_sayable(_message(cause))[:LONGEST_FOREIGN],
        hint=_sayable(_hint(cause))[:LONGEST_FOREIGN],
        retryable=_retryable(cause),
        retry_after=_retry_after(cause),
        trace="" if expected else _sayable(_trace(error))[:_LONGEST_TRACE],
    )


def _trace(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except BaseException:  # noqa: BLE001 - an exception of a plugin may do anything when it is asked for its text
        return "".join(traceback.format_tb(error.__traceback__))


def type_name(value: object) -> str:
    """The name of its class, whatever that says of itself."""
    name: str = type.__dict__["__name__"].__get__(type(value))
    return name


def _sayable(text: str) -> str:
    """Without half characters, which names of files may hold and neither JSON nor a database takes."""
    return text.encode(errors="replace").decode()


def nonsense(value: object) -> Fault:
    """A plugin that returned something else than a result; None too, for a forgotten `return` is a mistake."""
    what = "nothing" if value is None else f"a value of type {type_name(value)}"
    return Fault(
        "error",
        "TypeError",
        f"the plugin returned {what}, not a JobResult",
        "end it with `return ctx.result()`",
    )


def unusable(error: Exception) -> Fault:
    """A plugin's result that cannot be told, and so not kept."""
    hint = "counts are whole numbers, note and cursor are short text"
    return Fault("error", "TypeError", f"the plugin's result cannot be used: {error}", hint)


def _decisive(error: BaseException) -> BaseException:
    if not isinstance(error, BaseExceptionGroup):
        return error
    leaves = [_decisive(part) for part in error.exceptions]
    return next((leaf for leaf in leaves if not _retryable(leaf) and _kind(leaf) != "stopped"), leaves[0])


def _kind(error: BaseException) -> Kind:
    if isinstance(error, Skip):
        return "skip"
    if isinstance(error, Retry):
        return "retry"
    if isinstance(error, LicenseExhaustedError):
        return "licence"
    return "stopped" if isinstance(error, RunCancelledError | asyncio.CancelledError) else "error"


def _message(error: BaseException) -> str:
    match error:
        case ErpsyncError():
            return error.message
        case SystemExit():
            return f"the plugin raised SystemExit({error.code!r})"
        case KeyboardInterrupt():
            return "the plugin raised KeyboardInterrupt"
        case asyncio.CancelledError():
            return "the plugin raised CancelledError, and nobody had cancelled it"
        case MemoryError():
            return "the plugin ran out of memory"
        case _:
            return _str(error) or f"the plugin raised {type_name(error)} without a message"


def _str(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:  # noqa: BLE001 - see `_trace`
        return ""


def _hint(error: BaseException) -> str:
    match error:
        case InvalidSettingsError(hint=""):
            return "erpsync check"
        case ErpsyncError():
            return error.hint
        case AuthFailed():
            return "look at the identity's credentials and rights on the other side"
        case ConfigProblem():
            return f'change "{error.key}" in the job\'s settings' if error.key else "erpsync check"
        case _:
            return ""


def _retryable(error: BaseException) -> bool:
    if isinstance(error, ErpsyncError):
        return error.retryable
    return isinstance(error, Retry | httpx2.TransportError | ConnectionError | TimeoutError)


def _retry_after(error: BaseException) -> float | None:
    after = error.after if isinstance(error, Retry) else getattr(error, "retry_after", None)
    return after.total_seconds() if isinstance(after, timedelta) else None
