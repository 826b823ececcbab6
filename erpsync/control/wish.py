"""What the bodies of requests hold, as pydantic models; from these the OpenAPI document tells clients."""

import json
from datetime import datetime, timedelta
from typing import Annotated

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from erpsync.core.instant import reckonable

Instant = Annotated[AwareDatetime, AfterValidator(reckonable)]


class Wish(BaseModel):
    """What the body of a request holds: known keys, and text that can be written down."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _check_text(cls, wish: object) -> object:
        try:
            json.dumps(wish, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:  # half of a surrogate pair, which JSON can spell
            raise ValueError("not Unicode text") from error
        except TypeError as error:  # bytes that nobody has called JSON
            raise ValueError("not JSON") from error
        return wish


def in_order(window: tuple[datetime, datetime] | None) -> tuple[datetime, datetime] | None:
    """Raises ValueError for a window that ends before it begins."""
    if window is not None and window[0] >= window[1]:
        raise ValueError("it ends before it begins")
    return window


class Parameters(BaseModel):
    """What a run is asked to do differently; such a run never moves the watermark."""

    model_config = ConfigDict(extra="forbid")

    set: dict[str, object] = Field(
        default_factory=dict, description="parameters for the plugin (`ctx.params`)"
    )
    dry_run: bool = False
    window: tuple[Instant, Instant] | None = Field(
        default=None, description="the time that the run is about, its end excluded"
    )

    _check_window = field_validator("window")(in_order)


_WISH = Field(
    default=None,
    pattern=r"^[A-Za-z0-9-]{8,64}$",
    description="chosen by who asks: asked again with it, the same runs are given and no new ones",
)


class RunRequest(Wish):
    """A run to be claimed now."""

    job: str = Field(description="the name of one job")
    params: Parameters = Parameters()
    wish: str | None = _WISH


class ClaimRequest(Wish):
    """A run of each of several jobs to be claimed now, or of none."""

    jobs: list[str] = Field(min_length=1, description="names of jobs")
    params: Parameters = Parameters()
    wish: str | None = _WISH


class RetryRequest(Wish):
    """A finished run to be done again."""

    force: bool = Field(default=False, description="also where it has succeeded")


SHORTEST_SLICE, LONGEST_SLICE = timedelta(seconds=1), timedelta(days=366)
BACKFILL_NAME = r"^[A-Za-z0-9._-]{1,60}$"


class BackfillRequest(Wish):
    """A part of the past to be worked through in slices."""

    window: tuple[Instant, Instant]
    slice_seconds: float = Field(ge=SHORTEST_SLICE.total_seconds(), le=LONGEST_SLICE.total_seconds())
    name: str | None = Field(default=None, pattern=BACKFILL_NAME)

    _check_window = field_validator("window")(in_order)


class CancelRequest(Wish):
    """Why a run is to end."""

    reason: str | None = Field(default=None, max_length=500)


class PauseRequest(Wish):
    """Jobs that are to fire nothing until they are resumed, or until an instant."""

    jobs: list[str] = Field(min_length=1, description="names of jobs")
    until: Instant | None = None
    reason: str | None = Field(default=None, max_length=500)


class ResumeRequest(Wish):
    """Jobs that are to go on; None means all that are paused."""

    jobs: list[str] | None = Field(description="names of jobs")
