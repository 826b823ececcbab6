"""Exit codes: the one place that says which error and which outcome ends the program how (design section 4)."""

from collections.abc import Collection, Mapping
from enum import IntEnum

from erpsync.core import errors
from erpsync.core.run import Outcome


class ExitCode(IntEnum):
    """What a shell or a service manager sees."""

    FINE = 0
    FAILED = 1
    USAGE = 2
    PARTIAL = 3
    NOT_RUN = 4
    NO_DAEMON = 69
    FAULT = 70
    TEMPORARY = 75
    REFUSED = 77
    CONFIGURATION = 78


_BY_NAME = {
    "AuthFailed": ExitCode.REFUSED,
    "ConfigProblem": ExitCode.CONFIGURATION,
    "IdentityError": ExitCode.REFUSED,
}
"""What plugins raise that is no error of ours, and an error whose subclasses end otherwise."""

_BY_CLASS: tuple[tuple[type[errors.ErpsyncError], ExitCode], ...] = (
    (errors.UsageError, ExitCode.USAGE),
    (errors.ConfigError, ExitCode.CONFIGURATION),
    (errors.ParkedJobError, ExitCode.CONFIGURATION),
    (errors.PluginLoadError, ExitCode.CONFIGURATION),
    (errors.InvalidSettingsError, ExitCode.CONFIGURATION),
    (errors.StoreCorruptError, ExitCode.CONFIGURATION),
    (errors.SchemaMismatchError, ExitCode.CONFIGURATION),
    (errors.NotAStateError, ExitCode.CONFIGURATION),
    (errors.NoDaemonError, ExitCode.NO_DAEMON),
    (errors.ControlRefusedError, ExitCode.REFUSED),
    (errors.DemoFailedError, ExitCode.FAILED),
    (errors.LoginRequiredError, ExitCode.REFUSED),
    (errors.UnauthorizedError, ExitCode.REFUSED),
    (errors.UnreachableError, ExitCode.TEMPORARY),
    (errors.ThrottledError, ExitCode.TEMPORARY),
    (errors.LicenseExhaustedError, ExitCode.TEMPORARY),
    (errors.ServerFaultError, ExitCode.TEMPORARY),
    (errors.DiscoveryError, ExitCode.TEMPORARY),
    (errors.StoreUnavailableError, ExitCode.TEMPORARY),
    (errors.OwnedElsewhereError, ExitCode.TEMPORARY),
    (errors.HeldError, ExitCode.TEMPORARY),
)

_BY_OUTCOME = {
    Outcome.SUCCEEDED: ExitCode.FINE,
    Outcome.PARTIAL: ExitCode.PARTIAL,
    Outcome.FAILED: ExitCode.FAILED,
    Outcome.TIMED_OUT: ExitCode.FAILED,
    Outcome.ABANDONED: ExitCode.FAILED,
    Outcome.SKIPPED: ExitCode.NOT_RUN,
    Outcome.MISSED: ExitCode.NOT_RUN,
    Outcome.CANCELLED: ExitCode.NOT_RUN,
}


def code_of_error(error: BaseException) -> int:
    """How a command ends that could not do what was asked."""
    if isinstance(error, KeyboardInterrupt):
        return 130
    if isinstance(error, PermissionError):
        return ExitCode.REFUSED
    if not isinstance(error, errors.ErpsyncError):
        return ExitCode.FAULT
    return code_of_kind(getattr(error, "kind", "") or type(error).__name__, retryable=error.retryable)


def code_of_kind(kind: str, *, retryable: bool) -> int:
    """The same from the name of the error's class, as documents have it."""
    known = getattr(errors, kind, None)
    if isinstance(known, type) and issubclass(known, errors.IdentityError) and not retryable:
        return ExitCode.CONFIGURATION if issubclass(known, errors.DiscoveryError) else ExitCode.REFUSED
    return _code_of_class(kind) or (ExitCode.TEMPORARY if retryable else ExitCode.FAULT)


def code_of_run(run: Mapping[str, object], refused: Collection[str]) -> int:
    """How `run` and `trigger --wait` end, from the run as a document and the identities that are refused."""
    outcome = Outcome(str(run["outcome"]))
    failure = run.get("error")
    if outcome is Outcome.FAILED and isinstance(failure, Mapping):
        if failure["type"] == "TokenEndpointError":  # both "no" and "not now"
            return ExitCode.REFUSED if run["identity"] in refused else ExitCode.TEMPORARY
        return _code_of_class(str(failure["type"])) or ExitCode.FAILED
    return _BY_OUTCOME[outcome]


def _code_of_class(name: str) -> ExitCode | None:
    if name in _BY_NAME:
        return _BY_NAME[name]
    kind = getattr(errors, name, None)
    if not isinstance(kind, type):
        return None
    return next((code for known, code in _BY_CLASS if issubclass(kind, known)), None)
