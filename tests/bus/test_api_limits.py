"""Limits at the door: rates that doors share, quotas of a plan, and addresses that fail to log in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from engram_contracts.control import TenantRecord
from engram_contracts.questions import GetStanding, GetUsage, Standing, Usage
from engram_contracts.topology import TENANTS, WORK
from engram_runtime.keys import create_key
from support.door import DoorUnderTest, open_door
from support.servers import NatsServer, nats_server

MIDNIGHT = datetime(2026, 11, 22, tzinfo=UTC)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory):
    with nats_server(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
async def door(broker: NatsServer, folder: Path) -> AsyncIterator[DoorUnderTest]:
    async with open_door(broker, folder, limits={"loopback": True, "failures_per_minute": 20}) as door:
        yield door


@pytest.fixture(scope="module")
async def other(broker: NatsServer, folder: Path, door: DoorUnderTest) -> AsyncIterator[DoorUnderTest]:
    async with open_door(broker, folder, plays=()) as other:
        yield other


async def tenant(door: DoorUnderTest, name: str, *, beside: DoorUnderTest | None = None, **overrides: Any) -> str:
    """An admin's key of a tenant with these limits, which both doors know."""
    record = TenantRecord.model_validate(
        {"name": name, "created_at": datetime.now(UTC), "plan": "unlimited", "overrides": overrides}
    )
    await door.bus.bucket(TENANTS).put(name, record.encode())
    key = await create_key(door.bus, name, "admin", "test", door.pepper)
    for each in filter(None, (door, beside)):
        async with asyncio.timeout(10):
            while (await each.call("GET", "/v1/jobs/job_0", key=key)).status in (401, 403):
                await asyncio.sleep(0.01)
    return key


def stands(door: DoorUnderTest, **used: int) -> None:
    """What the ledger says of every tenant."""

    def standing(question: GetStanding) -> Standing:
        nothing = {"memories": 0, "storage_bytes": 0, "calls": 0, "think_tokens": 0}
        return Standing(tenant=question.tenant, used={**nothing, **used}, resets_at=MIDNIGHT + timedelta(days=3650))

    door.parts.scripts[GetStanding] = standing
    door.parts.scripts[GetUsage] = lambda question: Usage(tenant=question.tenant, totals={}, days=())


async def remember(door: DoorUnderTest, key: str, *texts: str) -> Any:
    return await door.call("POST", "/v1/memories", {"memories": [{"content": text} for text in texts]}, key=key)


async def test_two_doors_give_out_the_burst_of_one_bucket_and_then_refuse(
    door: DoorUnderTest, other: DoorUnderTest
) -> None:
    key = await tenant(door, "rated", beside=other)
    slow = TenantRecord.model_validate(
        {
            "name": "rated",
            "created_at": datetime.now(UTC),
            "overrides": {"rates": {"standard": {"per_minute": 6, "burst": 8}}},
        }
    )
    await door.bus.bucket(TENANTS).put("rated", slow.encode())
    for each in (door, other):
        async with asyncio.timeout(10):
            while "RateLimit" not in (await each.call("GET", "/v1/jobs/job_0", key=key)).headers:
                await asyncio.sleep(0.01)

    replies = [await each.call("GET", "/v1/jobs/job_0", key=key) for _ in range(8) for each in (door, other)]

    assert sum(reply.status != 429 for reply in replies) == 6  # two were used to see that both doors know
    refused = replies[-1]
    assert refused.error["code"] == "RATE_LIMITED"
    assert refused.error["details"] == {"class": "standard", "per_minute": 6, "burst": 8}
    assert 1 <= int(refused.headers["Retry-After"]) <= 10
    assert refused.headers["RateLimit"].startswith('"standard";r=0;t=')


async def test_headers_tell_what_is_left(door: DoorUnderTest) -> None:
    key = await tenant(door, "told", rates={"standard": {"per_minute": 60, "burst": 30}})

    reply = await door.call("GET", "/v1/jobs/job_0", key=key)

    assert reply.headers["RateLimit-Policy"] == '"standard";q=60;w=60'
    assert reply.headers["RateLimit"].startswith('"standard";r=2')


async def test_a_tenant_without_bounds_is_told_of_none(door: DoorUnderTest) -> None:
    reply = await door.call("GET", "/v1/jobs/job_0")

    assert "RateLimit" not in reply.headers
    assert GetStanding not in {type(question) for question in door.parts.asked if question.tenant == "default"}  # type: ignore[attr-defined]  # all of these have a tenant


async def test_memories_beyond_the_quota_are_refused_whole_and_what_fits_is_taken(door: DoorUnderTest) -> None:
    stands(door, memories=2)
    key = await tenant(door, "full", quotas={"memories": 5})

    assert (await remember(door, key, "one", "two")).status == 202
    refused = await remember(door, key, "three", "four")
    assert (await remember(door, key, "three")).status == 202
    again = await remember(door, key, "four")

    assert (refused.status, again.status) == (402, 402)
    assert refused.error["code"] == "QUOTA_EXCEEDED"
    assert refused.error["details"] == {"metric": "memories", "current": 4, "limit": 5, "reset": None}
    assert len(await door.bus.archive(WORK).read(1, pattern="engram.work.*.remember.full", limit=10)) == 3


async def test_bytes_beyond_the_quota_are_refused(door: DoorUnderTest) -> None:
    stands(door, storage_bytes=90)
    key = await tenant(door, "heavy", quotas={"storage_bytes": 100})

    assert (await remember(door, key, "x" * 10)).status == 202
    refused = await remember(door, key, "x")

    assert refused.status == 402
    assert refused.error["details"]["metric"] == "storage_bytes"


async def test_calls_beyond_the_quota_are_refused_until_the_day_ends_but_usage_is_told(door: DoorUnderTest) -> None:
    stands(door, calls=7)
    key = await tenant(door, "busy", quotas={"calls": 8})

    first = await remember(door, key, "one")
    refused = await remember(door, key, "two")

    assert (first.status, refused.status) in ((202, 402), (402, 402))  # asking whether the key is known was a call
    reset = (MIDNIGHT + timedelta(days=3650)).isoformat()
    assert refused.error["details"] == {"metric": "calls", "current": 8, "limit": 8, "reset": reset}
    assert (await door.call("GET", "/v1/usage", key=key)).status == 200


async def test_a_question_is_refused_before_it_is_on_its_way_when_no_tokens_are_left(door: DoorUnderTest) -> None:
    stands(door, think_tokens=1_000)
    key = await tenant(door, "thoughtful", quotas={"think_tokens": 1_000})

    refused = await door.call("POST", "/v1/think", {"question": "Why?"}, key=key)

    assert refused.status == 402
    assert refused.error["details"]["metric"] == "think_tokens"
    assert not await door.bus.archive(WORK).read(1, pattern="engram.work.*.think.thoughtful", limit=1)


async def test_a_tenant_with_too_many_dead_letters_makes_no_more_but_can_clear_them(door: DoorUnderTest) -> None:
    stands(door)
    key = await tenant(door, "broken", quotas={"dead_letters": 0})

    assert (await remember(door, key, "one")).status == 402
    assert (await door.call("GET", "/v1/dead-letters", key=key)).status == 503  # nobody is there to answer


async def test_the_ledger_being_away_refuses_nobody(door: DoorUnderTest) -> None:
    door.parts.scripts.pop(GetStanding, None)
    key = await tenant(door, "unknown", quotas={"memories": 5})

    assert (await remember(door, key, "one")).status == 202


async def test_an_address_that_keeps_failing_is_refused_whatever_key_it_then_sends(door: DoorUnderTest) -> None:
    wrong = [await door.call("GET", "/v1/usage", key="eng_live_wrong") for _ in range(25)]
    right = await door.call("GET", "/v1/usage")

    assert {reply.status for reply in wrong} == {401, 429}
    assert right.status == 429
    assert int(right.headers["Retry-After"]) >= 1
    assert (await door.call("GET", "/health", key=None)).status == 200
