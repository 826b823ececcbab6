"""Mirrors an entity set into a SQL table, incrementally where the set tells when its rows changed."""

import difflib
import json
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from pydantic import Field

from erpsync import (
    Column,
    ConfigProblem,
    Duration,
    JobContext,
    JobFailedError,
    JobResult,
    RejectedError,
    ServerFaultError,
    Settings,
    Target,
    job,
)

from .model import EntityType, read_model

if TYPE_CHECKING:
    from erpsync import AsyncSink

CHANGED = "AggregateLastUpdateTimeUtc"
"""When a row or one of its children changed last; aggregate roots have it (data-sync/incremental-pull.md)."""


class MirrorSettings(Settings):
    """What to mirror and where to."""

    entity: str = Field(description="the entity set, like General_Products_Products")
    target: Target = Field(description="the SQL table")
    select: tuple[str, ...] = Field((), description="attributes and references; by default the default ones")
    filter: str = Field("", description="an OData condition that the rows meet")
    page_size: int = Field(1000, ge=1, le=1000, description="rows a request")
    overlap: Duration = Field(timedelta(minutes=5), description="how much is read again before the watermark")
    key: str = Field("Id", description="the attribute that tells rows apart")
    incremental: bool = Field(True, description="read only what changed, where the set allows it")


@dataclass(frozen=True, slots=True)
class Shape:
    """How the set is asked for and what its table looks like. `scope` is the query without its times."""

    select: tuple[str, ...]
    columns: tuple[Column, ...]
    incremental: bool
    scope: str


@dataclass(frozen=True, slots=True)
class Pull:
    """One reading of the set from its beginning to its end, over several attempts if need be.

    `start` is the link of the page to go on with, None at the beginning and at the end. `began` is when the first
    page was asked for, `seen` the youngest change among the rows so far; both aware UTC.
    """

    filter: str
    began: datetime
    start: str | None = None
    seen: datetime | None = None

    def position(self) -> dict[str, str | None] | None:
        """What the target keeps to go on at `start`; None at the end."""
        if self.start is None:
            return None
        return {
            "filter": self.filter,
            "next": self.start,
            "began": _text(self.began),
            "seen": _text(self.seen),
        }

    @classmethod
    def kept(cls, position: Mapping[str, Any]) -> "Pull | None":
        """The pull whose `position` this is; None where it is none."""
        try:
            start, seen = position["next"], position["seen"]
            start.encode()  # a link is text
            return cls(
                position["filter"], _instant(position["began"]), start, _instant(seen) if seen else None
            )
        except (KeyError, AttributeError, TypeError, ValueError):
            return None

    @property
    def watermark(self) -> str | None:
        """All before it is in the table now.

        Never younger than the first request: a row read early may have changed while later pages were read, and
        those may hold younger rows.
        """
        return _text(min(self.seen, self.began)) if self.seen else None


@job("mirror", repeatable=True, cursor_of=("entity", "target", "select", "filter", "key", "incremental"))
async def mirror(ctx: JobContext[MirrorSettings]) -> JobResult:
    """Mirror an entity set into a SQL table."""
    settings = ctx.settings
    shape = await describe(ctx)
    async with ctx.sink(settings.target, shape.columns, key=(settings.key,), scope=shape.scope) as sink:
        since, kept = (None, None) if ctx.window else known(ctx, sink, shape)
        pull = plan(settings, since, kept, ctx.now(), ctx.window)
        ctx.log.info("mirror.started", incremental=since is not None, resumed=pull.start is not None)
        try:
            pull = await copy_pages(ctx, sink, shape, pull)
        except (RejectedError, ServerFaultError) as error:
            if pull.start is None or ctx.counts.read:
                raise  # it is not about the link kept from before
            ctx.log.warning("mirror.restarted", reason=f"the link to go on with is refused: {error}")
            pull = await copy_pages(ctx, sink, shape, plan(settings, since, None, ctx.now(), ctx.window))
        reached = pull.watermark if shape.incremental and not ctx.window else None
        await sink.finish(reached)
        if reached:
            ctx.cursor.stage(reached)
    return ctx.result()


def known(
    ctx: JobContext[MirrorSettings], sink: "AsyncSink", shape: Shape
) -> tuple[datetime | None, Pull | None]:
    """From when on rows are wanted, and the unfinished pull, as the target keeps them.

    What somebody's hand has made unreadable there counts for nothing, and the run's log says so.
    """
    watermark = sink.watermark if shape.incremental else None
    since = _before(watermark, ctx.settings.overlap) if watermark else None
    if watermark and since is None:
        ctx.log.warning("mirror.watermark_lost", reason="it is no instant, so everything is read")
    kept = Pull.kept(sink.position) if sink.position is not None else None
    if sink.position_lost or (sink.position is not None and kept is None):
        ctx.log.warning("mirror.position_lost", reason="it cannot be read, so the pull begins anew")
    return since, kept


def plan(
    settings: MirrorSettings,
    since: datetime | None,
    kept: Pull | None,
    now: datetime,
    window: tuple[datetime, datetime] | None = None,
) -> Pull:
    """Go on where an unfinished pull of the same query stopped, else begin with what changed since, or everything.

    A window takes the place of both: what changed in it and not since. ERP.net has no `lt`, so its end is in it.
    """
    since, until = window or (since, None)
    conditions = (
        settings.filter,
        f"{CHANGED} ge {_text(since)}" if since else "",
        f"{CHANGED} le {_text(until)}" if until else "",
    )
    condition = " and ".join(filter(None, conditions))
    return kept if kept and kept.filter == condition else Pull(condition, now)


async def copy_pages(ctx: JobContext[MirrorSettings], sink: "AsyncSink", shape: Shape, pull: Pull) -> Pull:
    """Each page one unit of the target, written while the next one comes; the pull with what was seen."""
    asked = ctx.erp.pages(
        ctx.settings.entity,
        select=shape.select,
        filter=pull.filter or None,
        page_size=ctx.settings.page_size,
        start=pull.start,
    )
    async with aclosing(asked) as pages:
        async for page in pages:
            _require_key(ctx.settings, page)
            seen = _youngest(ctx.settings, page, pull.seen) if shape.incremental else None
            pull = replace(pull, start=page.next_link, seen=seen)
            done = await sink.upsert(page, position=pull.position())
            ctx.count(read=len(page), written=done.written, unchanged=done.unchanged)
            ctx.progress(ctx.counts.read)
            ctx.checkpoint()
    return pull


async def describe(ctx: JobContext[MirrorSettings]) -> Shape:
    """The shape that the settings and the instance's model give.

    Raises:
        ConfigProblem: entity set, key or a selected attribute does not exist.
    """
    settings = ctx.settings
    model = read_model(await ctx.erp.metadata())
    if settings.entity not in model.sets:
        raise ConfigProblem("entity", _unknown("entity set", settings.entity, model.sets))
    entity = model.entity(settings.entity)
    known = [*entity.attributes, *entity.references]
    _check_names(settings, entity, known)
    incremental = settings.incremental and CHANGED in entity.attributes
    if settings.incremental and not incremental:
        ctx.log.info("mirror.not_incremental", reason=f"{settings.entity} has no {CHANGED}")
    if ctx.window and not incremental:
        raise ConfigProblem(
            "entity", f"does not tell when its rows changed ({CHANGED}), so it has no windows"
        )
    always = (settings.key, *((CHANGED,) if incremental else ()))
    select = tuple(dict.fromkeys((*always, *(settings.select or ("default",)))))
    names = select if settings.select else await _default_names(ctx, select, known)
    scope = json.dumps([settings.entity, settings.select, settings.filter, settings.key, incremental])
    columns = tuple(column for name in names for column in model.columns(entity, name))
    return Shape(select, columns, incremental, scope)


def _check_names(settings: MirrorSettings, entity: EntityType, known: Sequence[str]) -> None:
    if settings.key not in entity.attributes:
        own = f"; its own key is {', '.join(entity.key)}" if entity.key else ""
        raise ConfigProblem("key", f"names no attribute of {settings.entity}{own}")
    for name in settings.select:
        if name not in known:
            raise ConfigProblem("select", _unknown("attribute", name, known))


async def _default_names(
    ctx: JobContext[MirrorSettings], select: Sequence[str], known: Sequence[str]
) -> list[str]:
    """What the server gives by default, seen in one row: the model does not tell it (query-options/select.md)."""
    sample = await ctx.erp.one_page(ctx.settings.entity, select=select, top=1)
    given = set(select).union(*sample)
    return [name for name in known if name in given]


def _unknown(what: str, name: str, known: Sequence[str] | Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"names an unknown {what}, {name}" + (f"; did you mean {close[0]}?" if close else "")


def _require_key(settings: MirrorSettings, rows: Sequence[dict[str, Any]]) -> None:
    if any(row.get(settings.key) is None for row in rows):
        raise JobFailedError(
            f"{settings.entity}: a row has no {settings.key}, by which rows are told apart",
            hint="have the row corrected, or let `key` name an attribute that every row has",
        )


def _youngest(
    settings: MirrorSettings, rows: Sequence[dict[str, Any]], seen: datetime | None
) -> datetime | None:
    for row in rows:
        if row.get(CHANGED):
            try:
                changed = _instant(row[CHANGED])
            except (TypeError, ValueError) as error:
                raise JobFailedError(
                    f"{settings.entity}: {CHANGED} of the row {row.get(settings.key)} is no instant",
                    hint="have the row corrected, or set incremental = false",
                ) from error
            seen = changed if seen is None else max(seen, changed)
    return seen


def _instant(text: str) -> datetime:
    """Raises ValueError or TypeError for what is no ISO 8601 instant with its zone."""
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is None:
        raise ValueError("no zone")
    return instant


def _before(watermark: str, overlap: timedelta) -> datetime | None:
    """None where the watermark is no instant that has a time before it."""
    try:
        return _instant(watermark) - overlap
    except (ValueError, OverflowError):
        return None


def _text(instant: datetime | None) -> str | None:
    return instant.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z" if instant else None
