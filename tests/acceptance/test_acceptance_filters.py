"""Random filtered recalls over HTTP, against brute force: never a memory of another tenant or outside the filter.

ENGRAM_RECALLS sets how many (10,000 take some minutes).
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Mapping
from typing import Any

import aiohttp
import pytest

from engram_contracts.memory import Filters, Memory
from support.filtering import fits, random_filters, random_memory
from support.system import System

RECALLS = int(os.environ.get("ENGRAM_RECALLS", "200"))
TENANTS = tuple(f"filtered-{number}" for number in range(20))
EACH = 60
"""Memories of a tenant; a recall brings up to 100, so that all that pass the filter have to come."""
AT_ONCE = 8
SENT = (
    "content", "user_id", "agent_id", "session_id", "speaker", "kind", "tags", "metadata", "occurred_at",
)  # fmt: skip
WORDS = (
    "who", "what", "went", "saw", "river", "lantern", "Oslo", "Ben", "boat", "the", "of", "and", "1999", "привет",
    "東京", "café", "🎉",
)  # fmt: skip


Headers = Mapping[str, str]


def fields_of(number: int, chance: random.Random) -> dict[str, Any]:
    what = random_memory(number, chance).model_copy(update={"content": " ".join(chance.choices(WORDS, k=6))})
    return {name: value for name, value in what.model_dump(mode="json").items() if name in SENT and value is not None}


async def filled(
    session: aiohttp.ClientSession, headers: Mapping[str, str], chance: random.Random
) -> dict[str, Memory]:
    """A tenant's memories as they are kept, by id."""
    batch = {"memories": [fields_of(number, chance) for number in range(EACH)]}
    async with session.post("/v1/memories?wait=indexed", json=batch, headers=headers) as answer:
        assert answer.status == 201, await answer.text()
        made = [each["id"] for each in (await answer.json())["data"]["memories"]]
    kept = {}
    for memory_id in made:
        async with session.get(f"/v1/memories/{memory_id}", headers=headers) as answer:
            kept[memory_id] = Memory.model_validate((await answer.json())["data"])
    return kept


async def misled(
    session: aiohttp.ClientSession, headers: Mapping[str, str], kept: Mapping[str, Memory], seed: int
) -> str:
    """What is wrong with one random recall, or nothing."""
    chance = random.Random(seed)
    filters = random_filters(chance) if chance.random() < 0.9 else Filters()
    query = " ".join(chance.choices(WORDS, k=chance.randrange(1, 6)))
    body = {
        "query": query, "limit": 100, "fold": "none",
        "filters": filters.model_dump(mode="json", exclude_none=True, exclude_unset=True),
    }  # fmt: skip
    async with session.post("/v1/recall", json=body, headers=headers) as answer:
        told = await answer.json()
    if answer.status != 200 or told["meta"].get("degraded"):
        return f"seed {seed}: {answer.status} {told}"
    found = {hit["memory"]["id"] for hit in told["data"]["hits"]}
    right = {memory_id for memory_id, what in kept.items() if fits(what, filters)}
    if found == right:
        return ""
    foreign = found - kept.keys()
    return f"seed {seed}: {len(foreign)} foreign, {len(found - right)} unwanted, {len(right - found)} missing; {body}"


@pytest.mark.timeout(240 + RECALLS)
async def test_random_filtered_recalls_bring_exactly_what_passes(shared_system: System) -> None:
    chance = random.Random(5)
    keys = {tenant: {"Authorization": f"Bearer {await shared_system.new_key(tenant)}"} for tenant in TENANTS}
    places = asyncio.Semaphore(AT_ONCE)
    async with aiohttp.ClientSession(shared_system.url) as session:
        kept = {tenant: await filled(session, headers, chance) for tenant, headers in keys.items()}

        async def once(number: int) -> str:
            tenant = TENANTS[number % len(TENANTS)]
            async with places:
                return await misled(session, keys[tenant], kept[tenant], number)

        wrong = [said for said in await asyncio.gather(*map(once, range(RECALLS))) if said]

    assert not wrong, f"{len(wrong)} of {RECALLS}: {wrong[:3]}"
