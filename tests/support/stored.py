"""Messages as earlier releases stored them, and what of a contract's change would keep them from being read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from engram_contracts.catalogue import Entry, catalogue
from engram_contracts.messages import Versioned
from engram_contracts.sampling import resolved, sample

FOLDER = Path(__file__).parents[1] / "unit" / "contracts" / "stored"
KEPT = ("command", "fact", "record")
LEAST = ("minLength", "minItems", "minimum", "exclusiveMinimum")
MOST = ("maxLength", "maxItems", "maximum", "exclusiveMaximum", "maxProperties")
Schema = Mapping[str, Any]


def stored(entry: Entry) -> dict[str, Any]:
    """What is kept of a message: the most and the least it says, and its schema."""
    schema = entry.kind.model_json_schema()
    most = sample(entry.kind)
    least = {name: value for name, value in most.items() if name in schema.get("required", ())}
    return {"schema": schema, "messages": [json.loads(entry.kind.model_validate(most).encode()), least]}


def store() -> None:
    """Keep what is not kept yet, under the version it has now. What lies there is left alone."""
    for entry in catalogue():
        version = entry.kind.newest if issubclass(entry.kind, Versioned) else 1
        file = FOLDER / f"v{version}" / f"{entry.name}.json"
        if entry.family in KEPT and not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(stored(entry), indent=1) + "\n")


def breaks(old: Schema, new: Schema) -> list[str]:
    """Why what the old schema allows might not be read by the new one; unknown fields are passed over by all."""
    return list(dict.fromkeys(_broken(old, new, old.get("$defs", {}), new.get("$defs", {}), "", 0)))


def _broken(
    old: Schema, new: Schema, olds: Mapping[str, Schema], news: Mapping[str, Schema], place: str, depth: int
) -> Iterator[str]:
    if depth > 12:
        return
    before, now = resolved(old, olds), resolved(new, news)
    choices, open_now = _choices(before), _choices(now)
    if len(choices) > 1 or len(open_now) > 1:
        for choice in choices:
            tried = [list(_broken(choice, one, olds, news, place, depth + 1)) for one in open_now]
            yield from min(tried, key=len)
        return
    yield from _narrowed(before, now, place)
    yield from _fields(before, now, olds, news, place, depth)
    if "items" in before and "items" in now:
        yield from _broken(before["items"], now["items"], olds, news, f"{place}[]", depth + 1)


def _choices(schema: Schema) -> list[Schema]:
    return list(schema.get("anyOf") or schema.get("oneOf") or [schema])


def _narrowed(before: Schema, now: Schema, place: str) -> Iterator[str]:
    where = place or "it"
    if "type" in now and now["type"] not in (before.get("type"), "number" if before.get("type") == "integer" else None):
        yield f"{where}: is no {before.get('type', 'any')} any more"
        return
    if "enum" in now and not set(before.get("enum", [before.get("const")])) <= set(now["enum"]):
        yield f"{where}: takes fewer values"
    if now.get("pattern", before.get("pattern")) != before.get("pattern"):
        yield f"{where}: has another pattern"
    for names, worse in ((LEAST, lambda was, is_now: is_now > was), (MOST, lambda was, is_now: is_now < was)):
        for name in names:
            if name in now and (name not in before or worse(before[name], now[name])):
                yield f"{where}: {name} was {before.get(name)} and is {now[name]}"


def _fields(
    before: Schema, now: Schema, olds: Mapping[str, Schema], news: Mapping[str, Schema], place: str, depth: int
) -> Iterator[str]:
    for name in set(now.get("required", ())) - set(before.get("required", ())):
        yield f"{place}.{name}".lstrip(".") + ": must be there now"
    for name, field in before.get("properties", {}).items():
        inner = f"{place}.{name}".lstrip(".")
        if name in now.get("properties", {}):
            yield from _broken(field, now["properties"][name], olds, news, inner, depth + 1)
        elif now.get("properties"):
            yield f"{inner}: is gone"


if __name__ == "__main__":
    store()
