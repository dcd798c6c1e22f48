"""What a query says of what it wants: whom it names, which time, and how to put it in the first person. Pure.

English words for times and question words; names are found by their capital in any script that has them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Set
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

MOST_NAMES = 8
MOST_TIMES = 4
LONGEST_READ = 2_000
"""Characters of a query in which names and times are looked for."""

WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
NO_NAMES = frozenset(
    """
    a am an and any are as at be but by can could did do does for from had has have he her his how i if in is it its
    me my name of on or our she should so tell that the their they this to was we were what when where which who
    whom whose why will with would you your
    """.split()  # noqa: SIM905 (a page of words reads better than a page of quotes)
)

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
COUNTS = {"a": 1, "an": 1, "one": 1, "two": 2, "couple of": 2, "three": 3, "four": 4, "five": 5, "six": 6}
MONTH = (
    r"(?P<month>jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?"
    r"|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)"
)
TIMES = (
    re.compile(r"\b(?P<year>\d{4})-(?P<number>\d{2})-(?P<day>\d{2})\b"),
    re.compile(rf"\b(?P<day>\d{{1,2}})(?:st|nd|rd|th)?(?: of)? {MONTH}\b,?(?: (?P<year>\d{{4}})\b)?", re.I),
    re.compile(rf"\b{MONTH} (?P<day>\d{{1,2}})(?:st|nd|rd|th)?\b,?(?: (?P<year>\d{{4}})\b)?", re.I),
    re.compile(rf"\b(?:in|last|since|during|of|this) {MONTH}\b(?: (?P<year>\d{{4}})\b)?", re.I),
    re.compile(rf"\b{MONTH} (?P<year>\d{{4}})\b", re.I),
    re.compile(r"\b(?P<word>yesterday|today|tonight|last night)\b", re.I),
    re.compile(r"\b(?P<which>last|this) (?P<unit>week|month|year|(?:mon|tues|wednes|thurs|fri|satur|sun)day)\b", re.I),
    re.compile(rf"\b(?P<count>\d{{1,3}}|{'|'.join(COUNTS)}) (?P<unit>day|week|month|year)s? ago\b", re.I),
    re.compile(r"\b(?:in|during|since) (?P<year>(?:19|20)\d\d)\b", re.I),
)
"""Ways to name a time; where two fit the same words, the first counts."""


class Stretch(NamedTuple):
    """A stretch of time, from `start` to before `end`."""

    start: datetime
    end: datetime


def names_in(query: str) -> list[str]:
    """Words of a query that may be somebody's name, in lower case, each once."""
    words = (word for word in WORD.findall(query[:LONGEST_READ]) if word[0].isupper())
    lowered = dict.fromkeys(word.casefold() for word in words)
    return [word for word in lowered if word not in NO_NAMES][:MOST_NAMES]


def in_first_person(query: str, names: Set[str]) -> str | None:
    """The query as one of the named would put it ("What did I buy?"), or `None` where none of them is in it."""
    if not names:
        return None
    among = "|".join(re.escape(name) for name in sorted(names))
    name = rf"\b(?:{among})(?: (?:{among}))*\b"
    said = re.sub(rf"{name}['’](?:s\b)?", "my", query, flags=re.I)
    said = re.sub(name, "I", said, flags=re.I)
    return said if said != query else None


def times_in(query: str, as_of: datetime) -> list[Stretch]:
    """The stretches of time that a query names, as seen from `as_of`."""
    named: list[re.Match[str]] = []
    for kind in TIMES:
        for match in kind.finditer(query[:LONGEST_READ]):
            if not any(match.start() < other.end() and other.start() < match.end() for other in named):
                named.append(match)
    named.sort(key=re.Match.start)
    return [stretch for match in named[:MOST_TIMES] for stretch in _stretch(match.groupdict(), as_of)]


def _stretch(named: dict[str, str | None], as_of: datetime) -> Iterator[Stretch]:
    """The stretch, or nothing where the calendar has no such time."""
    try:
        yield _resolve({name: value.lower() for name, value in named.items() if value}, as_of)
    except (ValueError, OverflowError):
        return


def _resolve(named: dict[str, str], as_of: datetime) -> Stretch:
    if "word" in named:
        return _days(as_of - timedelta(days=named["word"] in ("yesterday", "last night")))
    if "count" in named:
        return _ago(COUNTS.get(named["count"]) or int(named["count"]), named["unit"], as_of)
    if "which" in named:
        return _relative(named["unit"], named["which"] == "last", as_of)
    return _dated(named, as_of)


def _dated(named: dict[str, str], as_of: datetime) -> Stretch:
    """A year, month or day by name; where the year is missing, the last one not after `as_of`."""
    month = (
        int(named["number"]) if "number" in named else MONTHS.index(named["month"][:3]) + 1 if "month" in named else 0
    )
    year = int(named["year"]) if "year" in named else as_of.year - (month > as_of.month)
    if not month:
        return Stretch(datetime(year, 1, 1, tzinfo=UTC), datetime(year + 1, 1, 1, tzinfo=UTC))
    if "day" in named:
        return _days(datetime(year, month, int(named["day"]), tzinfo=UTC))
    return _month(year * 12 + month - 1)


def _relative(unit: str, last: bool, as_of: datetime) -> Stretch:
    if unit == "year":
        return _dated({"year": str(as_of.year - last)}, as_of)
    if unit == "month":
        return _month(as_of.year * 12 + as_of.month - 1 - last)
    if unit == "week":
        return _days(as_of - timedelta(days=as_of.weekday() + 7 * last), 7)
    back = (as_of.weekday() - WEEKDAYS.index(unit[:3]) - 1) % 7 + 1
    return _days(as_of - timedelta(days=back))


def _ago(count: int, unit: str, as_of: datetime) -> Stretch:
    """What people call so long ago: the day, give or take a quarter of the unit for weeks and longer."""
    days = count * {"day": 1, "week": 7, "month": 30, "year": 365}[unit]
    slack = {"day": 0, "week": 2, "month": 10, "year": 90}[unit]
    return _days(as_of - timedelta(days=days + slack), 1 + 2 * slack)


def _days(first: datetime, count: int = 1) -> Stretch:
    start = first.replace(hour=0, minute=0, second=0, microsecond=0)
    return Stretch(start, start + timedelta(days=count))


def _month(number: int) -> Stretch:
    """A month, counted from year 0."""
    start = datetime(number // 12, number % 12 + 1, 1, tzinfo=UTC)
    return Stretch(start, (start + timedelta(days=32)).replace(day=1))
