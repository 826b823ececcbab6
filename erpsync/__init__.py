"""erpsync: jobs that call APIs, on schedules, with tokens that hold.

Everything a plugin needs comes from here; names are loaded when they are first used.
"""

from importlib import import_module

TYPE_CHECKING = False  # as type checkers know it; importing typing would cost more than all of this
if TYPE_CHECKING:
    from erpsync.core.errors import (
        ErpNetError,
        JobFailedError,
        RejectedError,
        ServerFaultError,
        TargetError,
        UnreachableError,
    )
    from erpsync.core.run import Counts
    from erpsync.plugins.context import BlockingContext, JobContext
    from erpsync.plugins.contract import (
        AuthFailed,
        ConfigProblem,
        Duration,
        JobResult,
        Plugin,
        Retry,
        Secret,
        Settings,
        Skip,
        job,
    )
    from erpsync.plugins.sink import AsyncSink, SqlSink
    from erpsync.plugins.target import Column, Target

_HOMES = {
    "erpsync.core.errors": (
        "ErpNetError", "JobFailedError", "RejectedError", "ServerFaultError", "TargetError", "UnreachableError",
    ),
    "erpsync.core.run": ("Counts",),
    "erpsync.plugins.context": ("BlockingContext", "JobContext"),
    "erpsync.plugins.contract": (
        "AuthFailed", "ConfigProblem", "Duration", "JobResult", "Plugin", "Retry", "Secret", "Settings", "Skip",
        "job",
    ),
    "erpsync.plugins.sink": ("AsyncSink", "SqlSink"),
    "erpsync.plugins.target": ("Column", "Target"),
}  # fmt: skip
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AsyncSink",
    "AuthFailed",
    "BlockingContext",
    "Column",
    "ConfigProblem",
    "Counts",
    "Duration",
    "ErpNetError",
    "JobContext",
    "JobFailedError",
    "JobResult",
    "Plugin",
    "RejectedError",
    "Retry",
    "Secret",
    "ServerFaultError",
    "Settings",
    "Skip",
    "SqlSink",
    "Target",
    "TargetError",
    "UnreachableError",
    "job",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'erpsync' has no attribute '{name}'")
    value: object = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
