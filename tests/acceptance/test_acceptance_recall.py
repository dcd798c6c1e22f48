"""Recall over HTTP of whatever people write: any script, odd queries, combined filters; always explained."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from support.system import System, embedded_system

MEMORIES = (
    "我昨天在北京吃了烤鸭。",
    "Tôi thích uống cà phê sữa đá ở Sài Gòn.",
    "أحب القهوة العربية في الصباح",
    "Ich habe gestern in München ein Fahrrad gekauft.",
    "🎉🎂 party at 8",
    "The kayak is red.",
)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with embedded_system(tmp_path_factory.mktemp("recall")) as running:
        assert ask(running, "/v1/recall", {"query": "anything"}) == (200, [])
        body = {"memories": [{"content": content} for content in MEMORIES]}
        assert send(running, "/v1/memories?wait=indexed", body)[0] == 201
        yield running


def send(system: System, path: str, body: dict[str, Any]) -> tuple[int, Any]:
    headers = {**system.headers, "Content-Type": "application/json"}
    request = urllib.request.Request(system.url + path, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def ask(system: System, path: str, body: dict[str, Any]) -> tuple[int, list[str]]:
    """The status and the texts that came back; every score must be the sum of its parts."""
    status, told = send(system, path, {**body, "explain": True})
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
def test_a_memory_is_recalled_in_its_own_language(system: System, query: str, best: int) -> None:
    status, found = ask(system, "/v1/recall", {"query": query})

    assert (status, found[0]) == (200, MEMORIES[best])


@pytest.mark.parametrize("query", ["the of and", "😀", "?" * 50, "Ann " * 2_500, "\u200b", "a" * 10_000])
def test_an_odd_query_gets_an_answer(system: System, query: str) -> None:
    assert ask(system, "/v1/recall", {"query": query})[0] == 200


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
def test_what_is_out_of_bounds_is_refused_by_name(system: System, body: dict[str, Any], field: str) -> None:
    status, told = send(system, "/v1/recall", body)

    assert (status, told["error"]["field"]) == (400, field)


def test_filters_combine_and_may_leave_nothing(system: System) -> None:
    notes, none = {"any_of": [{"kind": "fact"}, {"kind": "note"}]}, {"none_of": [{"kind": "note"}]}

    assert len(ask(system, "/v1/recall", {"query": "kayak", "filters": notes})[1]) == len(MEMORIES)
    assert ask(system, "/v1/recall", {"query": "kayak", "filters": none}) == (200, [])


def test_weak_results_are_left_out_on_request(system: System) -> None:
    body = {"query": "kayak", "min_score": 0.9, "weights": {"diversity": 0.5}}

    assert ask(system, "/v1/recall", body) == (200, [MEMORIES[5]])
