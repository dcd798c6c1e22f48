import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime

from engram_api.feeds import Feeds
from engram_contracts.events import Progress


class Station:
    """A bus that only carries events, and counts who listens."""

    def __init__(self) -> None:
        self.listening: dict[str, int] = {}
        self.opened = 0
        self.queues: dict[str, asyncio.Queue[Progress]] = {}

    @contextlib.asynccontextmanager
    async def events(self, tenant: str, kind: type[Progress]) -> AsyncIterator[AsyncIterator[Progress]]:
        self.opened += 1
        self.listening[tenant] = self.listening.get(tenant, 0) + 1
        queue = self.queues.setdefault(tenant, asyncio.Queue())

        async def received() -> AsyncIterator[Progress]:
            while True:
                yield await queue.get()

        try:
            yield received()
        finally:
            self.listening[tenant] -= 1

    async def say(self, tenant: str, *commands: str) -> None:
        await self.queues[tenant].put(Progress(stage="indexed", commands=commands, at=datetime.now(UTC)))
        for _ in range(5):
            await asyncio.sleep(0)


def feeds(station: Station) -> Feeds[Progress]:
    return Feeds(station, Progress, lambda event: event.commands)  # type: ignore[arg-type]


async def until(condition) -> None:
    async with asyncio.timeout(2.0):
        while not condition():
            await asyncio.sleep(0)


async def test_all_who_wait_in_a_tenant_share_one_subscription_and_the_last_ends_it() -> None:
    station = Station()
    shared = feeds(station)

    async with contextlib.AsyncExitStack() as stack:
        for n in range(100):
            await stack.enter_async_context(shared.listen("acme", [str(n)], lambda command, event: None))
        assert station.listening == {"acme": 1}

    await until(lambda: station.listening == {"acme": 0})
    assert station.opened == 1


async def test_each_is_told_about_its_own_commands_alone() -> None:
    station, told = Station(), []
    shared = feeds(station)

    async with (
        shared.listen("acme", ["1", "2"], lambda command, event: told.append(("a", command))),
        shared.listen("acme", ["2"], lambda command, event: told.append(("b", command))),
        shared.listen("other", ["1"], lambda command, event: told.append(("c", command))),
    ):
        await station.say("acme", "0", "1", "2", "3")

    assert sorted(told) == [("a", "1"), ("a", "2"), ("b", "2")]


async def test_who_left_is_told_nothing_more() -> None:
    station, told = Station(), []
    shared = feeds(station)

    async with shared.listen("acme", ["2"], lambda command, event: None):
        async with shared.listen("acme", ["1"], lambda command, event: told.append(command)):
            await station.say("acme", "1")
        await station.say("acme", "1")

    assert told == ["1"]


async def test_a_feed_that_breaks_lets_its_listeners_go_on() -> None:
    class Broken(Station):
        @contextlib.asynccontextmanager
        async def events(self, tenant: str, kind: type[Progress]) -> AsyncIterator[AsyncIterator[Progress]]:
            raise ConnectionError("away")
            yield

    async with asyncio.timeout(0.5), feeds(Broken()).listen("acme", ["1"], lambda command, event: None):
        pass
