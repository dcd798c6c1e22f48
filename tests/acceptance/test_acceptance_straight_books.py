"""What other systems publish is bounded, counted and written down as what comes over HTTP."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import aiohttp
import nats
import pytest

from engram import admitting, trails
from engram_contracts.commands import Command, Forget, PutNode, Remember, Revise, Think
from engram_contracts.ids import derived_id, new_id
from engram_contracts.memory import MemoryFields
from engram_contracts.topology import work_subject
from engram_runtime.nats_bus import open_bus
from support.system import System
from support.waiting import holds

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


class Owner:
    """The owner of the installation, over HTTP."""

    def __init__(self, system: System, session: aiohttp.ClientSession) -> None:
        self._system = system
        self._session = session
        self._key = (system.data_dir / "system.key").read_text().strip()

    async def asked(self, method: str, path: str, body: Any = None, *, tenant: str = "_system") -> tuple[int, Any]:
        """Status, and the data or the error."""
        headers = {"Authorization": f"Bearer {self._key}", "X-Engram-Tenant": tenant}
        async with self._session.request(method, self._system.url + path, json=body, headers=headers) as answer:
            said = await answer.json()
            return answer.status, said["data"] or said["error"]

    async def calls(self, tenant: str) -> Counter[str]:
        """The event of each call that the ledger charged the tenant, and how often."""
        headers = {"Authorization": f"Bearer {self._key}", "X-Engram-Tenant": tenant}
        params = {"format": "csv", "by": "event"}
        async with self._session.get(f"{self._system.url}/v1/usage/export", params=params, headers=headers) as answer:
            assert answer.status == 200, await answer.text()
            rows = csv.DictReader(io.StringIO(await answer.text()))
            return Counter(row["event_id"] for row in rows if row["meter"] == "api_calls" and row["amount"] == "1")


@pytest.fixture
async def owner(shared_system: System) -> AsyncIterator[Owner]:
    async with aiohttp.ClientSession() as session:
        yield Owner(shared_system, session)


Publish = Callable[[Command], Any]


@contextlib.asynccontextmanager
async def producer(system: System, owner: Owner, tenant: str, **overrides: Any) -> AsyncIterator[tuple[Publish, str]]:
    """A way to publish for a new tenant with these limits, and the name of its credentials."""
    made = {"name": tenant, "plan": "unlimited", "overrides": overrides}
    assert (await owner.asked("POST", "/v1/tenants", made))[0] == 201
    creds = await admitting.issue(system.data_dir, tenant, "writer", "")
    connection = await nats.connect(creds["url"], user=creds["user"], password=creds["password"])

    async def publish(command: Command) -> dict[str, Any]:
        answer = await connection.request(work_subject(tenant, command.op), command.encode(), timeout=30.0)
        said: dict[str, Any] = json.loads(answer.data)
        return said

    try:
        yield publish, creds["user"]
    finally:
        await connection.close()


def remember(content: str = "The kiln was fired.") -> Remember:
    identity = new_id()
    fields = MemoryFields(content=content)
    return Remember(id=identity, memory_id=identity, accepted_at=LONG_AGO, memory=fields, actor="somebody-else")


async def test_a_quota_holds_for_what_is_published_and_says_what_it_is(shared_system: System, owner: Owner) -> None:
    async with producer(shared_system, owner, "quota-nats", quotas={"memories": 3}) as (publish, _):
        said = [await publish(remember()) for _ in range(5)]
        over_http = await owner.asked("POST", "/v1/memories", {"content": "x"}, tenant="quota-nats")

    assert [("seq" in each) for each in said] == [True, True, True, False, False]
    assert (said[3]["error"]["code"], said[3]["failure"]["code"]) == (402, "QUOTA_EXCEEDED")
    assert said[3]["failure"]["details"] == {"metric": "memories", "current": 3, "limit": 3, "reset": None}
    assert over_http[0] == 402


async def test_storage_and_thinking_are_bounded_too(shared_system: System, owner: Owner) -> None:
    quotas = {"storage_bytes": 100, "think_tokens": 0}
    async with producer(shared_system, owner, "bytes-nats", quotas=quotas) as (publish, _):
        large = await publish(remember("a" * 101))
        small = await publish(remember("a" * 60))
        thought = await publish(Think(id=new_id(), accepted_at=LONG_AGO, question="why?"))

    assert (large["error"]["code"], large["failure"]["details"]["metric"]) == (402, "storage_bytes")
    assert "seq" in small
    assert (thought["error"]["code"], thought["failure"]["details"]["metric"]) == (402, "think_tokens")


async def test_one_bucket_is_drawn_from_by_what_is_published_and_what_comes_over_http(
    shared_system: System, owner: Owner
) -> None:
    rates = {"standard": {"per_minute": 0.1, "burst": 3}}
    async with producer(shared_system, owner, "rate-nats", rates=rates) as (publish, _):
        said = [await publish(remember()) for _ in range(4)]
        over_http = await owner.asked("GET", "/v1/memories", tenant="rate-nats")

    assert [("seq" in each) for each in said] == [True, True, True, False]
    assert (said[3]["error"]["code"], said[3]["failure"]["code"]) == (429, "RATE_LIMITED")
    assert said[3]["failure"]["retry_after"] > 0
    assert over_http[0] == 429


async def test_what_is_published_is_in_the_ledger_and_in_the_trail_under_its_credentials(
    shared_system: System, owner: Owner
) -> None:
    tenant, kept = "trail-nats", remember("Clay and glaze.")
    revised = Revise(id=new_id(), accepted_at=LONG_AGO, memory_id=kept.memory_id, changes={"content": "Glaze."})
    gone = Forget(id=new_id(), accepted_at=LONG_AGO, memory_id=kept.memory_id)
    node = PutNode(id=derived_id("n"), accepted_at=LONG_AGO, node="person:Joel", attributes={})
    async with producer(shared_system, owner, tenant) as (publish, user):
        for command in (kept, kept, revised, gone, node):
            assert "seq" in await publish(command)
        broken = await publish(node.model_copy(update={"node": "no node", "id": new_id()}))
        await owner.asked("POST", f"/v1/tenants/{tenant}/suspend", {})
        assert await holds(lambda: _is_refused(publish))

        wanted = {"remembered", "revised", "forgotten", "node-put"}
        assert await holds(lambda: _told(shared_system, tenant, wanted))
        records = await _records(shared_system, tenant)
        await owner.asked("POST", f"/v1/tenants/{tenant}/resume")
        assert await holds(lambda: _charged(owner, tenant, memories_created=1, memories_deleted=1))
        made = [("remember", kept), ("revise", revised), ("forget", gone), ("put_node", node)]
        ids = [derived_id("usage", tenant, route, f"nats {command.id}") for route, command in made]
        assert await holds(lambda: _called(owner, tenant, ids)), "the ledger reads calls and facts apart"
        calls = await owner.calls(tenant)

    assert [calls[each] for each in ids] == [1, 1, 1, 1]
    assert broken["error"]["code"] == 400
    assert {each["actor"] for each in records if each["action"] in wanted} == {user}
    assert all(each["at"] > "2026" for each in records)
    assert "Clay" not in json.dumps(records)


async def _is_refused(publish: Publish) -> bool:
    return bool((await publish(remember())).get("error", {}).get("code") == 403)


async def _records(system: System, tenant: str) -> list[dict[str, Any]]:
    async with open_bus(system.nats, name="tests") as bus:
        return [record async for record in trails.records(bus, tenant)]


async def _told(system: System, tenant: str, wanted: set[str]) -> bool:
    return wanted <= {record["action"] for record in await _records(system, tenant)}


async def _called(owner: Owner, tenant: str, events: list[str]) -> bool:
    return set(events) <= set(await owner.calls(tenant))


async def _charged(owner: Owner, tenant: str, **wanted: int) -> bool:
    status, usage = await owner.asked("GET", "/v1/usage", tenant=tenant)
    return status == 200 and {name: usage["totals"].get(name) for name in wanted} == wanted
