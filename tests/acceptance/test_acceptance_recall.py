"""Recall over HTTP of whatever people write: any script, odd queries, combined filters; always explained."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

import pytest

from support.system import System

MEMORIES = (
    "我昨天在北京吃了烤鸭。",
    "Tôi thích uống cà phê sữa đá ở Sài Gòn.",
    "أحب القهوة العربية في الصباح",
    "Ich habe gestern in München ein Fahrrad gekauft.",
    "🎉🎂 party at 8",
    "The kayak is red.",
)


@dataclass(frozen=True)
class Asker:
    """A tenant that holds these memories alone."""

    url: str
    key: str


@pytest.fixture(scope="module")
async def asker(shared_system: System) -> Asker:
    made = Asker(shared_system.url, await shared_system.new_key("polyglot"))
    async with asyncio.timeout(30):
        while (await asyncio.to_thread(ask, made, "/v1/recall", {"query": "anything"}))[0] == 401:
            await asyncio.sleep(0.02)
    assert await asyncio.to_thread(ask, made, "/v1/recall", {"query": "anything"}) == (200, [])
    body = {"memories": [{"content": content} for content in MEMORIES]}
    assert (await asyncio.to_thread(send, made, "/v1/memories?wait=indexed", body))[0] == 201
    return made


def send(asker: Asker, path: str, body: dict[str, Any]) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {asker.key}", "Content-Type": "application/json"}
    request = urllib.request.Request(asker.url + path, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def ask(asker: Asker, path: str, body: dict[str, Any]) -> tuple[int, list[str]]:
    """The status and the texts that came back; every score must be the sum of its parts."""
    status, told = send(asker, path, {**body, "explain": True})
    hits = told["data"]["hits"] if status == 200 else []
    for hit in hits:
        assert sum(hit["explain"]["parts"].values()) == pytest.approx(hit["score"], abs=1e-6)
    return status, [hit["memory"]["content"] for hit in hits]


@pytest.mark.parametrize(
    ("query", "best"),
    [
        ("烤鸭", 0),
        ("cà phê Sài Gòn", 1),
        ("القهوة", 2),
        ("Wo habe ich das Fahrrad gekauft?", 3),
        ("🎂", 4),
        ("Which colour has the kayak?", 5),
    ],
)
def test_a_memory_is_recalled_in_its_own_language(asker: Asker, query: str, best: int) -> None:
    status, found = ask(asker, "/v1/recall", {"query": query})

    assert (status, found[0]) == (200, MEMORIES[best])


@pytest.mark.parametrize("query", ["the of and", "😀", "?" * 50, "Ann " * 2_500, "\u200b", "a" * 10_000])
def test_an_odd_query_gets_an_answer(asker: Asker, query: str) -> None:
    assert ask(asker, "/v1/recall", {"query": query})[0] == 200


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"query": "x " * 500_000}, "query"),
        ({"query": "x", "weights": {"dense": 2}}, "weights.dense"),
        ({"query": "x", "weights": {"charm": 1}}, "weights.charm"),
        ({"query": "x", "mode": "guess"}, "mode"),
        ({"query": "x", "filters": {"any_of": [{"any_of": [{"any_of": [{}]}]}]}}, "filters"),
    ],
)
def test_what_is_out_of_bounds_is_refused_by_name(asker: Asker, body: dict[str, Any], field: str) -> None:
    status, told = send(asker, "/v1/recall", body)

    assert (status, told["error"]["field"]) == (400, field)


def test_filters_combine_and_may_leave_nothing(asker: Asker) -> None:
    notes, none = {"any_of": [{"kind": "fact"}, {"kind": "note"}]}, {"none_of": [{"kind": "note"}]}

    assert len(ask(asker, "/v1/recall", {"query": "kayak", "filters": notes})[1]) == len(MEMORIES)
    assert ask(asker, "/v1/recall", {"query": "kayak", "filters": none}) == (200, [])


def test_weak_results_are_left_out_on_request(asker: Asker) -> None:
    body = {"query": "kayak", "min_score": 0.9, "weights": {"diversity": 0.5}}

    assert ask(asker, "/v1/recall", body) == (200, [MEMORIES[5]])
