"""Random memories and filters, and what passes them by definition."""

from __future__ import annotations

import operator
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from engram_contracts.memory import MAX_FILTER_DEPTH, Filters, Memory, Range
from support.memories import START, memory

NOW = datetime(2026, 6, 1, tzinfo=UTC)

USERS = ("ann", "bob smith", "bob", "smith", "Ann", "a=b", "müller\u3000x", "ann ")
TAGS = ("x", "y z", "y", "trip", "kind=fact")
KINDS = ("note", "fact", "plan")
DATES = ("2026-01-01", "2026-01-01T00:00:00.000002Z", "2026-01-01 02:00:00.000004+02:00", "2026-02-30", "2026-1-1")
VALUES = (1, 1.0, True, "1", "true", "a b", 2.5, False, 0, "", "0", 'say "x" =1', *DATES)


def random_memory(number: int, chance: random.Random) -> Memory:
    at = START + timedelta(microseconds=chance.randrange(6))
    return memory(
        number,
        user_id=chance.choice((None, *USERS)),
        agent_id=chance.choice((None, *USERS[:3])),
        session_id=chance.choice((None, "s1", "s 1")),
        speaker=chance.choice((None, "ann", "bob smith")),
        kind=chance.choice(KINDS),
        tags=tuple(chance.sample(TAGS, chance.randrange(4))),
        metadata={key: chance.choice((*VALUES, [1, "1"], None)) for key in chance.sample(("k", "k=1", "a b"), 2)},
        occurred_at=chance.choice((None, at)),
        created_at=START + timedelta(microseconds=chance.randrange(6)),
        expires_at=chance.choice((None, None, NOW, NOW + timedelta(microseconds=1))),
    )


def random_filters(chance: random.Random, depth: int = 1) -> Filters:
    def some() -> tuple[Filters, ...]:
        return tuple(random_filters(chance, depth + 1) for _ in range(chance.randrange(1, 4)))

    def maybe(make: Callable[[], object]) -> object:
        return make() if chance.random() < 0.2 else None

    zone = chance.choice((UTC, timezone(timedelta(hours=5))))
    fields = {
        "user_id": maybe(lambda: chance.choice(USERS)),
        "agent_id": maybe(lambda: chance.choice(USERS)),
        "session_id": maybe(lambda: "s 1"),
        "speaker": maybe(lambda: chance.choice(("ann", "bob smith"))),
        "kind": maybe(lambda: chance.choice((*KINDS, ("note", "plan"), ("fact",), ()))),
        "tags": maybe(lambda: tuple(chance.sample(TAGS, chance.randrange(1, 3)))),
        "after": maybe(lambda: (START + timedelta(microseconds=chance.randrange(6))).astimezone(zone)),
        "before": maybe(lambda: START + timedelta(microseconds=chance.randrange(6))),
        "metadata": maybe(lambda: {chance.choice(("k", "k=1", "a b")): chance.choice(VALUES)}),
        "ranges": maybe(lambda: {chance.choice(("k", "k=1", "a b")): random_range(chance)}),
        **({name: maybe(some) for name in ("all_of", "any_of", "none_of")} if depth < MAX_FILTER_DEPTH else {}),
    }
    return Filters(**{name: value for name, value in fields.items() if value is not None})  # type: ignore[arg-type]


def random_range(chance: random.Random) -> Range:
    if chance.random() < 0.5:
        bounds: tuple[object, ...] = (-1, 0, 0.5, 1, 2.5, 3)
    else:
        bounds = tuple(START + timedelta(microseconds=each) for each in (-1, 0, 1, 2, 3, 4, 5))
    names = chance.sample(("gte", "gt", "lte", "lt"), chance.choice((1, 1, 2)))
    return Range(**{name: chance.choice(bounds) for name in names})  # type: ignore[arg-type]


def asked(wanted: str | tuple[str, ...] | None, value: str | None) -> bool:
    return wanted is None or (value in wanted if isinstance(wanted, tuple) else value == wanted)


def lies_in(value: object, asked: Range) -> bool:
    for name, bound in asked.bounds().items():
        if isinstance(bound, datetime):
            moments = {DATES[0]: START, DATES[1]: START + timedelta(microseconds=2)}
            found: Any = {**moments, DATES[2]: START + timedelta(microseconds=4)}.get(str(value))
        else:
            found = value if isinstance(value, int | float) and not isinstance(value, bool) else None
        if found is None or not getattr(operator, {"gte": "ge", "lte": "le"}.get(name, name))(found, bound):
            return False
    return True


def fits(what: Memory, filters: Filters) -> bool:
    """Whether a memory passes the filters: their definition, spelled out."""
    at = what.occurred_at or what.created_at
    kinds = (filters.kind,) if isinstance(filters.kind, str) else filters.kind
    return (
        all(
            asked(getattr(filters, name), getattr(what, name))
            for name in ("user_id", "agent_id", "session_id", "speaker")
        )
        and (kinds is None or what.kind in kinds)
        and set(filters.tags) <= set(what.tags)
        and (filters.after is None or at >= filters.after)
        and (filters.before is None or at < filters.before)
        and all(equal(what.metadata.get(key), value) for key, value in filters.metadata.items())
        and all(lies_in(what.metadata.get(key), asked) for key, asked in filters.ranges.items())
        and all(fits(what, each) for each in filters.all_of)
        and (not filters.any_of or any(fits(what, each) for each in filters.any_of))
        and not any(fits(what, each) for each in filters.none_of)
    )


def alive(what: Memory) -> bool:
    return what.expires_at is None or what.expires_at > NOW


def equal(stored: object, asked: object) -> bool:
    return stored == asked and isinstance(stored, bool) == isinstance(asked, bool)
