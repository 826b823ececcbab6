"""What can be found out about a configuration without running anything, and which jobs a problem parks."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache

from erpsync.config.configuration import Configuration
from erpsync.config.mask import texts_in
from erpsync.config.seal import seal_problems
from erpsync.config.secrets import SecretResolver, secret_problems
from erpsync.config.shelf import other_owner
from erpsync.control.listener import socket_problems, unreachable
from erpsync.core.errors import ConfigError, InvalidSettingsError, PluginLoadError, SecretUnavailableError
from erpsync.core.job import Job
from erpsync.core.problem import Problem
from erpsync.core.redaction import Redactor
from erpsync.core.secret import SecretReference
from erpsync.daemon.address import address_problems
from erpsync.plugins.contract import NoValueError
from erpsync.plugins.discovery import PluginCatalog
from erpsync.plugins.settings import Resolve, validate_settings
from erpsync.scheduling.check import schedule_faults, schedule_problems

UNREACHABLE_SOCKET = "W401"
SHARED_STATE = "W402"
_OF_THE_FILES = {"E202", "E203"}
"""Settings that do not fit the plugin, a scope that it needs and the identity does not ask for."""


def all_problems(
    configuration: Configuration, resolver: SecretResolver | None, *, tell: Callable[[str], object] = str
) -> list[Problem]:
    """Every problem, warnings too, in the order of the files. Without `resolver`, which is for elsewhere, neither
    secrets are looked for nor what this machine can give.

    `tell` hears what is being looked at.
    """
    tell("plugins and their settings")
    catalog = PluginCatalog(configuration.daemon.plugins)
    problems = list(configuration.problems)
    catalog.prove(job.plugin for job in configuration.jobs.values())
    for job in configuration.jobs.values():
        problems += _settings_problems(configuration, catalog, job, None)
        problems += _scope_problems(configuration, catalog, job)
        problems += _isolation_doubts(configuration, catalog, job)
    tell("schedules")
    problems += schedule_problems(configuration)
    problems += seal_problems(configuration, resolver)
    if resolver is not None:
        tell("secrets and the machine")
        problems += secret_problems(configuration, resolver)
        problems += machine_problems(configuration)
        problems += machine_doubts(configuration)
    unique = dict.fromkeys(problems)  # a definition's fault is the same for all its instances
    return sorted(unique, key=lambda each: (each.file or "", each.line or 0, each.column or 0))


def misplaced_literals(configuration: Configuration, job: Job) -> frozenset[str]:
    """Dotted keys of a job's settings where a value stands instead of a reference to a secret."""
    try:
        plugin = PluginCatalog(configuration.daemon.plugins).find(job.plugin)
        validate_settings(plugin, job.settings, None)
    except InvalidSettingsError as error:
        return error.literals
    except (PluginLoadError, NoValueError):
        pass
    return frozenset()


def require_schedules(configuration: Configuration) -> None:
    """Raises ConfigError where a schedule is not valid: nothing that needs fire times can go on."""
    if faults := schedule_faults(configuration):
        raise ConfigError(faults)


def require_service(configuration: Configuration) -> None:
    """Raises ConfigError where no daemon can start with this: a schedule, or what it cannot have on this machine."""
    if faults := [*schedule_faults(configuration), *machine_problems(configuration)]:
        raise ConfigError(faults)


def require_fitting(parked: Mapping[str, Sequence[Problem]], known: Collection[str]) -> None:
    """Raises ConfigError where files ask for what a job's plugin refuses, but for jobs that are parked already.

    A missing secret or a broken plugin may be mended elsewhere; these are mistakes in the files themselves.
    """
    faults = [
        problem
        for job, problems in parked.items()
        if job not in known
        for problem in problems
        if problem.code in _OF_THE_FILES
    ]
    if faults:
        raise ConfigError([*dict.fromkeys(faults)])


def machine_doubts(configuration: Configuration) -> list[Problem]:
    """What would go on this machine, and not as it is meant: nobody of the group gets to the control socket, or
    another configuration has the same state.
    """
    return [*_unreachable_socket(configuration), *_shared_state(configuration)]


def _shared_state(configuration: Configuration) -> Iterator[Problem]:
    other = other_owner(configuration.path, configuration.daemon.data)
    if other is not None:
        message = (
            f"the data folder {configuration.daemon.data} is that of another configuration, {other}: a daemon of one "
            "takes the jobs of the other for removed"
        )
        remedy = 'a folder of its own for each: data = "data" in [daemon] is one beside the file'
        yield configuration.files.problem(SHARED_STATE, message, ("daemon", "data"), hint=remedy)


def _unreachable_socket(configuration: Configuration) -> list[Problem]:
    control = configuration.control
    why = unreachable(control.socket, control.mode, control.group)
    if not why:
        return []
    message = f'the group "{control.group}" cannot get to the control socket: {why}'
    remedy = 'socket = "/run/erpsync/control.sock", in a folder that the group may enter'
    return [Problem(UNREACHABLE_SOCKET, "warning", message, key="control.group", help=remedy)]


def machine_problems(configuration: Configuration) -> list[Problem]:
    """What this machine, or this user on it, cannot give: the control socket, the address of [metrics]."""
    control, listen = configuration.control, configuration.metrics.listen
    problems = socket_problems(control.socket, control.group)
    return problems + (address_problems(listen[0]) if listen else [])


def parked_jobs(
    configuration: Configuration, catalog: PluginCatalog, resolver: SecretResolver
) -> dict[str, tuple[Problem, ...]]:
    """The enabled jobs that cannot run as things are: a broken plugin, settings that do not fit, a missing secret."""
    resolve = cache(resolver.resolve)  # for this look only: a command that asks a vault may take a second
    parked = {}
    catalog.prove(job.plugin for job in configuration.jobs.values() if job.enabled)
    for job in configuration.jobs.values():
        if job.enabled:
            problems = (
                *_settings_problems(configuration, catalog, job, resolve, resolver.redactor),
                *_identity_problems(configuration, job, resolve),
                *_scope_problems(configuration, catalog, job),
            )
            if problems:  # a plugin's validator may quote the value that it was given
                parked[job.name] = tuple(problem.without(resolver.redactor) for problem in problems)
    return parked


def _settings_problems(
    configuration: Configuration,
    catalog: PluginCatalog,
    job: Job,
    resolve: Resolve | None,
    redactor: Redactor | None = None,
) -> Iterator[Problem]:
    try:
        validate_settings(catalog.find(job.plugin), job.settings, resolve)
    except PluginLoadError as error:
        yield configuration.place(job.name, "plugin", code="E201", message=error.message, help=error.hint)
    except InvalidSettingsError as error:
        for key, message in error.problems:
            hide, place = key in error.literals, f"with.{key}" if key else "with"
            if hide and redactor is not None:  # what stands in the place of a secret is one, known to all now
                redactor.learn(*texts_in(job.settings, key.split(".")))
            yield configuration.place(job.name, place, code="E202", message=message, hide=hide)
    except NoValueError:
        pass  # what the plugin thinks of the value is seen where there is one
    except SecretUnavailableError as error:
        yield configuration.place(job.name, "with", code="E119", message=error.message, help=error.hint)


def _scope_problems(configuration: Configuration, catalog: PluginCatalog, job: Job) -> Iterator[Problem]:
    """What the plugin needs and the identity does not ask for; one without `scope` asks for all there is."""
    asked = configuration.identities[job.identity].scope if job.identity else ()
    with suppress(PluginLoadError):
        needed = catalog.find(job.plugin).scope if asked else ()
        if missing := [word for word in needed if word not in asked]:
            words = " ".join(missing)
            message = f'plugin "{job.plugin}" needs the scope {words}, which {job.identity} does not ask for'
            help_ = "add it to `scope` of the identity, and to the field Scope of the Trusted Application"
            yield configuration.place(job.name, "identity", code="E203", message=message, help=help_)


def _isolation_doubts(configuration: Configuration, catalog: PluginCatalog, job: Job) -> Iterator[Problem]:
    """A wish for a task where only a process will do; such a job runs in a process."""
    plugin = catalog.loaded(job.plugin)
    if job.isolation != "task" or plugin is None:
        return
    if not plugin.is_async:
        why = "a `def` plugin would block the daemon"
    elif job.memory is not None:
        why = "`memory` can be limited only there"
    else:
        return
    message = f'isolation = "task" has no effect: the job runs in a process, for {why}'
    yield configuration.place(
        job.name, "isolation", code="W201", message=message, help="take it away", severity="warning"
    )


def _identity_problems(configuration: Configuration, job: Job, resolve: Resolve) -> Iterator[Problem]:
    """The identity's secrets, of which one is enough."""
    references = configuration.identities[job.identity].secrets if job.identity else ()
    missing = [error for reference in references if (error := _missing(resolve, reference))]
    if references and len(missing) == len(references):
        error = missing[0]
        yield configuration.place(job.name, "identity", code="E119", message=error.message, help=error.hint)


def _missing(resolve: Resolve, reference: SecretReference) -> SecretUnavailableError | None:
    try:
        resolve(reference)
    except SecretUnavailableError as error:
        return error
    return None
