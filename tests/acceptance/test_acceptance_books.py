"""The books of a running system: its audit trail cannot be changed unseen, its bills are what the streams say."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from engram import trails, verifying
from engram_contracts.topology import AUDIT, audit_subject
from engram_runtime.nats_bus import open_bus
from support.system import System, embedded_system
from support.warm import warm_engram


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with embedded_system(tmp_path_factory.mktemp("books"), environ={"ENGRAM_AUDIT_EVERY": "0.5"}) as running:
        fill(running)
        yield running


def ask(system: System, method: str, path: str, body: Any = None, *, key: str | None = None) -> tuple[int, bytes]:
    request = urllib.request.Request(
        system.url + path,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {key or system.admin_key}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def fill(system: System) -> None:
    """A memory that is changed and forgotten, others that stay, an edge, searches, refusals, and a drop."""
    many = {"memories": [{"content": f"Note {n} of many."} for n in range(20)]}
    made = json.loads(ask(system, "POST", "/v1/memories?wait=done", many)[1])["data"]["memories"]
    first = made[0]["id"]
    ask(system, "PATCH", f"/v1/memories/{first}?wait=done", {"content": "Note 0, longer than it was."})
    ask(system, "DELETE", f"/v1/memories/{first}?wait=done")
    edge = {"source": "person:Joel", "type": "lives_in", "target": "name:Ghent"}
    ask(system, "POST", "/v1/graph/edges?wait=done", edge)
    for _ in range(5):
        ask(system, "POST", "/v1/recall", {"query": "note"})
        ask(system, "GET", "/v1/usage", key="eng_live_wrong")
    ask(system, "POST", "/v1/dead-letters/drops", {"filter": {"text": "nothing"}, "reason": "none is there"})


def engram(system: System, *words: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ENGRAM_")}
    environ = {**kept, "ENGRAM_DATA_DIR": str(system.data_dir)}
    return subprocess.run(
        [warm_engram(), *words], env=environ, capture_output=True, text=True, timeout=120, check=False
    )


async def _records(system: System, tenant: str) -> list[dict[str, Any]]:
    async with open_bus(system.nats, name="tests") as bus:
        return [record async for record in trails.records(bus, tenant)]


def verified(system: System, file: Path | None = None, tenant: str | None = None) -> list[tuple[int, str]]:
    told = asyncio.run(trails.verified(system.data_dir, file, tenant))
    return [(flaw["n"], flaw["what"].partition(":")[0]) for flaw in told["flaws"]]


def reconciled(system: System) -> dict[str, Any]:
    return asyncio.run(verifying.reconciled(system.data_dir))


def until_acts(system: System, tenant: str, *wanted: str, within: float = 30.0) -> list[dict[str, Any]]:
    """The records of a tenant, once these actions are among them."""
    deadline = time.monotonic() + within
    while True:
        records = asyncio.run(_records(system, tenant))
        if {record["action"] for record in records} >= set(wanted):
            return records
        assert time.monotonic() < deadline, [record["action"] for record in records]


def test_every_change_and_refusal_is_in_the_trail_without_a_word_of_a_memory(system: System) -> None:
    records = until_acts(system, "default", "remembered", "revised", "forgotten", "edge-put", "drop_some")
    refusals = until_acts(system, "_system", "login")

    assert [record["n"] for record in records] == list(range(1, len(records) + 1))
    assert sum(record["action"] == "remembered" for record in records) == 20
    assert all(record["actor"] and record["at"].endswith("Z") for record in records)
    assert all(record["request_id"] for record in records if record["action"] != "drop-dead-letters")
    login = next(record for record in refusals if record["action"] == "login")
    assert (login["outcome"], login["count"], login["address"]) == ("UNAUTHORIZED", 5, "127.0.0.1")
    told = json.dumps([*records, *refusals])
    assert not any(word in told for word in ("Note", "many", "Joel", "Ghent", system.admin_key))
    assert engram(system, "audit", "verify").returncode == 0


def test_a_changed_export_is_found_out(system: System, tmp_path: Path) -> None:
    until_acts(system, "default", "drop_some")
    file = tmp_path / "trail.jsonl"
    asyncio.run(trails.exported(system.data_dir, file, "default", since=None, until=None))
    lines = file.read_text().splitlines()
    whole = verified(system, file)
    file.write_text("\n".join([*lines[:2], lines[2].replace('"done"', '"none"'), *lines[4:]]) + "\n")
    changed = engram(system, "audit", "verify", str(file), "--json")

    assert whole == []
    assert changed.returncode == 1
    assert [flaw["n"] for flaw in json.loads(changed.stdout)["flaws"]] == [3, 4]


async def test_the_trail_can_only_be_appended_to(system: System) -> None:
    async with open_bus(system.nats, name="tests") as bus:
        stream = bus.archive(AUDIT)
        newest = await stream.newest(audit_subject("default"))
        assert newest is not None
        with pytest.raises(Exception, match="does not give up"):
            await stream.delete(newest.sequence)


async def _cut_off(system: System) -> int:
    """Put a trail in place of the one there is that holds its first page alone; how many pages there were."""
    async with open_bus(system.nats, name="tests") as bus:
        pages = await bus.archive(AUDIT).read(1, pattern=audit_subject("default"), limit=100)
        config = (await bus.jetstream.stream_info(AUDIT.name)).config
        await bus.jetstream.delete_stream(AUDIT.name)
        await bus.jetstream.add_stream(config)
        await bus.jetstream.publish(pages[0].subject, pages[0].body)
    return len(pages)


def test_a_trail_that_was_cut_off_stays_known_as_such(system: System) -> None:
    until_acts(system, "default", "drop_some")
    pages = asyncio.run(_cut_off(system))
    missing = verified(system, tenant="default")
    ask(system, "POST", "/v1/memories?wait=done", {"content": "One more."})
    until_acts(system, "default", "chain-cut")

    assert pages > 1
    assert [what for _, what in missing] == ["cut off"]
    assert {what for _, what in verified(system, tenant="default")} == {"cut off"}


def until_all_is_counted(system: System) -> dict[str, Any]:
    """Memories created by the hour, once the ledger has counted all that are there, and the one that was forgotten."""
    deadline = time.monotonic() + 30
    while True:
        kept = json.loads(ask(system, "GET", "/v1/memories?limit=1")[1])["data"]["total"]
        told: dict[str, Any] = json.loads(ask(system, "GET", "/v1/usage?by=hour&meter=memories_created")[1])["data"]
        if told["totals"].get("memories_created") == kept + 1:
            return told
        assert time.monotonic() < deadline, (told, kept)
        time.sleep(0.1)


def test_usage_is_told_by_hour_and_written_down_as_csv_and_parquet(system: System, tmp_path: Path) -> None:
    by_hour = until_all_is_counted(system)
    table, parquet = tmp_path / "usage.csv", tmp_path / "usage.parquet"
    done = [engram(system, "usage", "export", str(file), "--by", "hour") for file in (table, parquet)]
    rows = list(csv.DictReader(io.StringIO(table.read_text())))
    told = duckdb.sql(f"SELECT sum(amount) FROM '{parquet}' WHERE meter = 'memories_created'").fetchall()

    assert [each.returncode for each in done] == [0, 0], [each.stderr for each in done]
    assert all(day["day"].endswith(":00Z") for day in by_hour["days"])
    created = by_hour["totals"]["memories_created"]
    assert sum(int(row["amount"]) for row in rows if row["meter"] == "memories_created") == created
    assert told == [(created,)]
    assert {row["meter"] for row in rows} >= {"api_calls", "search_queries", "storage_bytes", "embedding_tokens"}
    assert ask(system, "GET", "/v1/usage/export?by=event&since=2026-13-01")[0] == 400


def test_the_ledger_is_what_the_streams_say_also_after_it_was_killed(system: System) -> None:
    before = reconciled(system)
    os.kill(system.pids["metering"], signal.SIGKILL)
    for n in range(10):
        ask(system, "POST", "/v1/memories?wait=indexed", {"content": f"Meanwhile {n}."})
    deadline = time.monotonic() + 30
    while (done := engram(system, "usage", "reconcile", "--json")).returncode:
        assert time.monotonic() < deadline, done.stdout + done.stderr
        time.sleep(0.2)
    after = json.loads(done.stdout)

    assert (before["state"], before["different"]) == ("done", 0)
    assert (after["state"], after["different"]) == ("done", 0)
    assert after["charges"] >= before["charges"]
