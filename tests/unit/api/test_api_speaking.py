"""What is said on a WebSocket: frames of the protocol, and the requests that messages stand for."""

from __future__ import annotations

import json

import pytest

from engram_api.access import Caller
from engram_api.speaking import framed, heard, operation_of, request_of
from engram_contracts.errors import Rejected

CALLER = Caller(tenant="acme", role="writer")


@pytest.mark.parametrize(("size", "head"), [(0, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10)])
def test_a_frame_tells_its_length_in_the_shortest_form(size: int, head: int) -> None:
    frame = framed(b"x" * size)

    assert len(frame) == head + size and frame[0] == 0x81
    told = frame[1] if head == 2 else int.from_bytes(frame[2:head], "big")
    assert told == size


def test_a_message_is_the_request_it_would_be_over_http() -> None:
    said = {
        "type": "feedback", "id": "1", "memory_id": "a/b", "body": {"verdict": "useful"}, "wait": "indexed",
        "idempotency_key": "k", "prefer": "wait=3",
    }  # fmt: skip
    ask = heard(json.dumps(said))

    request = request_of(ask, CALLER, remote=None, host="h")  # type: ignore[arg-type]  # it is one of them

    assert operation_of(ask).name == "judge"  # type: ignore[arg-type]  # likewise
    assert (request.method, request.rel_url.raw_path) == ("POST", "/v1/memories/a%2Fb/feedback")
    assert (dict(request.query), dict(request.match_info)) == ({"wait": "indexed"}, {"id": "a/b"})
    assert dict(request.headers) == {"Idempotency-Key": "k", "Prefer": "wait=3"}
    assert json.loads(request.body) == {"verdict": "useful"}


def test_a_subscription_is_a_stream_of_events() -> None:
    chosen = {"kinds": ["remembered", "forgotten"], "user_id": "ann"}
    ask = heard(json.dumps({"type": "subscribe", "id": "1", "after": 7, "filter": chosen}))

    request = request_of(ask, CALLER, remote=None, host="h")  # type: ignore[arg-type]  # it is one of them

    assert (request.method, request.rel_url.path) == ("GET", "/v1/events")
    assert request.query.getall("kind") == ["remembered", "forgotten"]
    assert (request.query["user_id"], request.query["after"]) == ("ann", "7")


@pytest.mark.parametrize(
    "text", ["", "[]", '{"type": "dance"}', '{"type": "recall", "id": "", "body": {}}', '{"type": "ping", "more": 1}']
)
def test_anything_else_is_refused_and_named(text: str) -> None:
    with pytest.raises(Rejected) as refused:
        heard(text)

    assert refused.value.field
