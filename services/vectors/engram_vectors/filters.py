"""What a question is narrowed to, as neutral conditions on a point's payload; each engine translates them.

Scopes, kind, speaker, tags and metadata are all kept as tokens in one text (`user_id=Ann tag=trip meta.city="Rome"`)
under a full-text index that splits at whitespace and changes nothing else. That is exact, and half the price of a
write with eight keyword fields: handing strings to the engine one by one is what costs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from engram_contracts.memory import Filters, MemoryFields, Range
from engram_contracts.messages import in_utc

TENANT = "tenant"
TERMS = "terms"
AT = "at"
EXPIRES = "expires"
NUMBERS, MOMENTS = "numbers", "moments"
"""Metadata that can be compared, by key: numbers as floats, dates and times as microseconds since 1970."""

NOTHING = "nothing"
"""A token that no memory has, for a filter that leaves no choice."""
SCOPES = ("user_id", "agent_id", "session_id", "speaker", "kind")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

SAID = "said="
SPECIAL = re.compile(r"[\s%]")
NOT_IN_PATHS = re.compile(r"[^A-Za-z0-9-]")
ISO = re.compile(
    r"[1-9]\d{3}-\d\d-\d\d([T ]([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,6})?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)?)?", re.ASCII
)
as_json = json.JSONEncoder(ensure_ascii=False).encode


@dataclass(frozen=True, slots=True)
class Match:
    """The tokens of a text field hold one of `any_of`."""

    field: str
    any_of: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Within:
    """An integer field lies at or above `at_least` and below `below`."""

    field: str
    at_least: int | None = None
    below: int | None = None


@dataclass(frozen=True, slots=True)
class Between:
    """A number field lies in a stretch."""

    field: str
    gte: float | None = None
    gt: float | None = None
    lte: float | None = None
    lt: float | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """All of `must` hold, one of `should` if there are any, and none of `must_not`."""

    must: tuple[Condition, ...] = ()
    should: tuple[Condition, ...] = ()
    must_not: tuple[Condition, ...] = ()


Condition = Match | Within | Between | Group


@dataclass(frozen=True, slots=True)
class Wanted:
    """Points of one tenant for which all of `must` hold and none of `must_not`.

    Nothing can be asked of an index without one, so nothing can be asked across tenants.
    """

    tenant: str
    must: tuple[Condition, ...] = ()
    must_not: tuple[Condition, ...] = ()


def wanted(tenant: str, filters: Filters, *, now: datetime) -> Wanted:
    """The conditions for a tenant's memories that fit `filters` and have not expired by `now`."""
    expired = Within(EXPIRES, below=microseconds(now) + 1)
    return Wanted(tenant, must=tuple(_conditions(filters)), must_not=(expired,))


def session_among(tenant: str, session: str) -> Wanted:
    """The conditions for a session's points."""
    return Wanted(tenant, must=(Match(TERMS, (as_token(f"session_id={session}"),)),))


def said_by(tenant: str, name: str) -> Wanted:
    """The conditions for what was said by somebody with this word (in lower case) in their name."""
    return Wanted(tenant, must=(Match(TERMS, (f"{SAID}{as_token(name)}",)),))


def names_said(terms: str) -> list[str]:
    """The tokens of the words in the speaker's name, of a memory with these `terms`."""
    return [term.removeprefix(SAID) for term in terms.split() if term.startswith(SAID)]


def microseconds(moment: datetime) -> int:
    """Microseconds since 1970, exact, so that `after` and `before` cut where they say."""
    return (moment - EPOCH) // MICROSECOND


def terms(memory: MemoryFields) -> str:
    """A memory's tokens. Metadata that is a list gives none: filters ask for equality with one value."""
    found = [f"{name}={value}" for name in SCOPES if (value := getattr(memory, name)) is not None]
    if memory.speaker:
        found += [f"{SAID}{word}" for word in memory.speaker.casefold().split()]
    if memory.tags:
        found += [f"tag={tag}" for tag in memory.tags]
    if memory.metadata:
        found += _metadata_terms(memory.metadata)
    text = " ".join(found)
    plain = text.split() == found and "%" not in text
    return text if plain else " ".join(map(as_token, found))


def comparable(metadata: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, int]]:
    """The numbers, and the dates and times, of metadata, by field."""
    numbers, moments = {}, {}
    for key, value in metadata.items():
        if isinstance(value, str):
            if (moment := _moment(value)) is not None:
                moments[_field(key)] = moment
        elif isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**1023:
            numbers[_field(key)] = float(value)
    return numbers, moments


def _moment(text: str) -> int | None:
    if not ISO.fullmatch(text):
        return None
    try:
        return microseconds(in_utc(datetime.fromisoformat(text)))
    except ValueError:
        return None


def _field(key: str) -> str:
    """The key as the engines take it in a path: what is no letter, digit or dash becomes its code point (`_20_`)."""
    return NOT_IN_PATHS.sub(lambda found: f"_{ord(found[0]):x}_", key)


def _between(key: str, asked: Range) -> Between:
    bounds = asked.bounds()
    timed = any(isinstance(bound, datetime) for bound in bounds.values())
    values = {name: microseconds(bound) if isinstance(bound, datetime) else bound for name, bound in bounds.items()}
    return Between(f"{MOMENTS if timed else NUMBERS}.{_field(key)}", **values)


def as_token(text: str) -> str:
    """The text as one word: whitespace and `%` become their code points (`%20;`)."""
    return SPECIAL.sub(lambda found: f"%{ord(found[0]):x};", text)


def _conditions(filters: Filters) -> Iterator[Condition]:
    for name in SCOPES:
        value = getattr(filters, name)
        if value is not None:
            values = (value,) if isinstance(value, str) else value
            yield Match(TERMS, tuple(as_token(f"{name}={each}") for each in values) or (NOTHING,))
    for text in (*(f"tag={tag}" for tag in filters.tags), *_metadata_terms(filters.metadata)):
        yield Match(TERMS, (as_token(text),))
    if filters.after is not None or filters.before is not None:
        yield Within(AT, at_least=_or_none(filters.after), below=_or_none(filters.before))
    for key, asked in filters.ranges.items():
        yield _between(key, asked)
    for each in filters.all_of:
        yield from _conditions(each)
    if filters.any_of:
        yield Group(should=tuple(map(_group, filters.any_of)))
    if filters.none_of:
        yield Group(must_not=tuple(map(_group, filters.none_of)))


def _group(filters: Filters) -> Group:
    return Group(must=tuple(_conditions(filters)))


def _or_none(moment: datetime | None) -> int | None:
    return None if moment is None else microseconds(moment)


def _metadata_terms(metadata: Mapping[str, Any]) -> Iterator[str]:
    for key, value in metadata.items():
        if not isinstance(value, list):
            yield f"meta.{key}={as_json(_equal_numbers_alike(value))}"


def _equal_numbers_alike(value: object) -> object:
    """1 and 1.0 are equal and get one token; 1 and true are not, and JSON keeps them apart."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
