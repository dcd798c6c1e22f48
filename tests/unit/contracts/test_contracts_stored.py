"""Messages that were stored by earlier releases stay readable, and schemas only ever widen.

`stored/v1/<name>.json` holds messages of version 1 as they lie on streams, the least and the most of each, and the
schema they were written by. They are never changed. `make stored` adds those of messages that are new.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from engram_contracts.catalogue import Entry, catalogue
from support.stored import FOLDER, KEPT, breaks, stored

WRITTEN = {file.stem: json.loads(file.read_text()) for file in sorted(FOLDER.glob("v*/*.json"))}
NOW = {entry.name: entry for entry in catalogue()}


@pytest.mark.parametrize("name", WRITTEN)
def test_what_was_stored_is_read_whole_by_this_release(name: str) -> None:
    kind = NOW[name].kind

    for message in WRITTEN[name]["messages"]:
        read = kind.model_validate_json(json.dumps(message))
        told = json.loads(read.encode())
        assert lost(message, told) == []


@pytest.mark.parametrize("name", WRITTEN)
def test_no_contract_takes_less_than_it_did(name: str) -> None:
    assert breaks(WRITTEN[name]["schema"], NOW[name].kind.model_json_schema()) == []


@pytest.mark.parametrize(
    "entry", [entry for entry in NOW.values() if entry.family in KEPT], ids=lambda entry: entry.name
)
def test_every_message_that_is_kept_has_been_stored(entry: Entry) -> None:
    assert entry.name in WRITTEN, "run `make stored`"


def test_the_comparison_sees_what_breaks() -> None:
    assert "Remember" in WRITTEN
    old = stored(NOW["Remember"])["schema"]

    assert breaks(old, changed(old, lambda new: new["properties"].pop("actor"))) == ["actor: is gone"]
    assert breaks(old, changed(old, lambda new: new["required"].append("actor"))) == ["actor: must be there now"]
    narrower = changed(old, lambda new: new["$defs"]["MemoryFields"]["properties"]["content"].update(maxLength=10))
    assert breaks(old, narrower) == ["memory.content: maxLength was 10000 and is 10"]
    renamed = changed(old, lambda new: new["properties"]["memory_id"].update(type="integer"))
    assert breaks(old, renamed) == ["memory_id: is no string any more"]
    wider = changed(old, lambda new: new["properties"].update(colour={"type": "string", "default": ""}))
    assert breaks(old, wider) == []


def changed(schema: dict[str, Any], change: Any) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(schema))
    change(copy)
    return copy


def lost(before: Any, after: Any, place: str = "") -> list[str]:
    """Where a message says less, or something else, than what was stored."""
    if isinstance(before, dict) and isinstance(after, dict):
        return [
            found for name, value in before.items() if value is not None
            for found in lost(value, after.get(name), f"{place}.{name}")
        ]  # fmt: skip
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return [
            found for n, pair in enumerate(zip(before, after, strict=True)) for found in lost(*pair, f"{place}.{n}")
        ]
    return [] if before == after else [f"{place}: {before!r} became {after!r}"]
