"""Over HTTP, through the whole house: verdicts, folding, honest silence, ranges, and reading what one wrote."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from support.system import System, embedded_system
from support.warm import warm_engram


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    environ = {"ENGRAM_VECTORS_ACCESS_SECONDS": "0.5"}
    with embedded_system(tmp_path_factory.mktemp("feedback"), environ=environ) as running:
        yield running


def call(system: System, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    headers = {**system.headers, "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(system.url + path, data, headers)) as answer:
        told: dict[str, Any] = json.loads(answer.read())
        return told


def recall(system: System, query: str, **how: Any) -> list[dict[str, Any]]:
    found = call(system, "/v1/recall", {"query": query, "explain": True, **how})
    assert found["meta"].get("degraded") is None
    for hit in found["data"]["hits"]:
        assert sum(hit["explain"]["parts"].values()) == pytest.approx(hit["score"], abs=1e-6)
    return list(found["data"]["hits"])


def test_what_is_wrong_gives_way_and_its_history_says_why(system: System) -> None:
    texts = ("The ferry to Ostend leaves at nine.", "The ferry to Ostend leaves at ten now.")
    kept = call(system, "/v1/memories?wait=indexed", {"memories": [{"content": text} for text in texts]})
    first, second = (each["id"] for each in kept["data"]["memories"])
    best = recall(system, "when does the ferry to Ostend leave?")[0]["memory"]["id"]
    other = second if best == first else first

    said = {"verdict": "wrong", "query": "when does the ferry leave?", "note": "new timetable"}
    call(system, f"/v1/memories/{best}/feedback?wait=done", said)

    hits = recall(system, "when does the ferry to Ostend leave?")
    assert [hit["memory"]["id"] for hit in hits] == [other, best]
    assert hits[1]["memory"]["feedback"] == {"useful": 0, "not_useful": 0, "wrong": 1}
    assert hits[1]["explain"]["parts"]["feedback"] < 0
    history = call(system, f"/v1/memories/{best}/history")["data"]
    assert [(each["verdict"], each["note"]) for each in history["feedback"]] == [("wrong", "new timetable")]
    assert call(system, f"/v1/memories/{best}")["data"]["feedback"]["wrong"] == 1


def test_what_was_written_is_read_once_and_what_nobody_said_not_at_all(system: System) -> None:
    notes = [{"content": "Joel plays the bassoon.", "session_id": f"s{n}"} for n in range(3)]
    jobs = [call(system, "/v1/memories", note)["data"]["job"] for note in notes]

    hits = recall(system, "what does Joel play?", written=jobs, limit=5)
    same = [hit for hit in hits if hit["memory"]["content"] == "Joel plays the bassoon."]
    assert [len(hit["duplicates"]) for hit in same] == [2]
    assert recall(system, "what is the boiling point of Mercury?", min_similarity=0.6) == []


def test_metadata_is_compared_by_recall_and_list_alike(system: System) -> None:
    prices = [{"content": f"Offer number {n}", "metadata": {"price": n, "due": f"2026-05-0{n}"}} for n in range(1, 6)]
    call(system, "/v1/memories?wait=done", {"memories": prices})
    ranges = {"price": {"gt": 1.5, "lte": 4}, "due": {"lt": "2026-05-04T00:00:00Z"}}

    found = recall(system, "offer", filters={"ranges": ranges})
    listed = call(system, f"/v1/memories?ranges={urllib.parse.quote(json.dumps(ranges))}")["data"]["memories"]

    assert {hit["memory"]["metadata"]["price"] for hit in found} == {2, 3}
    assert {memory["metadata"]["price"] for memory in listed} == {2, 3}


def test_the_command_counts_a_verdict_and_all_stores_agree_on_what_is_there(system: System) -> None:
    kept = call(system, "/v1/memories?wait=done", {"content": "The kayak is red."})["data"]["id"]

    code, told = engram(system, "feedback", kept, "useful", "--note", "yes")
    refused, _ = engram(system, "feedback", kept, "splendid")
    verified, report = engram(system, "verify")

    assert (code, told["id"]) == (0, kept)
    assert refused == 2
    assert recall(system, "which colour is the kayak?")[0]["memory"]["feedback"]["useful"] == 1
    assert (verified, report["differences"]) == (0, [])


def engram(system: System, *words: str) -> tuple[int, dict[str, Any]]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ENGRAM_")}
    environ = {**kept, "ENGRAM_DATA_DIR": str(system.data_dir)}
    done = subprocess.run(
        [warm_engram(), *words, "--json"], env=environ, capture_output=True, text=True, timeout=120, check=False
    )
    return done.returncode, json.loads(done.stdout or "{}")


def test_recalls_are_counted_in_index_and_record(system: System) -> None:
    kept = call(system, "/v1/memories?wait=indexed", {"content": "The lighthouse keeper of Fastnet was called Olaf."})
    memory_id = kept["data"]["id"]
    for limit in (1, 2, 3):
        recall(system, "who kept the lighthouse of Fastnet?", limit=limit)

    deadline = time.monotonic() + 30
    while (known := call(system, f"/v1/memories/{memory_id}")["data"])["access_count"] < 3:
        assert time.monotonic() < deadline, known
        time.sleep(0.05)
    best = recall(system, "who kept the lighthouse of Fastnet?", weights={"access": 1.0})[0]
    assert best["memory"]["id"] == memory_id
    assert best["memory"]["access_count"] >= 3
    assert best["explain"]["parts"]["access"] > 0
    assert known["version"] == 1
