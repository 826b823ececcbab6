"""JSON without loss: numbers with a point become Decimal from their own digits, and go out as numbers again."""

from decimal import Decimal
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


class Collection(
    msgspec.Struct,
    rename={"next_link": "@odata.nextLink", "count": "@odata.count"},
):
    """A page as it comes; `error` is what a server writes into an answer that it had begun with 200."""

    value: list[dict[str, Any]] | None = None
    next_link: str | None = None
    count: int | str | None = None
    error: Any = None


_collection = msgspec.json.Decoder(Collection, float_hook=Decimal)
_anything = msgspec.json.Decoder(float_hook=Decimal)
_encoder = msgspec.json.Encoder(decimal_format="number")


def decode_collection(body: bytes) -> Collection:
    """Raises ValueError where the body is cut short, or no page."""
    return _decoded(_collection, body)


def decode(body: bytes) -> Any:
    """Raises ValueError for what is not complete JSON."""
    return _decoded(_anything, body)


def _decoded(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    try:
        return decoder.decode(body)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def encode(value: object) -> bytes:
    """Keys keep their order (it matters to ERP.net). Raises TypeError for what has no JSON form."""
    return _encoder.encode(value)
