"""`identities` and `token`: how every identity stands and what its token says of itself; never a token."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from erpsync.cli.options import FormatOption, workspace_of
from erpsync.cli.output import Times, inset, note, print_json, say, table
from erpsync.cli.workspace import Workspace
from erpsync.core.duration import format_duration
from erpsync.core.errors import NoDaemonError

IdentityArgument = Annotated[str, typer.Argument(metavar="IDENTITY", help="The name of one identity.")]


def identities(
    context: typer.Context,
    format: FormatOption = "text",  # noqa: A002 - the option's name
) -> None:
    """Every identity: its token, its session, the licence slots of its instance."""
    workspace = workspace_of(context)
    found, licenses = _all(workspace)
    if format == "json":
        print_json({"identities": found, "licenses": licenses})
        return
    if not found:
        note("no identities are defined")
        return
    times = Times(workspace.configuration.daemon.timezone)
    say(times.heading())
    print_identities(found, times)
    if licenses:
        say("\nlicence slots")
        print_licenses(licenses, times)


def token(
    context: typer.Context,
    identity: IdentityArgument,
    fetch: Annotated[bool, typer.Option("--fetch", help="Ask the identity server for one, really.")] = False,
    format: FormatOption = "text",  # noqa: A002
) -> None:
    """One identity: state, scope, claims, expiry, session. A token that is fetched is shown by its fingerprint."""
    workspace = workspace_of(context)
    found = _one(workspace, identity, fetch)
    if format == "json":
        print_json(found)
    else:
        _print_one(found, Times(workspace.configuration.daemon.timezone))


def _all(workspace: Workspace) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Identities and licence slots as the daemon knows them; without a daemon what is written down."""
    try:
        with workspace.client() as client:
            status = client.status()
            _tell_difference(workspace, status)
            return client.identities(), status["licenses"]
    except NoDaemonError:
        from erpsync.daemon.desk_alone import identities_alone

        return asyncio.run(identities_alone(workspace.configuration, workspace.redactor))


def _one(workspace: Workspace, identity: str, fetch: bool) -> dict[str, Any]:
    try:
        with workspace.client() as client:
            _tell_difference(workspace, client.status())
            return client.identity(identity, fetch=fetch)
    except NoDaemonError:
        from erpsync.daemon.desk_alone import identity_alone

        return asyncio.run(identity_alone(workspace.configuration, workspace.redactor, identity, fetch=fetch))


def _tell_difference(workspace: Workspace, daemon: Mapping[str, Any]) -> None:
    if difference := workspace.differs(daemon):
        note(f"warning: {difference}")


def print_identities(found: Sequence[Mapping[str, Any]], times: Times) -> None:
    """The table of `identities`; `status` shows it too."""
    columns = (
        "identity",
        "state",
        "token",
        "scope",
        "until",
        "renewal",
        "survives",
        "session",
        "skew",
        "secret",
        "note",
    )
    rows = (
        (
            each["identity"],
            each["state"],
            each["fingerprint"] or "-",
            " ".join(each["scope"]),
            times(each["expires_at"]),
            times(each["next_renewal_at"]),
            _duration(each["survives_seconds"]),
            f"until {times(each['session']['ends_at'])}" if each["session"] else "-",
            _skew(each["clock_skew_seconds"]),
            "-" if each["secret_in_use"] is None else each["secret_in_use"] + 1,
            _trouble(each),
        )
        for each in found
    )
    table(columns, rows, fold=("scope", "note"))


def print_licenses(licenses: Sequence[Mapping[str, Any]], times: Times) -> None:
    """The table of licence slots: one line an instance."""
    columns = ("instance", "slots", "in use", "by", "waiting")
    rows = (
        (
            each["instance"],
            each["slots"],
            each["in_use"],
            _holders(each, times),
            ", ".join(each["waiting"]) or "-",
        )
        for each in licenses
    )
    table(columns, rows, fold=("by", "waiting"))


def _holders(license_: Mapping[str, Any], times: Times) -> str:
    """Who holds slots and until when."""
    sessions = license_["sessions"]
    held = [f"{each['identity']} until {times(each['ends_at'])}" for each in sessions]
    running = {*license_["reserved"]} - {each["identity"] for each in sessions}
    return ", ".join([*held, *sorted(running)]) or "-"


def _print_one(found: Mapping[str, Any], times: Times) -> None:
    session, error, fetched = found["session"], found["last_error"], found.get("fetched")
    secret = found["secret_in_use"]
    lines: list[tuple[str, str]] = [
        ("instance", found["instance"]),
        ("grant", found["grant"]),
        ("state", found["state"]),
        ("token", found["fingerprint"] or "-"),
        ("scope", " ".join(found["scope"]) or "-"),
        ("asked", " ".join(found["asked_scope"]) or "whatever the application has"),
        ("until", times(found["expires_at"])),
        ("renewal", times(found["next_renewal_at"])),
        ("survives", _survives(found["survives_seconds"])),
        (
            "session",
            f"since {times(session['opened_at'])}, until {times(session['ends_at'])}" if session else "-",
        ),
        ("skew", _skew(found["clock_skew_seconds"])),
        ("secret", "-" if secret is None else f"number {secret + 1}"),
        ("endpoint", found["token_endpoint"] or "-"),
        ("requests", str(found["requests"])),
    ]
    if fetched:
        by_hand = found["grant"] == "reference_token"
        more = (
            "only the API can tell whether it is good" if by_hand else "scope " + " ".join(fetched["scope"])
        )
        lines.append(("fetched", f"{fetched['fingerprint']}, {more}"))
    lines += [(f"  {name}", _claim(name, value, times)) for name, value in found["claims"].items()]
    say(f"{found['identity']}, {times.heading()}")
    width = max(11, *(len(name) for name, _ in lines))
    for name, text in lines:
        say(f"{name:<{width}} {inset(text)}".rstrip())
    for warning in found["warnings"]:
        say(f"warning: {inset(warning)}")
    if error:
        say(f"{error['type']}: {inset(error['message'])}")
        if error["hint"]:
            say(f"  help: {inset(error['hint'])}")


def _claim(name: str, value: object, times: Times) -> str:
    from datetime import UTC, datetime

    if name in ("iat", "exp") and isinstance(value, int | float):
        return times(datetime.fromtimestamp(value, UTC))
    return " ".join(str(part) for part in value) if isinstance(value, list) else str(value)


def _trouble(found: Mapping[str, Any]) -> str:
    error = found["last_error"] or {"message": "", "hint": ""}
    return "; ".join(filter(None, [error["message"], error["hint"], *found["warnings"]]))


def _survives(seconds: float | None) -> str:
    if seconds is None:
        return "any outage of the identity server: it needs none"
    return f"an outage of the identity server for {format_duration(seconds)}" if seconds else "no outage"


def _duration(seconds: float | None) -> str:
    return format_duration(seconds) if seconds else "-"


def _skew(seconds: float | None) -> str:
    return "-" if seconds is None else f"{round(seconds):+d}s"
