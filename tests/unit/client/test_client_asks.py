"""What a client sends, and what it does with what comes back; without any network."""

from __future__ import annotations

import importlib.util
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import engram_client
from engram_client.asks import Again, Ask, Exchange, Policy, data_as, flat
from engram_contracts.answers import Accepted
from engram_contracts.errors import Conflict, Internal, NotFound, QuotaExceeded, RateLimited, Unavailable
from engram_contracts.memory import Filters, NewMemory
from engram_contracts.retry import Retry
from support.servers import ROOT

ACCEPTED = b'{"data": {"id": "m", "job": "j", "new": 1}, "meta": {"request_id": "r"}, "error": null}'


def remembering(policy: Policy | None = None, **more: Any) -> Exchange[Accepted]:
    ask = Ask(
        method="POST", path="/v1/memories", body=NewMemory(content="a"), read=data_as(Accepted), writes=True, **more
    )
    return Exchange(ask, policy or Policy())


def refusal(code: str) -> bytes:
    return json.dumps({"data": None, "meta": {}, "error": {"code": code, "message": "no", "request_id": "r"}}).encode()


def test_every_try_of_a_write_carries_the_same_key_and_the_body_only_what_was_said() -> None:
    exchange = remembering()

    first, second = exchange.sent(), exchange.sent()

    assert first["headers"]["Idempotency-Key"] == second["headers"]["Idempotency-Key"]
    assert first["content"] == b'{"content":"a"}'
    assert remembering().sent()["headers"]["Idempotency-Key"] != first["headers"]["Idempotency-Key"]
    assert remembering(idempotency_key="own").sent()["headers"]["Idempotency-Key"] == "own"


def test_an_answer_is_read_and_what_is_new_in_it_passed_over() -> None:
    assert remembering().answered(202, {}, ACCEPTED) == Accepted(id="m", job="j")


@pytest.mark.parametrize(("status", "code"), [(429, "RATE_LIMITED"), (503, "UNAVAILABLE"), (500, "INTERNAL_ERROR")])
def test_it_waits_as_long_as_the_door_asks_for(status: int, code: str) -> None:
    exchange = remembering()
    exchange.sent()

    outcome = exchange.answered(status, {"Retry-After": "7"}, refusal(code))

    assert isinstance(outcome, Again) and outcome.seconds >= 7


def test_a_conflict_is_tried_again_only_where_the_door_says_when() -> None:
    assert isinstance(remembering().answered(409, {"Retry-After": "1"}, refusal("CONFLICT")), Again)
    with pytest.raises(Conflict):
        remembering().answered(409, {}, refusal("CONFLICT"))


@pytest.mark.parametrize(
    ("status", "code", "kind"), [(404, "NOT_FOUND", NotFound), (402, "QUOTA_EXCEEDED", QuotaExceeded)]
)
def test_a_refusal_for_good_is_raised_at_once_as_its_class(status: int, code: str, kind: type[Exception]) -> None:
    with pytest.raises(kind) as raised:
        remembering().answered(status, {}, refusal(code))

    assert raised.value.details["request_id"] == "r"  # type: ignore[attr-defined]


def test_tries_come_to_an_end_by_number_and_by_time() -> None:
    few = remembering(Policy(retry=Retry(attempts=2, first=0.1)))
    few.sent()
    few.broken(OSError())
    few.sent()
    with pytest.raises(Unavailable):
        few.broken(OSError())
    with pytest.raises(RateLimited):
        remembering(Policy(longest_wait=5)).answered(429, {"Retry-After": "6"}, refusal("RATE_LIMITED"))


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"data": null}', b'{"error": "?"}'])
def test_what_is_not_engrams_is_said_to_be_so(body: bytes) -> None:
    with pytest.raises(Internal):
        remembering().answered(200, {}, body)
    with pytest.raises(Internal):
        remembering(Policy(retry=Retry(attempts=0))).answered(502, {}, body)


def test_queries_repeat_lists_and_write_objects_in_json() -> None:
    query = {
        "tags": ["a", "b"], "metadata": {"room": 3}, "cursor": None, "limit": 5,
        "all_of": [Filters(user_id="u")], "at": datetime(2026, 3, 1, tzinfo=UTC),
    }  # fmt: skip

    assert flat(query) == [
        ("tags", "a"), ("tags", "b"), ("metadata", '{"room": 3}'), ("limit", "5"), ("all_of", '{"user_id": "u"}'),
        ("at", "2026-03-01T00:00:00Z"),
    ]  # fmt: skip


def test_the_synchronous_client_is_what_is_made_from_the_asynchronous_one() -> None:
    room = Path(engram_client.__file__).parent
    found = importlib.util.spec_from_file_location("unasync", ROOT / "clients" / "python" / "unasync.py")
    assert found is not None and found.loader is not None
    unasync = importlib.util.module_from_spec(found)
    found.loader.exec_module(unasync)

    def words(text: str) -> list[str]:
        code = re.sub(r"^from [^()]*?\([^)]*\)|^(from|import) .*", "", text, flags=re.M)
        return re.findall(r"\w+", code)

    expected = words(unasync.synchronous((room / "asynchronous.py").read_text()))
    assert words((room / "synchronous.py").read_text()) == expected, "run `make client`"
