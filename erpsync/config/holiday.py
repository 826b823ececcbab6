"""The holidays of a country or a part of it, by the library `holidays`, which is an extra."""

from collections.abc import Mapping
from datetime import date

from erpsync.config.words import Complaint

YEARS_BACK, YEARS_AHEAD = 2, 10


def holidays_of(place: str, today: date) -> frozenset[date] | Complaint:
    """The public holidays at `place` ("BG", "DE-BY") from two years before `today` to ten years after it."""
    try:
        import holidays
    except ImportError:
        message = "the library that knows the holidays of countries is not installed"
        return Complaint("E123", ("holidays",), message, "pip install erpsync[holidays]")
    country, _, part = place.partition("-")
    known = {code: parts for code, parts in holidays.list_supported_countries().items() if len(code) == 2}
    if country not in known:
        # BG, BGR and Bulgaria are classes there
        classes = (country.upper(), country.title().replace(" ", ""))
        codes = [getattr(getattr(holidays, name, None), "country", None) for name in classes]
        return _unknown_country(country, next((code for code in codes if code in known), None), known)
    if part and part not in known[country]:
        return _unknown_part(country, part, known[country])
    years = range(today.year - YEARS_BACK, today.year + YEARS_AHEAD + 1)
    return frozenset(holidays.country_holidays(country, subdiv=part or None, years=years))


def _unknown_country(country: str, meant: str | None, known: Mapping[str, object]) -> Complaint:
    alike = ", ".join(code for code in known if code[0] == country[:1].upper())
    hint = f"known codes are {alike}" if alike else 'write a code like "BG" or "DE-BY"'
    hint = f'did you mean "{meant}"?' if meant else hint
    return Complaint("E105", ("holidays",), f'no holidays are known of a country "{country}"', hint)


def _unknown_part(country: str, part: str, known: list[str]) -> Complaint:
    meant = next((each for each in known if each.upper() == part.upper()), None)
    hint = f"known parts are {', '.join(known)}" if known else f'write "{country}"'
    hint = f'did you mean "{country}-{meant}"?' if meant else hint
    return Complaint("E105", ("holidays",), f'no part "{part}" is known of "{country}"', hint)
