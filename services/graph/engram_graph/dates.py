"""Dates that a text names, as far as the words go: a day, a week, a month or a year. Pure.

`2023-05-08`, `8 May 2023`, `May 8th`, `May 2023`, `in 2022`, and, from a known moment on, `yesterday`, `last Friday`,
`two weeks ago`, `next month`. A day without a year is the one nearest to that moment. A date is written in ISO 8601:
`2023-05-08`, `2023-W19`, `2023-05` or `2023`. English only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from typing import TypeVarTuple

from engram_graph.words import COUNTS, MONTHS, WEEKDAYS

Parts = TypeVarTuple("Parts")

_MONTH = "|".join(sorted(MONTHS, key=len, reverse=True))
_WEEKDAY = "|".join(sorted(WEEKDAYS, key=len, reverse=True))
_COUNT = r"\d{1,3}|" + "|".join(COUNTS)
_DAY = r"\d{1,2}(?:st|nd|rd|th)?"

_ISO = re.compile(r"\b(\d{4})-(\d{2})-(\d{2})(?!\d)")
_YEAR = re.compile(r"\b(?:in|since|until|during|of|from|by|back in|year) ((?:19|20)\d\d)\b(?!-\d)", re.IGNORECASE)
_NAMED = re.compile(
    rf"\b(?:(?P<day>{_DAY})(?: of)? (?P<month>{_MONTH})|(?P<month2>{_MONTH})\.?,? (?P<day2>{_DAY})(?!\d)"
    rf"|(?P<month3>{_MONTH}))\b\.?(?:,? ?(?:of )?(?P<year>(?:19|20)\d\d)\b)?",
    re.IGNORECASE,
)
_RELATIVE = re.compile(
    rf"\b(?:(?P<day>yesterday|today|tomorrow|tonight|last night)"
    rf"|(?P<way>last|next) (?:(?P<unit>week|month|year)|(?P<weekday>{_WEEKDAY}))"
    rf"|(?P<count>{_COUNT})(?: of)? (?P<units>day|week|month|year)s? ago)\b",
    re.IGNORECASE,
)
_DAYS_OFF = {"yesterday": -1, "last night": -1, "today": 0, "tonight": 0, "tomorrow": 1}


def find_dates(text: str, today: date | None) -> Iterator[str]:
    """Each date the text names, in ISO form. Without `today`, only dates that stand on their own."""
    for named in (_iso, _named, _years, _relative):
        yield from named(text, today)


def _iso(text: str, today: date | None) -> Iterator[str]:
    for match in _ISO.finditer(text):
        yield from _valid(_day, int(match.group(1)), int(match.group(2)), int(match.group(3)), today)


def _named(text: str, today: date | None) -> Iterator[str]:
    for match in _NAMED.finditer(text):
        part = match.groupdict()
        name = part["month"] or part["month2"] or part["month3"]
        day = part["day"] or part["day2"]
        month, year = MONTHS[name.lower()], int(part["year"]) if part["year"] else None
        if day is not None and (year is not None or name[0].isupper()):
            yield from _valid(_day, year, month, int(day.rstrip("dhnrst")), today)
        elif day is None and year is not None:
            yield f"{year}-{month:02}"


def _years(text: str, today: date | None) -> Iterator[str]:
    for match in _YEAR.finditer(text):
        yield match.group(1)


def _relative(text: str, today: date | None) -> Iterator[str]:
    if today is None:
        return
    for match in _RELATIVE.finditer(text):
        part = {name: value.lower() for name, value in match.groupdict().items() if value}
        yield from _valid(_from, part, today)


def _from(part: dict[str, str], today: date) -> str:
    if "day" in part:
        return (today + timedelta(days=_DAYS_OFF[part["day"]])).isoformat()
    if "weekday" in part:
        return _weekday(WEEKDAYS[part["weekday"]], today, back=part["way"] == "last").isoformat()
    if "way" in part:
        return _shift(today, part["unit"], -1 if part["way"] == "last" else 1, whole_weeks=True)
    count = COUNTS.get(part["count"]) or int(part["count"])
    return _shift(today, part["units"], -count, whole_weeks=False)


def _weekday(number: int, today: date, *, back: bool) -> date:
    """The nearest such weekday before `today`, or after it."""
    ahead = (number - today.weekday() - 1) % 7 + 1
    return today + timedelta(days=ahead - 7 if back and ahead < 7 else -7 if back else ahead)


def _shift(today: date, unit: str, by: int, *, whole_weeks: bool) -> str:
    if unit == "year":
        return date(today.year + by, 1, 1).isoformat()[:4]
    if unit == "month":
        months = today.year * 12 + today.month - 1 + by
        return date(months // 12, months % 12 + 1, 1).isoformat()[:7]
    moved = today + timedelta(days=by * (7 if unit == "week" else 1))
    if unit == "week" and whole_weeks:
        year, week, _ = moved.isocalendar()
        return f"{year:04}-W{week:02}"
    return moved.isoformat()


def _day(year: int | None, month: int, day: int, today: date | None) -> str:
    if year is not None:
        return date(year, month, day).isoformat()
    if today is None:
        raise ValueError("a day without a year needs a moment to be near to")
    candidates = [date(y, month, day) for y in (today.year - 1, today.year, today.year + 1) if _exists(y, month, day)]
    return min(candidates, key=lambda candidate: abs(candidate - today)).isoformat()


def _exists(year: int, month: int, day: int) -> bool:
    try:
        date(year, month, day)
    except ValueError:
        return False
    return True


def _valid(resolve: Callable[[*Parts], str], *parts: *Parts) -> Iterator[str]:
    """What `resolve` makes of the parts, or nothing where the calendar has no such date."""
    try:
        yield resolve(*parts)
    except (ValueError, OverflowError):
        return
