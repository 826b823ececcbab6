"""The error tree: every error says whether trying again can help and what an operator can do.

    ErpsyncError                 .retryable  .hint
    ├─ ConfigError               carries every Problem found
    │  └─ SecretUnavailableError
    ├─ IdentityError             DiscoveryError · TokenEndpointError · LoginRequiredError · SignInError
    ├─ ErpNetError               instance, method, path
    │  ├─ UnreachableError
    │  ├─ AskedToWaitError       ThrottledError · LicenseExhaustedError · ServerFaultError
    │  └─ RejectedError          UnauthorizedError · ForbiddenError · NotFoundError · InvalidQueryError
    │                            BusinessRuleError · ReadOnlyError
    ├─ PluginError               InvalidSettingsError · TargetError
    │  └─ PluginLoadError        PluginChangedError
    ├─ RunError                  JobFailedError · AttemptTimedOutError · ChildDiedError · RunCancelledError
    │                            LoopBlockedError · LoopMisusedError · TasksLeftError
    ├─ StoreError                StoreUnavailableError · StoreCorruptError · SchemaMismatchError · NotAStateError
    │                            OwnedElsewhereError · LostLeaseError · HeldError
    ├─ UsageError                UnknownNameError · UnknownJobError · UnknownRunError · AmbiguousRunError
    │                            RunRefusedError · NotAPersonError · SimulationTooLargeError
    ├─ ControlError              NoDaemonError · ControlRefusedError · DaemonRefusedError · UnansweredError
    │                            StoppingError
    └─ ParkedJobError · AddressTakenError · DemoFailedError

No message ever holds a secret or a token: errors are built from parts that cannot contain one, and what a
foreign server says passes through the redactor before it is kept or shown.
"""

from collections.abc import Collection, Sequence
from datetime import timedelta

from erpsync.core.problem import Problem


class ErpsyncError(Exception):
    """The root. `retryable`: may the same thing succeed later by itself? What is not said when an error is made its
    class says. `hint`: what a person can do."""

    retryable = False

    def __init__(self, message: str, *, hint: str = "", retryable: bool | None = None) -> None:
        super().__init__(message)
        self.hint = hint
        if retryable is not None:
            self.retryable = retryable

    @property
    def message(self) -> str:
        """What happened, in one sentence."""
        return str(self.args[0])


class ConfigError(ErpsyncError):
    """The configuration cannot be used; `problems` holds all that was found, in file order."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        count = sum(problem.severity == "error" for problem in self.problems)
        super().__init__(
            f"the configuration has {count} error{'s' if count != 1 else ''}", hint="erpsync check"
        )


class SecretUnavailableError(ConfigError):
    """A secret reference leads nowhere; parks the jobs that need it and nothing else."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(())
        self.args = (message,)
        self.hint = hint


class IdentityError(ErpsyncError):
    """No valid token can be given for an identity."""


class DiscoveryError(IdentityError):
    """A server's own description cannot be had or contradicts itself."""

    retryable = True


class TokenEndpointError(IdentityError):
    """The token endpoint refused or failed.

    `error` and `description` are the server's own words (RFC 6749 section 5.2), `status` its HTTP status or
    None where no answer came. `credentials` is true where the server refused who we are.
    """

    def __init__(
        self,
        message: str,
        *,
        error: str = "",
        description: str = "",
        status: int | None = None,
        retryable: bool = False,
        credentials: bool = False,
        retry_after: timedelta | None = None,
        hint: str = "",
    ) -> None:
        super().__init__(message, hint=hint, retryable=retryable)
        self.error = error
        self.description = description
        self.status = status
        self.credentials = credentials
        self.retry_after = retry_after


class LoginRequiredError(IdentityError):
    """A person's identity has nothing to get tokens with: somebody has to sign in."""


class SignInError(IdentityError):
    """A person's sign-in has not worked."""


class ErpNetError(ErpsyncError):
    """An API call did not give what was asked; `where` is method and path, without a query."""

    def __init__(self, message: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.where = where


class UnreachableError(ErpNetError):
    """No answer, or half of one: connection, TLS, time-out, truncated body."""

    retryable = True


class AskedToWaitError(ErpNetError):
    """Waiting helps: for `retry_after`, where the server said how long."""

    retryable = True

    def __init__(
        self, message: str, *, where: str = "", hint: str = "", retry_after: timedelta | None = None
    ) -> None:
        super().__init__(message, where=where, hint=hint)
        self.retry_after = retry_after


class ThrottledError(AskedToWaitError):
    """The server asks to slow down (429)."""


class LicenseExhaustedError(AskedToWaitError):
    """Every licence slot of the instance is taken."""


class ServerFaultError(AskedToWaitError):
    """A 5xx without an ERP error object: the server, not the request."""


class RejectedError(ErpNetError):
    """The server understood and said no; the same request will be refused again.

    `status` is the HTTP status, `code` and `type` are ERP.net's own, empty where it gave none.
    """

    def __init__(
        self,
        message: str,
        *,
        where: str = "",
        hint: str = "",
        status: int | None = None,
        code: int | None = None,
        type: str = "",  # noqa: A002 - ERP.net's field name
    ) -> None:
        super().__init__(message, where=where, hint=hint)
        self.status = status
        self.code = code
        self.type = type


class UnauthorizedError(RejectedError):
    """The token is refused, a fresh one too."""


class ForbiddenError(RejectedError):
    """The identity may not do this (403, missing scope)."""


class NotFoundError(RejectedError):
    """No such entity set, row or path."""


class InvalidQueryError(RejectedError):
    """The query is malformed or uses what the server does not support."""


class BusinessRuleError(RejectedError):
    """An ERP.net rule forbids it; `code` 2029 is a validation, 2129 a duplicate."""


class ReadOnlyError(RejectedError):
    """Refused by us before it was sent: a dry run, or an instance with access = "read"."""


class PluginError(ErpsyncError):
    """A plugin cannot be used as configured."""


class PluginLoadError(PluginError):
    """A plugin is missing or broken."""


class PluginChangedError(PluginLoadError):
    """A plugin's file is not the one that the daemon goes by; retryable: a restart takes it."""

    retryable = True


class InvalidSettingsError(PluginError):
    """The settings do not fit the plugin's model; `problems` as (key path, message) pairs.

    `literals` are key paths where a value stands instead of a reference to a secret: it is never shown.
    """

    def __init__(
        self,
        message: str,
        *,
        problems: Sequence[tuple[str, str]] = (),
        literals: Collection[str] = (),
        hint: str = "",
    ) -> None:
        super().__init__(message, hint=hint)
        self.problems = tuple(problems)
        self.literals = frozenset(literals)


class TargetError(PluginError):
    """The target database refuses; `retryable` where it is away or locked."""


class RunError(ErpsyncError):
    """An attempt did not end well."""


class JobFailedError(RunError):
    """The plugin failed; retryable as its cause is."""


class AttemptTimedOutError(RunError):
    """The attempt took longer than its time-out."""


class ChildDiedError(RunError):
    """The child process ended without a result: by a signal, by os._exit, or with a broken channel."""


class LoopBlockedError(RunError):
    """An `async def` plugin did not let anything else of the daemon go on."""


class LoopMisusedError(RunError):
    """An `async def` plugin did to the loop it shares what would have ended the work of others; it was refused."""


class TasksLeftError(RunError):
    """An `async def` plugin has ended and left tasks behind that go on."""


class RunCancelledError(RunError):
    """Somebody asked for the end of the run, or the daemon is going down."""


class StoreError(ErpsyncError):
    """The state database cannot do what is asked."""


class StoreUnavailableError(StoreError):
    """Locked, full, away."""

    retryable = True


class StoreCorruptError(StoreError):
    """The database file is damaged."""


class SchemaMismatchError(StoreError):
    """The schema is newer than this program."""


class NotAStateError(StoreError):
    """What was named, or stands in the place of the state, is a file of somebody else."""


class OwnedElsewhereError(StoreError):
    """Another process owns the state; `owner` says which."""

    retryable = True

    def __init__(self, message: str, *, owner: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.owner = owner


class HeldError(StoreError):
    """The state was copied, restored or moved: nothing of it is fired until a person says so."""


class LostLeaseError(StoreError):
    """What we held is somebody else's now: stop, write nothing."""


class UsageError(ErpsyncError):
    """What was asked for is not there, or cannot be; the hint says what was perhaps meant."""


class UnknownNameError(UsageError):
    """No identity or instance has this name."""


class UnknownJobError(UsageError):
    """No job has this name or fits this pattern."""


class UnknownRunError(UsageError):
    """The ledger has no such run."""


class AmbiguousRunError(UsageError):
    """More than one run begins with the given letters."""


class RunRefusedError(UsageError):
    """The run, or its dead letters, cannot be taken up again as things are."""


class NotAPersonError(UsageError):
    """The identity is a service's: nobody signs in as it."""


class SimulationTooLargeError(UsageError):
    """More fire times than anybody would look at."""


class ControlError(ErpsyncError):
    """A daemon does not do what a command asks it for."""


class NoDaemonError(ControlError):
    """No daemon answers on the control socket."""

    retryable = True


class StoppingError(ControlError):
    """The daemon is about to end and takes up nothing new."""

    retryable = True


class UnansweredError(ControlError):
    """The daemon was asked and has not answered: it may do what it was asked for all the same."""

    retryable = True


class ControlRefusedError(ControlError):
    """The rights on the control socket do not let this user in."""


class DaemonRefusedError(ControlError):
    """The daemon answered no; `kind` is the class of its error."""

    def __init__(self, message: str, *, kind: str, retryable: bool, hint: str = "") -> None:
        super().__init__(message, hint=hint, retryable=retryable)
        self.kind = kind


class ParkedJobError(ErpsyncError):
    """The job cannot run as things are: a broken plugin, settings that do not fit, a missing secret."""


class AddressTakenError(ErpsyncError):
    """Somebody listens where [metrics] wants to; perhaps a predecessor that is just ending."""

    retryable = True


class DemoFailedError(ErpsyncError):
    """Something that must happen in a demonstration did not."""
