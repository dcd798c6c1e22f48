"""Clients of a system that is being broken: they write and recall at a steady rate, and note what they were told.

A request that fails is sent again under the same key, as a good client does, until it is accepted or the traffic ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from support.journal import Attempt, Attempts, Journal

PATIENCE = 10.0
PAUSE = 0.15
MOST_OPEN = 400
BULK = 12
"""More than eight memories in one request go on the bulk lanes."""

WORDS = (
    "kiln", "ferry", "walnut", "harbour", "ledger", "lantern", "orchard", "violin", "glacier", "saffron", "anvil",
    "compass", "juniper", "mortar", "quarry", "rudder", "satchel", "thimble", "umbra", "vellum",
)  # fmt: skip

Send = Callable[[], Awaitable[tuple[int, Any, float]]]


@dataclass(frozen=True)
class Mix:
    """Shares of the requests; the rest are single memories. Rates are requests a second."""

    writes: float = 50.0
    recalls: float = 10.0
    thinks: float = 0.0
    bulk: float = 0.02
    revise: float = 0.06
    forget: float = 0.03


class Traffic:
    """`keys` holds one API key per tenant. All that is random comes from `seed`."""

    def __init__(
        self, url: str, keys: Mapping[str, str], journal: Journal, *, seed: int, mix: Mix | None = None
    ) -> None:
        self._url = url
        self._keys = dict(keys)
        self._journal = journal
        self._mix = mix or Mix()
        self._chance = random.Random(seed)
        self._seed = seed
        self._open: set[asyncio.Task[None]] = set()
        self._free: list[tuple[str, str]] = []
        """Memories that were acknowledged and may still be changed: tenant and id."""
        self._session: aiohttp.ClientSession
        self._going = True
        self._number = 0
        self.attempts = Attempts()
        self.jobs: list[tuple[str, str]] = []
        """Tenant and job of each question that was accepted; nobody waits for its answer."""
        self.given_up = 0
        self.degraded = 0
        self.early = 0
        """Changes that were refused because their memory, though accepted, could not be seen yet."""
        self.wrong: list[str] = []
        """Answers that no failure excuses: another tenant's memory, another status than a refusal."""

    @contextlib.asynccontextmanager
    async def flowing(self) -> AsyncIterator[Traffic]:
        """Requests flow for the length of the block; at its end, what is open has ten seconds to be accepted."""
        connector = aiohttp.TCPConnector(limit=0, force_close=False)
        timeout = aiohttp.ClientTimeout(total=PATIENCE)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as self._session:
            mix = self._mix
            rates = ((mix.writes, self._write), (mix.recalls, self._recall), (mix.thinks, self._think))
            clients = [asyncio.create_task(self._paced(rate, act)) for rate, act in rates]
            try:
                yield self
            finally:
                for client in clients:
                    client.cancel()
                await asyncio.gather(*clients, return_exceptions=True)
                await self._settle()

    async def written(self, count: int, *, seconds: float) -> None:
        """Wait until so many lines are in the journal."""
        async with asyncio.timeout(seconds):
            while self._journal.written < count:
                await asyncio.sleep(0.05)

    def stop(self) -> None:
        """Nothing more is tried: whoever was asked is gone."""
        self._going = False
        for task in self._open:
            task.cancel()

    async def _settle(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while self._open and time.monotonic() < deadline:
            await asyncio.wait(self._open, timeout=0.2)
        self._going = False
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _paced(self, rate: float, act: Callable[[int], Awaitable[None]]) -> None:
        if not rate:
            return
        began, number = time.monotonic(), 0
        while True:
            await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
            number += 1
            if len(self._open) < MOST_OPEN:
                self._number += 1
                task = asyncio.create_task(self._guard(act(self._number)))
                self._open.add(task)
                task.add_done_callback(self._open.discard)

    async def _guard(self, act: Awaitable[None]) -> None:
        try:
            await act
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        except Exception as error:
            self.wrong.append(repr(error))

    async def _write(self, number: int) -> None:
        tenant = self._chance.choice(list(self._keys))
        draw = self._chance.random()
        mix = self._mix
        if draw < mix.bulk:
            await self._bulk(tenant, number)
        elif draw < mix.bulk + mix.revise and self._free:
            await self._revise(number)
        elif draw < mix.bulk + mix.revise + mix.forget and self._free:
            await self._forget(number)
        else:
            await self._remember(tenant, number)

    async def _remember(self, tenant: str, number: int) -> None:
        content = self._text(tenant, number)
        name = self._journal.intend(tenant, content)
        body: dict[str, Any] = {"content": content, "speaker": f"Writer{number % 7}", "session_id": f"s{number % 50}"}
        headers = {}
        if number % 2:
            body["key"] = self._key(number)
        else:
            headers["Idempotency-Key"] = self._key(number)
        data = await self._until_accepted("remember", tenant, "POST", "/v1/memories", body, headers)
        if data is not None:
            line = {"op": "remember", "tenant": tenant, "id": data["id"], "hash": name, "at": time.time()}
            await self._journal.acknowledge(line)
            self._free.append((tenant, data["id"]))

    async def _bulk(self, tenant: str, number: int) -> None:
        texts = [self._text(tenant, number, part) for part in range(BULK)]
        names = [self._journal.intend(tenant, text) for text in texts]
        left = list(range(BULK))
        while left:
            memories = [{"content": texts[n], "key": self._key(number, n)} for n in left]
            data = await self._until_accepted("bulk", tenant, "POST", "/v1/memories", {"memories": memories}, {})
            if data is None:
                return
            taken = [(n, item["id"]) for n, item in zip(left, data["memories"], strict=True) if "id" in item]
            await self._journal.acknowledge(*(
                {"op": "remember", "tenant": tenant, "id": identity, "hash": names[n], "at": time.time()}
                for n, identity in taken
            ))  # fmt: skip
            left = [n for n in left if n not in {place for place, _ in taken}]
            await asyncio.sleep(PAUSE if left else 0)

    async def _revise(self, number: int) -> None:
        tenant, memory_id = self._take()
        content = self._text(tenant, number, "revised")
        name = self._journal.intend(tenant, content)
        self._journal.unsure[memory_id] = ("revise", name)
        key = {"Idempotency-Key": self._key(number)}
        path = f"/v1/memories/{memory_id}"
        if await self._until_accepted("revise", tenant, "PATCH", path, {"content": content}, key) is not None:
            line = {"op": "revise", "tenant": tenant, "id": memory_id, "hash": name, "at": time.time()}
            await self._journal.acknowledge(line)

    async def _forget(self, number: int) -> None:
        tenant, memory_id = self._take()
        self._journal.unsure[memory_id] = ("forget", "")
        key = {"Idempotency-Key": self._key(number)}
        path = f"/v1/memories/{memory_id}"
        if await self._until_accepted("forget", tenant, "DELETE", path, None, key) is not None:
            await self._journal.acknowledge({"op": "forget", "tenant": tenant, "id": memory_id, "at": time.time()})

    def _take(self) -> tuple[str, str]:
        return self._free.pop(self._chance.randrange(len(self._free)))

    async def _recall(self, number: int) -> None:
        tenant = self._chance.choice(list(self._keys))
        query = " ".join(self._chance.choices(WORDS, k=3))
        status, answer, _ = await self._request("recall", tenant, "POST", "/v1/recall", {"query": query}, {})
        if status != 200:
            return
        data = answer["data"]
        self.degraded += "degraded" in answer["meta"]
        foreign = [hit for hit in data["hits"] if f" of {tenant}:" not in hit["memory"]["content"]]
        if foreign:
            self.wrong.append(f"recall of {tenant} brought {foreign[:1]}")

    async def _think(self, number: int) -> None:
        tenant = self._chance.choice(list(self._keys))
        body = {"question": f"What of the {self._chance.choice(WORDS)}, number {number}?"}
        headers = {"Prefer": "respond-async", "Idempotency-Key": self._key(number)}
        data = await self._until_accepted("think", tenant, "POST", "/v1/think", body, headers)
        if data is not None:
            self.jobs.append((tenant, data["job"]))

    async def _until_accepted(
        self, kind: str, tenant: str, method: str, path: str, body: Any, headers: dict[str, str]
    ) -> dict[str, Any] | None:
        """The data of the answer that accepted, or `None` where nothing did while the traffic flowed."""
        while self._going:
            status, answer, pause = await self._request(kind, tenant, method, path, body, headers)
            if status in (200, 201, 202, 207):
                data: dict[str, Any] = answer["data"]
                return data
            if status == 404 and kind in {"revise", "forget"}:
                self.early += 1
            elif status not in (0, 409, 429, 500, 503):
                self.wrong.append(f"{method} {path} answered {status}: {str(answer)[:300]}")
                return None
            await asyncio.sleep(min(pause, 1.0))
        self.given_up += 1
        return None

    async def _request(
        self, kind: str, tenant: str, method: str, path: str, body: Any, headers: dict[str, str]
    ) -> tuple[int, Any, float]:
        began = time.monotonic()
        status, answer, pause, note = 0, None, PAUSE, ""
        credentials = {"Authorization": f"Bearer {self._keys[tenant]}", **headers}
        try:
            async with self._session.request(method, self._url + path, json=body, headers=credentials) as response:
                text = await response.read()
                status, answer = response.status, json.loads(text)
                pause = float(response.headers.get("Retry-After", PAUSE))
                note = "" if status < 300 else str((answer.get("error") or {}).get("message"))[:120]
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            status, note = 0, type(error).__name__
        except ValueError:
            self.wrong.append(f"{method} {path} answered {status} with what is no JSON")
        self.attempts.all.append(Attempt(kind, tenant, began, time.monotonic(), status, note))
        return status, answer, pause

    def _text(self, tenant: str, number: int, part: object = "") -> str:
        """A text that nothing else in the run says, and that names its tenant."""
        words = " ".join(self._chance.choices(WORDS, k=6))
        return f"Entry {self._seed}-{number}-{part} of {tenant}: the {words}."

    def _key(self, number: int, part: object = "") -> str:
        return f"chaos-{self._seed}-{number}-{part}"
