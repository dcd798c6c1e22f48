"""Days of the calendar, in UTC, as questions name them."""

from __future__ import annotations

from datetime import date

from engram_contracts.errors import Rejected


def day_range(since: str | None, until: str | None) -> tuple[date, date]:
    """First and last day, both inclusive; an end that is not given is open.

    Raises `Rejected`, naming the field, for what is not a `YYYY-MM-DD` date, or ends before it begins.
    """
    first = _day("since", since) or date.min
    last = _day("until", until) or date.max
    if last < first:
        raise Rejected(f"until {until!r} lies before since {since!r}; swap them", field="until")
    return first, last


def _day(field: str, text: str | None) -> date | None:
    if text is None:
        return None
    try:
        day = date.fromisoformat(text)
    except ValueError:
        day = None
    if day is None or day.isoformat() != text:
        raise Rejected(f"{field} {text[:40]!r} is not a date; write it as YYYY-MM-DD", field=field)
    return day
