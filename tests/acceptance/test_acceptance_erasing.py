"""Exporting and erasing: a user, then a tenant, gone from everywhere while others are served."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from engram import admitting
from engram.cli import app
from engram.door import Door
from engram_contracts.commands import Remember
from engram_contracts.erasing import ErasureReport
from engram_contracts.errors import EngramError
from engram_contracts.ids import new_id
from engram_contracts.memory import MemoryFields
from engram_contracts.topology import DEAD, LOG, SCHEDULE, WORK, dead_pattern, dead_subject, log_subject
from engram_recovery.signing import is_genuine
from engram_runtime.bus import Entry
from engram_runtime.nats_bus import open_bus
from support.files import files_with
from support.system import System, embedded_system
from support.waiting import holds

SECRET = "xylophone-of-marzipan"
OTHERS = "cathedral-of-seashells"
TENANT = "leaving"


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with embedded_system(tmp_path_factory.mktemp("erasing"), durability="process") as running:
        yield running


@pytest.fixture(scope="module")
async def key(system: System) -> str:
    return await system.new_key(TENANT, "admin")


def door(system: System, key: str) -> Door:
    return Door(system.url, key)


async def fill(door: Door, word: str, user: str, *, memories: int = 12) -> list[str]:
    """Memories of a user that were written, changed, judged, asked about and forgotten."""
    shared = {"user_id": user, "speaker": "Mara"}
    said = [{"content": f"Note {n}: the {word} stands in Ghent, room {n}.", **shared} for n in range(memories)]
    made = await door.call("POST", "/v1/memories", {"memories": said}, wait="done")
    ids = [each["id"] for each in made["data"]["memories"]]
    await door.call("PATCH", f"/v1/memories/{ids[0]}", {"content": f"The {word} moved."}, wait="done")
    await door.call("POST", f"/v1/memories/{ids[1]}/feedback", {"verdict": "useful", "note": word}, wait="done")
    await door.call("DELETE", f"/v1/memories/{ids[2]}", wait="done")
    await door.call("POST", "/v1/think", {"question": f"Where does the {word} stand?", "filters": {"user_id": user}})
    return ids


async def plant(system: System, tenant: str, user: str, word: str) -> None:
    """A dead letter, a fact that a store refused, and work that waits for its time."""
    memory = MemoryFields(content=f"Buried {word}", user_id=user)
    command = Remember(id=new_id(), memory_id=new_id(), accepted_at=datetime.now(UTC), memory=memory)
    later = {"Nats-Schedule": "@at 2099-01-01T00:00:00Z",
             "Nats-Schedule-Target": f"engram.schedule.due.engram.work.i0.remember.{tenant}"}  # fmt: skip
    entries = [
        Entry(subject=dead_subject("embedder", tenant), body=command.encode(), id=new_id(),
              headers={"Engram-Dead-Subject": f"engram.work.i0.remember.{tenant}"}),
        Entry(subject=f"engram.schedule.wait.embedder-{new_id()}", body=command.encode(), id=new_id(), headers=later),
    ]  # fmt: skip
    async with open_bus(system.nats, name="test") as bus:
        for outcome in await bus.append(entries):
            assert not isinstance(outcome, Exception), outcome


async def messages_with(system: System, word: str) -> dict[str, int]:
    found = {}
    async with open_bus(system.nats, name="test") as bus:
        for stream in (WORK, LOG, DEAD, SCHEDULE):
            after, number = 0, 0
            while page := await bus.archive(stream).read(after + 1, pattern=">", limit=500):
                number += sum(word.encode() in stored.body for stored in page)
                after = page[-1].sequence
            found[stream.name] = number
    return found


async def ended(door: Door, identity: str) -> dict[str, Any]:
    status: dict[str, Any] = {}

    async def is_done() -> bool:
        status.update((await door.call("GET", f"/v1/erasures/{identity}"))["data"])
        return status["state"] == "done"

    assert await holds(is_done, seconds=60), json.dumps(status)
    return status


async def test_what_a_user_said_is_erased_from_everywhere_while_others_stay(system, key):
    async with door(system, key) as calls:
        gone = await fill(calls, SECRET, "ann")
        kept = await fill(calls, OTHERS, "ben")
        await plant(system, TENANT, "ann", SECRET)
        before = (await calls.call("GET", "/v1/usage"))["data"]["totals"]

        started = await calls.call("POST", "/v1/erasures", {"user_id": "ann"})
        status = await ended(calls, started["data"]["id"])

        assert {"log.messages", "dead.messages", "schedule.messages", "index.points", "record.memories"} <= set(
            status["removed"]
        )
        for identity in gone:
            with pytest.raises(EngramError, match="no memory"):
                await calls.call("GET", f"/v1/memories/{identity}")
        assert (await calls.call("GET", f"/v1/memories/{kept[0]}"))["data"]["user_id"] == "ben"
        hits = (await calls.call("POST", "/v1/recall", {"query": f"where does the {SECRET} stand", "limit": 50}))[
            "data"
        ]
        assert {hit["memory"]["user_id"] for hit in hits["hits"]} <= {"ben"}
        after = (await calls.call("GET", "/v1/usage"))["data"]["totals"]
        assert after["memories_created"] == before["memories_created"]
        assert after["storage_bytes"] < before["storage_bytes"]
    assert await messages_with(system, SECRET) == dict.fromkeys((each.name for each in (WORK, LOG, DEAD, SCHEDULE)), 0)
    assert sum((await messages_with(system, OTHERS)).values()) > 10
    report = ErasureReport.model_validate(status["report"])
    assert is_genuine(report, report.public_key)
    assert not is_genuine(report.model_copy(update={"text": report.text.replace("ann", "eve")}), report.public_key)
    assert json.loads(report.text)["left"] == {}


def test_every_store_is_equal_to_the_log_after_an_erasure(system):
    done = CliRunner().invoke(app, ["--data-dir", str(system.data_dir), "verify", "--json"])

    assert done.exit_code == 0, done.output


async def test_a_repeat_of_an_erasure_under_its_key_is_the_same_erasure(system, key):
    async with door(system, key) as calls:
        assert calls._session is not None
        calls._session.headers["Idempotency-Key"] = "erase-zoe"
        first = await calls.call("POST", "/v1/erasures", {"user_id": "zoe"})
        again = await calls.call("POST", "/v1/erasures", {"user_id": "zoe"})

        assert first["data"]["id"] == again["data"]["id"]
        assert (await ended(calls, first["data"]["id"]))["removed"] == {}


async def test_another_tenant_sees_nothing_of_an_erasure(system, key):
    async with door(system, key) as calls:
        made = await calls.call("POST", "/v1/erasures", {"user_id": "yan"})
    async with door(system, system.admin_key) as others:
        with pytest.raises(EngramError, match="no erasure"):
            await others.call("GET", f"/v1/erasures/{made['data']['id']}")
        assert made["data"]["id"] not in str(await others.call("GET", "/v1/erasures"))


async def test_all_that_is_kept_can_be_taken_along(system, key):
    records: list[dict[str, Any]] = []
    async with door(system, key) as calls:
        cursor = None
        while True:
            page = await calls.call("GET", "/v1/export", limit=5, cursor=cursor)
            records += page["data"]["records"]
            cursor = page["meta"].get("next")
            if cursor is None:
                break
        of_ben = (await calls.call("GET", "/v1/export", user_id="ben"))["data"]["records"]

    memories = [record for record in records if record["type"] == "memory"]
    assert {record["memory"]["user_id"] for record in memories} == {"ben"}
    assert len(memories) == len(of_ben) == 11
    assert [len(record["versions"]) for record in memories if record["versions"]] == [1]
    assert [record["feedback"][0]["note"] for record in memories if record["feedback"]] == [OTHERS]
    others = [record for record in records if record["type"] != "memory"]
    assert {"node", "edge", "answer"} <= {record["type"] for record in others}, others


async def test_a_tenant_is_erased_with_everything_it_owns_even_if_its_worker_is_killed(system, key, tmp_path):
    async with door(system, key) as calls:
        await fill(calls, OTHERS, "cleo", memories=40)
    await plant(system, TENANT, "cleo", OTHERS)
    await admitting.issue(system.data_dir, TENANT, "writer", "")
    running = asyncio.create_task(asyncio.to_thread(_erase, system, tmp_path / "report.json"))
    await holds(lambda: _has_begun(system))
    os.kill(system.pids["recovery"], 9)

    status = await running

    assert status["removed"]["log.messages"] > 0
    assert sum((await messages_with(system, OTHERS)).values()) == 0
    async with open_bus(system.nats, name="test") as bus:
        for stream in (LOG, DEAD, WORK):
            pattern = dead_pattern(TENANT) if stream is DEAD else log_subject(TENANT, "*")
            assert await bus.archive(stream).subjects(pattern) == {}
    async with door(system, key) as calls:
        with pytest.raises(EngramError):
            await calls.call("GET", "/v1/memories")
    checked = CliRunner().invoke(app, ["tenants", "check-report", str(tmp_path / "report.json")])
    assert checked.exit_code == 0, checked.output
    assert (tmp_path / "report.json").stat().st_mode & 0o777 == 0o600
    assert TENANT not in {each["tenant"] for each in admitting.listed(system.data_dir, None)}
    for store in ("graph", "vectors", "nats/jetstream/jetstream/ENGRAM/streams/ENGRAM_LOG"):
        assert files_with(system.data_dir / store, [OTHERS.encode()]) == [], store


def _erase(system: System, report: Path) -> dict[str, Any]:
    arguments = [
        "--data-dir",
        str(system.data_dir),
        "tenants",
        "erase",
        TENANT,
        "--yes",
        "--json",
        "--report",
        str(report),
    ]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    return json.loads("\n".join(lines[lines.index("{") :]))


async def _has_begun(system: System) -> bool:
    async with open_bus(system.nats, name="test") as bus:
        from engram_contracts.erasing import ListErasures  # noqa: PLC0415 (one use)

        page = await bus.ask(ListErasures(tenant=TENANT), within=5.0)
        return any(each.user_id is None and each.state != "queued" for each in page.erasures)
