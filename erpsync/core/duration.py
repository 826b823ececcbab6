"""Durations as people write them: "90s", "15m", "2h", "1d", "250ms", or several parts ("1h30m")."""

import re
from datetime import timedelta

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_LONGEST = timedelta(days=36_500)
_WHOLE = re.compile(rf"(?:{_PART.pattern})+")


def parse_duration(text: str) -> timedelta:
    """The duration that `text` says; ValueError with the accepted forms where it says none."""
    text = text.strip()
    if not _WHOLE.fullmatch(text):
        raise ValueError(
            f'"{text}" is not a duration; write a number and a unit, like "90s", "15m", "2h" or "1d"'
        )
    seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    if seconds > _LONGEST.total_seconds():
        raise ValueError(f'"{text}" is longer than {_LONGEST.days}d, the longest that is reckoned with')
    return timedelta(seconds=seconds)


def format_duration(value: timedelta | float) -> str:
    """Short and exact enough to read: "850ms", "4.2s", "3m20s", "2h5m", "3d4h"; two units at most."""
    seconds = value.total_seconds() if isinstance(value, timedelta) else float(value)
    if seconds < 0:
        return "-" + format_duration(-seconds)
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 60:
        return f"{seconds:.1f}".removesuffix(".0") + "s"
    whole = round(seconds)
    units = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
    parts = []
    for name, size in units:
        amount, whole = divmod(whole, size)
        parts.append((amount, name))
    first = next(index for index, (amount, _) in enumerate(parts) if amount)
    return "".join(f"{amount}{name}" for amount, name in parts[first : first + 2] if amount)
