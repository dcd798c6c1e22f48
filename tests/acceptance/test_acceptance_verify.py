"""Verify and rebuild against a running system: damage is found by name and put right, and ingestion is no damage."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from engram_contracts.auditing import DropStray, ListApplied, Mend, MendIndexed, MendMetered, MendRecorded
from engram_contracts.errors import Rejected
from engram_contracts.facts import Accessed, Chunk, Embedding, SparseVector
from engram_contracts.ids import new_id, partition_of
from engram_contracts.memory import Memory
from engram_contracts.questions import FindIndexed
from engram_contracts.topology import log_subject
from engram_runtime.bus import Entry
from engram_runtime.nats_bus import open_bus
from engram_vectors.points import chunk_of, head_of, uuid_of
from support.system import System, embedded_system
from support.warm import warm_engram

ENGRAM = str(Path(sys.executable).with_name("engram"))


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with embedded_system(tmp_path_factory.mktemp("verify")) as running:
        yield running


def call(system: System, method: str, path: str, body: Any = None) -> Any:
    request = urllib.request.Request(
        system.url + path,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={**system.headers, "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())["data"]


def remember(system: System, *texts: str) -> list[str]:
    made = call(system, "POST", "/v1/memories?wait=done", {"memories": [{"content": text} for text in texts]})
    return [each["id"] for each in made["memories"]]


def engram(system: System, *words: str) -> tuple[int, dict[str, Any]]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ENGRAM_")}
    environ = {**kept, "ENGRAM_DATA_DIR": str(system.data_dir)}
    done = subprocess.run(
        [warm_engram(), *words, "--json"], env=environ, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def differences(report: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(each["store"], each["kind"], each["id"]) for each in report["differences"]]


async def ask(system: System, question: Any) -> Any:
    async with open_bus(system.nats, name="test") as bus:
        return await bus.ask(question, within=10.0)


def test_equal_stores_are_found_equal(system: System) -> None:
    ids = remember(system, *(f"Ann saw number {n} in Ghent." for n in range(20)))
    call(system, "PATCH", f"/v1/memories/{ids[0]}?wait=done", {"content": "Ann saw nothing."})
    call(system, "DELETE", f"/v1/memories/{ids[1]}?wait=done")
    call(system, "POST", "/v1/graph/edges?wait=done", {"source": "person:Ann", "type": "knows", "target": "person:Bo"})

    code, report = engram(system, "verify")

    assert (code, report["equal"], report["differences"]) == (0, True, [])
    assert len(set(report["tenants"]["default"].values())) == 1


async def test_a_point_that_was_deleted_is_found_and_put_back(system: System) -> None:
    whole, long = remember(system, "The kiln is broken.", "words and words. " * 400)
    points = (uuid_of(head_of("default", whole)), uuid_of(chunk_of(head_of("default", long), 1)))
    await ask(system, DropStray(points=points))

    code, report = engram(system, "verify", "--tenant", "default")
    mended_code, mended = engram(system, "verify", "--repair")
    found = await ask(system, FindIndexed(tenant="default", memory_id=whole))

    assert code == 1
    assert sorted(differences(report)) == sorted([("index", "missing", whole), ("index", "damaged", long)])
    assert (mended_code, mended["mended"], mended["failed"]) == (0, 2, [])
    assert found.found.memory.content == "The kiln is broken."


async def test_what_was_counted_of_a_memory_is_there_again_when_it_is_put_back(system: System) -> None:
    (name,) = remember(system, "The beacon of Fastnet burned all night.")
    await recalled(system, name, times=2)
    call(system, "POST", f"/v1/memories/{name}/feedback?wait=done", {"verdict": "useful"})
    before = call(system, "GET", f"/v1/memories/{name}")
    await ask(system, DropStray(points=(uuid_of(head_of("default", name)),)))
    await ask(system, MendRecorded(tenant="default", mends=(Mend(memory_id=name),), cut=2**60))

    code, mended = engram(system, "verify", "--repair")
    found = (await ask(system, FindIndexed(tenant="default", memory_id=name))).found.memory
    after = call(system, "GET", f"/v1/memories/{name}")

    assert (code, mended["mended"], mended["failed"]) == (0, 2, [])
    assert (before["access_count"], before["feedback"]["useful"]) == (2, 1)
    assert (after["access_count"], after["feedback"]) == (before["access_count"], before["feedback"])
    assert (found.access_count, found.feedback.useful) == (2, 1)


async def test_a_point_that_is_named_badly_is_refused_by_name(system: System) -> None:
    with pytest.raises(Rejected) as refused:
        await ask(system, DropStray.model_construct(points=("no point",)))

    assert (refused.value.code, refused.value.field) == ("INVALID_REQUEST", "points.0")


async def recalled(system: System, name: str, *, times: int) -> None:
    """Tell the log that a memory was recalled, as the index does, and wait until the record has counted it."""
    now = datetime.now(UTC)
    fact = Accessed(command=new_id(), accepted_at=now, at=now, times={name: times})
    async with open_bus(system.nats, name="test") as bus:
        await bus.append([Entry(subject=log_subject("default", fact.event), body=fact.encode(), id=fact.command)])
    async with asyncio.timeout(30):
        while call(system, "GET", f"/v1/memories/{name}")["access_count"] < times:
            await asyncio.sleep(0.1)


async def test_a_row_that_was_deleted_from_the_record_is_found_and_put_back(system: System) -> None:
    (name,) = remember(system, "Mara met Joel in Antwerp.")
    call(system, "PATCH", f"/v1/memories/{name}?wait=done", {"content": "Mara met Joel in Ostend."})
    await ask(system, MendRecorded(tenant="default", mends=(Mend(memory_id=name),), cut=2**60))

    code, report = engram(system, "verify")
    mended_code, mended = engram(system, "verify", "--repair")
    history = call(system, "GET", f"/v1/memories/{name}/history")

    assert (code, differences(report)) == (1, [("record", "missing", name)])
    assert (mended_code, mended["failed"]) == (0, [])
    assert [version["version"] for version in history["versions"]] == [1, 2]


async def test_what_the_ledger_lacks_is_charged_again_and_once(system: System) -> None:
    (name,) = remember(system, "Sixteen bytes ok")
    engram(system, "verify")  # which waits for the ledger
    before = call(system, "GET", "/v1/usage")["totals"]["storage_bytes"]
    await ask(system, MendMetered(tenant="default", mends=(Mend(memory_id=name),), cut=2**60))

    code, report = engram(system, "verify")
    mended_code, mended = engram(system, "verify", "--repair")
    after = call(system, "GET", "/v1/usage")["totals"]["storage_bytes"]

    assert (code, differences(report)) == (1, [("ledger", "missing", name)])
    assert (mended_code, mended["failed"]) == (0, [])
    assert after == before


async def test_a_ghost_in_the_index_is_found_and_deleted(system: System) -> None:
    at = "2026-01-01T00:00:00Z"
    ghost = Memory.model_validate({"id": new_id(), "content": "boo", "created_at": at, "updated_at": at})
    chunk = Chunk(start=0, end=3, dense=b"\0\x3c" * 256, sparse=SparseVector(indices=(1,), values=(1.0,)))
    embedding = Embedding(model="static/wordllama-256@256", chunks=(chunk,), tokens=1)
    mend = Mend(memory_id=ghost.id, memory=ghost, embedding=embedding, command=new_id(), sequence=1)
    await ask(system, MendIndexed(tenant="default", mends=(mend,), cut=2**60))

    code, report = engram(system, "verify")
    mended_code, mended = engram(system, "verify", "--repair")

    assert (code, differences(report)) == (1, [("index", "surplus", ghost.id)])
    assert (mended_code, mended["equal"]) == (0, True)
    assert (await ask(system, FindIndexed(tenant="default", memory_id=ghost.id))).found is None


def test_running_ingestion_is_no_difference(system: System) -> None:
    stop = threading.Event()
    (name,) = remember(system, "the one that changes")

    def write() -> None:
        while not stop.wait(0.2):
            call(system, "POST", "/v1/memories", {"memories": [{"content": f"more {n}"} for n in range(20)]})
            call(system, "PATCH", f"/v1/memories/{name}", {"content": f"changed at {time.monotonic()}"})

    writer = threading.Thread(target=write)
    writer.start()
    try:
        reports = [engram(system, "verify") for _ in range(2)]
    finally:
        stop.set()
        writer.join()

    assert [(code, differences(report)) for code, report in reports] == [(0, [])] * 2


def test_the_index_is_built_anew_while_it_answers(system: System) -> None:
    remember(system, "The ferry to Ostend leaves at nine.")

    code, report = engram(system, "rebuild", "vectors")
    hits = call(system, "POST", "/v1/recall", {"query": "when does the ferry leave", "limit": 3})["hits"]

    assert (code, report["failed"]) == (0, [])
    assert report["mended"] >= report["tenants"]["default"]["index"]
    assert "ferry" in hits[0]["memory"]["content"]


def test_the_record_is_built_anew_while_it_answers(system: System) -> None:
    ids = remember(system, "Zoe paints in Liege.", "Zoe sings in Liege.")
    call(system, "PATCH", f"/v1/memories/{ids[0]}?wait=done", {"content": "Zoe paints in Namur."})
    call(system, "POST", "/v1/graph/edges?wait=done", {"source": "person:Zoe", "type": "likes", "target": "name:Namur"})
    before = call(system, "GET", "/v1/graph/nodes?limit=200")

    code, built = engram(system, "rebuild", "graph")
    after = call(system, "GET", "/v1/graph/nodes?limit=200")
    verified, report = engram(system, "verify")

    assert (code, {each["state"] for each in built}) == (0, {"done"}), built
    assert after == before
    assert (verified, differences(report)) == (0, [])
    assert len(call(system, "GET", f"/v1/memories/{ids[0]}/history")["versions"]) == 2
    assert remember(system, "Zoe still writes.")


@pytest.mark.parametrize(("store", "service"), [("graph", "graph"), ("vectors", "vectors")])
def test_a_rebuild_that_was_killed_is_finished_by_the_next(system: System, store: str, service: str) -> None:
    remember(system, *(f"Killed while {store} was rebuilt, {n}." for n in range(30)))
    environ = {**os.environ, "ENGRAM_DATA_DIR": str(system.data_dir)}
    first = subprocess.Popen([ENGRAM, "rebuild", store], env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    old = system.pids[service]
    time.sleep(1.5)  # somewhere in the middle; wherever it is, the next one has to put it right
    os.kill(old, signal.SIGKILL)
    first.kill()
    first.wait()
    until(lambda: system.pids[service] not in (old, None) and '"ready"' in readiness(system))

    code, told = engram(system, "rebuild", store)
    verified, report = engram(system, "verify")

    assert code == 0, told
    assert (verified, differences(report)) == (0, [])


async def test_a_log_that_was_lost_is_told_of_and_goes_on_behind_the_stores(system: System) -> None:
    (old,) = remember(system, "Before the log was lost.")
    await lose_the_log(system)
    waited = call(system, "POST", "/v1/memories", {"content": "While the log was lost."})
    until(lambda: "engram rebuild log" in readiness(system))

    code, told = engram(system, "rebuild", "log")
    (new,) = remember(system, "After the log was lost.")
    call(system, "PATCH", f"/v1/memories/{old}?wait=done", {"content": "Changed after the log was lost."})
    until(lambda: '"done"' in json.dumps(call(system, "GET", f"/v1/jobs/{waited['job']}")))
    verified, report = engram(system, "verify")

    assert (code, [each["rebuilt"] for each in told]) == (0, [True, True])
    assert (verified, differences(report)) == (0, [])
    assert call(system, "GET", f"/v1/memories/{new}")["content"] == "After the log was lost."


async def test_what_the_log_and_the_ledger_lost_is_charged_as_the_record_tells_it(system: System) -> None:
    (name,) = remember(system, "Kept by the record and the index.")
    call(system, "PATCH", f"/v1/memories/{name}?wait=done", {"content": "Kept by the record and the index alone."})
    page = await ask(system, ListApplied(partition=partition_of("default"), tenant="default"))
    commands = tuple(each.command for each in page.applied if each.memory_id == name)
    await lose_the_log(system)
    before = call(system, "GET", "/v1/usage")["totals"]
    engram(system, "rebuild", "log")
    await ask(system, MendMetered(tenant="default", mends=(Mend(memory_id=name, commands=commands),), cut=2**60))
    lost = call(system, "GET", "/v1/usage")["totals"]

    code, report = engram(system, "verify")
    mended_code, mended = engram(system, "verify", "--repair")
    after = call(system, "GET", "/v1/usage")["totals"]

    assert len(commands) == 2
    assert {meter: before[meter] - lost[meter] for meter in OF_MEMORIES} == {"memories_created": 1, "storage_bytes": 39}
    assert (code, differences(report)) == (1, [("ledger", "missing", name)])
    assert (mended_code, mended["mended"], mended["failed"]) == (0, 1, [])
    assert [after[meter] for meter in OF_MEMORIES] == [before[meter] for meter in OF_MEMORIES]
    assert after["embedding_tokens"] > lost["embedding_tokens"]


async def test_what_the_ledger_alone_still_knows_is_taken_back(system: System) -> None:
    engram(system, "verify")  # which waits for the ledger
    before = call(system, "GET", "/v1/usage")["totals"]
    (name,) = remember(system, "Nobody but the ledger will know of this.")
    await lose_the_log(system)
    engram(system, "rebuild", "log")
    for kind in (MendRecorded, MendIndexed):
        await ask(system, kind(tenant="default", mends=(Mend(memory_id=name),), cut=2**60))

    code, report = engram(system, "verify")
    mended_code, mended = engram(system, "verify", "--repair")
    after = call(system, "GET", "/v1/usage")["totals"]

    assert code == 1
    assert [difference[:2] for difference in differences(report)] == [("ledger", "surplus"), ("ledger", "overpaid")]
    assert (mended_code, mended["mended"], mended["failed"]) == (0, 2, [])
    assert [after[meter] for meter in OF_MEMORIES] == [before[meter] for meter in OF_MEMORIES]


OF_MEMORIES = ("memories_created", "storage_bytes")


async def lose_the_log(system: System) -> None:
    """Take the log away, once all have followed it to its end."""
    engram(system, "verify")  # which waits for the ledger
    async with open_bus(system.nats, name="test") as bus:
        for stream in ("ENGRAM_LOG", "ENGRAM_USAGE"):
            await bus.jetstream.delete_stream(stream)
    engram(system, "provision")


def readiness(system: System) -> str:
    try:
        with urllib.request.urlopen(f"{system.url}/health/ready", timeout=5) as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.read().decode()


def until(condition: Any, *, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "too late"
        time.sleep(0.05)
