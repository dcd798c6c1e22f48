"""Answers that are streamed: piece by piece, through failures, and never lost with their stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from support.door import DoorUnderTest
from support.events import Event, events, opened
from support.fake_model import FakeModel, Reply, fake_model
from support.live_room import live_room
from support.servers import NatsServer, nats_server

ASKED = {"question": "What is Tom's dog called?"}
ANSWER = "The dog is called Juno, she is a greyhound [1]."


@pytest.fixture(scope="module")
async def model() -> AsyncIterator[FakeModel]:
    async with fake_model(Reply(text=ANSWER)) as running:
        yield running


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with nats_server(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture(scope="module")
async def door(
    broker: NatsServer, model: FakeModel, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[DoorUnderTest]:
    async with live_room(broker, tmp_path_factory.mktemp("door"), model, serve={"slow_seconds": 1.0}) as door:
        yield door


async def asked(door: DoorUnderTest, body: Any = ASKED, **headers: str) -> list[Event]:
    """All events of a question."""
    async with (
        asyncio.timeout(30),
        opened(door.session, "POST", f"{door.url}/v1/think", key=door.key, body=body, **headers) as answer,
    ):
        assert answer.headers["X-Accel-Buffering"] == "no"
        return [event async for event in events(answer)]


async def job_that_is(door: DoorUnderTest, job: str, *states: str) -> dict[str, Any]:
    async with asyncio.timeout(30):
        while (told := (await door.call("GET", f"/v1/jobs/{job}")).data)["state"] not in states:
            await asyncio.sleep(0.02)
    return told


def text_of(told: list[Event]) -> str:
    """What the pieces since the last failed try say together."""
    last = max((place for place, event in enumerate(told) if event.name == "retry"), default=0)
    return "".join(event.data["text"] for event in told[last:] if event.name == "token")


async def test_an_answer_comes_piece_by_piece_then_what_it_rests_on_and_cost(
    door: DoorUnderTest, model: FakeModel
) -> None:
    told = await asked(door)

    names = [event.name for event in told]
    assert names[0] == "accepted" and names[-3:] == ["citations", "usage", "done"]
    assert names[1:-3] == ["token"] * (len(names) - 4) and len(names) > 8
    assert text_of(told) == ANSWER
    assert told[-3].data["citations"][0]["memory_id"] == "m3"
    assert told[-2].data == {
        "prompt_tokens": 100, "completion_tokens": 20, "calls": 1, "estimated": False, "cost": 0.00036,
    }  # fmt: skip
    assert (told[-1].data["job"], told[-1].data["answer"]) == (told[0].data["job"], ANSWER)


async def test_a_try_that_fails_is_told_and_the_next_begins_anew(door: DoorUnderTest, model: FakeModel) -> None:
    model.then(Reply(text=ANSWER, ill="truncate"), Reply(status=429, retry_after="0.1"))

    told = await asked(door)

    retries = [event.data for event in told if event.name == "retry"]
    assert len(retries) >= 2 and "broke off" in retries[0]["reason"] and "429" in retries[1]["reason"]
    assert retries[0]["next_at"] is not None
    assert told[1].name == "token"
    assert (text_of(told), told[-1].name) == (ANSWER, "done")


async def test_closing_the_stream_does_not_lose_the_answer(door: DoorUnderTest, model: FakeModel) -> None:
    model.then(Reply(text=ANSWER, between=0.05))

    async with opened(door.session, "POST", f"{door.url}/v1/think", key=door.key, body=ASKED) as answer:
        job = (await anext(aiter(events(answer)))).data["job"]

    assert (await job_that_is(door, job, "done"))["thought"]["answer"] == ANSWER


async def test_a_question_that_is_called_off_ends_the_stream_and_the_models_call(
    door: DoorUnderTest, model: FakeModel
) -> None:
    model.then(Reply(text=ANSWER * 200, between=0.02))
    before = model.hung_up

    async with (
        asyncio.timeout(30),
        opened(door.session, "POST", f"{door.url}/v1/think", key=door.key, body=ASKED) as answer,
    ):
        told = []
        async for event in events(answer):
            told.append(event)
            if len(told) == 3:
                assert (await door.call("DELETE", f"/v1/jobs/{told[0].data['job']}")).status == 202

    assert (told[-1].name, told[-1].data["message"]) == ("error", "it was cancelled")
    async with asyncio.timeout(10):
        while model.hung_up == before:
            await asyncio.sleep(0.01)


async def test_a_repeat_under_its_key_is_told_the_first_answer(door: DoorUnderTest, model: FakeModel) -> None:
    first = await asked(door, Idempotency_Key="k-1")
    calls = len(model.calls)
    again = await asked(door, Idempotency_Key="k-1")
    other = await asked(door, {"question": "Another one?"}, Idempotency_Key="k-1")

    assert again[-1].data == {**first[-1].data, "job": again[0].data["job"]}
    assert len(model.calls) == calls
    assert (other[-1].name, other[-1].data["code"]) == ("error", "CONFLICT")


async def test_who_would_rather_not_wait_gets_a_job_and_may_follow_it(door: DoorUnderTest, model: FakeModel) -> None:
    model.then(Reply(text=ANSWER, between=0.05))

    accepted = await door.call("POST", "/v1/think", ASKED, headers={"Prefer": "respond-async"})
    path = f"/v1/jobs/{accepted.data['job']}/events"
    async with asyncio.timeout(30), opened(door.session, "GET", door.url + path, key=door.key) as answer:
        told = [event async for event in events(answer)]

    assert accepted.status == 202
    assert (told[0].name, told[0].data["state"]) == ("job", "accepted")
    assert {"token", "citations", "usage"} <= {event.name for event in told}
    assert (told[-1].name, told[-1].data["state"]) == ("done", "done")
    assert told[-1].data["thought"]["answer"] == ANSWER


async def test_a_job_of_somebody_else_has_no_events(door: DoorUnderTest) -> None:
    assert (await door.call("GET", "/v1/jobs/job_1_2_3/events")).status == 404


async def test_what_cannot_be_asked_is_refused_before_anything_is_streamed(door: DoorUnderTest) -> None:
    refused = await door.call("POST", "/v1/think", {"question": ""}, headers={"Accept": "text/event-stream"})

    assert (refused.status, refused.error["field"]) == (400, "question")


async def test_the_first_piece_comes_while_the_model_still_speaks(door: DoorUnderTest, model: FakeModel) -> None:
    model.then(Reply(text=ANSWER, ill="hang midway"))

    async with (
        asyncio.timeout(30),
        opened(door.session, "POST", f"{door.url}/v1/think", key=door.key, body=ASKED) as answer,
    ):
        async for event in events(answer):
            if event.name == "token":
                break
    await door.call("DELETE", answer.headers["Location"])


async def test_a_context_is_packed_into_its_budget_without_a_model(door: DoorUnderTest, model: FakeModel) -> None:
    calls = len(model.calls)

    large = await door.call("POST", "/v1/context", {"query": "What is Tom's dog called?", "budget": 2_000})
    small = await door.call("POST", "/v1/context", {"query": "What is Tom's dog called?", "budget": 100})
    newest = await door.call("POST", "/v1/context", {"query": "Tom", "order": "recent"})

    assert (large.status, len(model.calls)) == (200, calls)
    assert large.data["sources"][0]["memory_id"] == "m3" and "Juno" in large.data["text"].splitlines()[0]
    assert small.data["tokens"] <= 100 and small.data["left_out"] > 0
    assert [source["memory_id"] for source in newest.data["sources"][:4]] == ["m8", "m9", "m10", "m11"]


async def test_a_broker_that_is_started_again_in_mid_stream_ends_in_a_whole_answer(
    model: FakeModel, tmp_path: Path
) -> None:
    model.then(Reply(text=ANSWER, between=0.15))
    with nats_server(tmp_path / "nats") as server:
        async with live_room(server, tmp_path / "door", model) as door:
            async with (
                asyncio.timeout(60),
                opened(door.session, "POST", f"{door.url}/v1/think", key=door.key, body=ASKED) as answer,
            ):
                told = []
                async for event in events(answer):
                    told.append(event)
                    if len(told) == 3:
                        server.kill()
                        server.start()

            job = await job_that_is(door, told[0].data["job"], "done")

    assert job["thought"]["answer"] == ANSWER
    assert (told[-1].name, told[-1].data["answer"]) == ("done", ANSWER)
