"""Requests under an idempotency key: worked on once, and answered alike however often they come.

Records lie in a key-value bucket, so that it does not matter which door a repeat reaches.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from engram_api import idempotency
from engram_api.idempotency import Begin, InFlight, Kept, Record, Remake, Repeat
from engram_api.metrics import UNRECORDED
from engram_contracts.errors import EngramError, Internal, Overloaded, Unavailable
from engram_contracts.ids import new_id
from engram_runtime.bus import KeyValue

log = logging.getLogger(__name__)
T = TypeVar("T")

BROKER_SECONDS = 2.0
LOOK_SECONDS = 0.05
FINISH_TRIES = 3


@dataclass(slots=True)
class Claim:
    """A request in the hands of this door."""

    key: str
    record: Record
    revision: int
    anew: bool


class Repeats:
    """Keeps records. A repeat of what is being worked on waits up to `wait` seconds; a claim lasts `lease`, renewed."""

    def __init__(
        self,
        bucket: KeyValue,
        *,
        wait: float,
        lease: float,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._bucket = bucket
        self._wait = wait
        self._lease = lease
        self._now = now
        self._unwatched: set[asyncio.Task[None]] = set()

    async def once(
        self, key: str, digest: str, run: Callable[[], Awaitable[Kept]], *, keep: bool = True
    ) -> tuple[Kept, bool]:
        """The answer, and whether it is that of an earlier request.

        Raises `Rejected` (422) when the key was used for another request, `InFlight` (409) when the first is still
        being worked on after all the waiting, and whatever `run` raises. When the records are full, the request is
        worked on without one: its ids derive from the key, so its effect stays one. Without `keep` the answer is not
        kept.
        """
        try:
            claim = await self._claim(key, digest)
        except Overloaded:
            UNRECORDED.inc()
            return await run(), False
        if isinstance(claim, Kept):
            return claim, True
        if claim is None:
            return await run(), True
        return await self._work(claim, run, keep=keep), False

    async def close(self) -> None:
        """Return once every record tells what became of its request."""
        await asyncio.gather(*self._unwatched)

    async def _claim(self, key: str, digest: str) -> Claim | Kept | None:
        """A claim, the answer there is, or `None` where that is to be made again."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._wait
        found: tuple[Record | None, int] = (None, 0)
        while True:
            record, revision = found
            view = idempotency.view(record, digest, self._now())
            if isinstance(view, Repeat):
                return view.answer
            if isinstance(view, Remake):
                return None
            if isinstance(view, Begin):
                claim = await self._take(key, digest, revision, anew=view.anew)
                if claim is not None:
                    return claim
            elif loop.time() >= deadline:
                raise InFlight(
                    "the first request under this Idempotency-Key is still being worked on; try again",
                    field="Idempotency-Key",
                    retry_after=idempotency.RETRY_SECONDS,
                )
            else:
                await asyncio.sleep(LOOK_SECONDS)
            found = await self._find(key)

    async def _take(self, key: str, digest: str, revision: int, *, anew: bool) -> Claim | None:
        record = idempotency.claimed(digest, new_id(), self._now(), lease=self._lease)
        taken = await _bounded(self._bucket.update(key, record.encode(), revision))
        return Claim(key, record, taken, anew) if taken is not None else None

    async def _find(self, key: str) -> tuple[Record | None, int]:
        entry = await _bounded(self._bucket.entry(key))
        return (Record.model_validate_json(entry[0]), entry[1]) if entry else (None, 0)

    async def _work(self, claim: Claim, run: Callable[[], Awaitable[Kept]], *, keep: bool) -> Kept:
        try:
            async with self._renewed(claim):
                answer = await run()
        except Exception as error:
            status = error.http_status if isinstance(error, EngramError) else Internal.status
            self._in_background(self._write(claim, idempotency.failed(claim.record, status, anew=claim.anew)))
            raise
        return await self._write(claim, idempotency.done(claim.record, answer, keep=keep)) or answer

    async def _write(self, claim: Claim, record: Record) -> Kept | None:
        """Keep what became of a request; the answer of another who took it over, where that was first.

        What cannot be kept is no reason to take back an answer: the record is then taken over by the next repeat,
        which meets the same ids.
        """
        try:
            for _ in range(FINISH_TRIES):
                if await _bounded(self._bucket.update(claim.key, record.encode(), claim.revision)) is not None:
                    return None
                found, claim.revision = await self._find(claim.key)
                if found is None or found.holder != claim.record.holder:
                    return found.answer if found and found.answer and found.answer.body is not None else None
        except EngramError as error:
            log.warning("idempotency record not kept", extra={"error": error.message})
        return None

    @contextlib.asynccontextmanager
    async def _renewed(self, claim: Claim) -> AsyncIterator[None]:
        """While the block runs, the claim does not run out."""
        task = asyncio.create_task(self._renew(claim))
        try:
            yield
        finally:
            task.cancel()

    async def _renew(self, claim: Claim) -> None:
        while True:
            await asyncio.sleep(self._lease / 3)
            renewed = idempotency.claimed(claim.record.digest, claim.record.holder, self._now(), lease=self._lease)
            with contextlib.suppress(EngramError):
                revision = await _bounded(self._bucket.update(claim.key, renewed.encode(), claim.revision))
                if revision is None:
                    return
                claim.revision = revision

    def _in_background(self, write: Coroutine[Any, Any, Kept | None]) -> None:
        async def written() -> None:
            await write

        task = asyncio.create_task(written())
        self._unwatched.add(task)
        task.add_done_callback(self._unwatched.discard)


async def _bounded(call: Awaitable[T]) -> T:
    try:
        async with asyncio.timeout(BROKER_SECONDS):
            return await call
    except TimeoutError as error:
        raise Unavailable("the idempotency records cannot be reached; try again", retry_after=1.0) from error
