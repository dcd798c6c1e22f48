"""The chain of an audit trail: whatever is done to it later is seen, and where."""

from __future__ import annotations

import json
from copy import deepcopy
from datetime import UTC, datetime
from typing import Any

import pytest

from engram_contracts.trail import GENESIS, Act, ChainCheck, Head, chained, hash_of, targets

AT = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)


def chain(length: int, tenant: str = "acme") -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    for n in range(1, length + 1):
        act = Act(tenant=tenant, at=AT, action="remembered", actor="key", targets=(f"m{n}",), request_id=f"r{n}")
        records.append(chained(act, n, records[-1]["hash"] if records else GENESIS))
    return records


def flaws(records: list[dict[str, Any]], head: Head | None = None, *, anywhere: bool = False) -> list[tuple[int, str]]:
    check = ChainCheck("acme", head, anywhere=anywhere)
    found = [flaw for record in records for flaw in check.take(record)] + check.end()
    return [(flaw.n, flaw.what.partition(":")[0]) for flaw in found]


def head(records: list[dict[str, Any]]) -> Head:
    return Head(tenant="acme", n=records[-1]["n"], hash=records[-1]["hash"])


def test_a_whole_chain_has_no_flaw() -> None:
    records = chain(10)

    assert flaws(records, head(records)) == []


def test_a_record_can_be_checked_from_its_json_alone() -> None:
    record = json.loads(json.dumps(chain(1)[0]))

    assert hash_of(record) == record["hash"]
    assert record["at"] == "2026-11-01T12:00:00Z"


@pytest.mark.parametrize("field, value", [("actor", "other"), ("targets", ["m9"]), ("extra", 1), ("at", "2026-01-01")])
def test_an_edited_record_is_named(field: str, value: object) -> None:
    records = chain(10)
    records[4] = {**records[4], field: value}

    assert flaws(records, head(records)) == [(5, "edited")]


def test_an_edited_record_with_a_new_hash_does_not_fit_the_next() -> None:
    records = chain(10)
    records[4] = {**records[4], "actor": "other"}
    records[4]["hash"] = hash_of(records[4])

    assert flaws(records, head(records)) == [(6, "replaced")]


def test_a_chain_made_anew_from_some_record_on_is_not_the_one_that_was_written() -> None:
    records = chain(10)
    written, last = head(records), GENESIS
    forged = deepcopy(records)
    for record in forged:
        record["actor"], record["previous"] = "other", last
        last = record["hash"] = hash_of(record)

    assert flaws(forged, written) == [(10, "replaced")]


def test_a_removed_record_is_named() -> None:
    records = chain(10)

    assert flaws(records[:3] + records[5:], head(records)) == [(4, "missing")]
    assert flaws(records[2:], head(records)) == [(1, "missing")]


def test_records_that_changed_places_are_named() -> None:
    records = chain(6)
    records[2], records[3] = records[3], records[2]

    assert flaws(records) == [(3, "missing"), (3, "moved"), (5, "replaced")]


def test_a_record_that_stands_there_twice_is_named() -> None:
    records = chain(3)

    assert flaws([*records[:2], records[1], records[2]]) == [(2, "moved")]


def test_a_chain_that_was_cut_off_is_seen_by_whoever_knows_its_end() -> None:
    records = chain(10)

    assert flaws(records[:7], head(records)) == [(8, "cut off")]
    assert flaws([], head(records)) == [(1, "cut off")]
    assert flaws(records[:7]) == []


def test_records_of_another_tenant_do_not_fit() -> None:
    assert flaws(chain(1, tenant="globex")) == [(1, "edited")]


def test_a_part_of_a_chain_can_be_checked_from_where_it_begins() -> None:
    records = chain(10)

    assert flaws(records[4:], anywhere=True) == []
    assert flaws(records[4:6] + records[7:], anywhere=True) == [(7, "missing")]


def test_many_targets_are_counted_and_the_first_named() -> None:
    told = targets(str(n) for n in range(100))

    assert (len(told["targets"]), told["count"]) == (20, 100)
    assert targets(["one"]) == {"targets": ("one",)}
