import asyncio

from engram_api.readiness import SERVICES, Readiness
from engram_contracts.errors import Unavailable
from engram_contracts.questions import Check, Pong


class Parts:
    """A bus on which some parts are away."""

    def __init__(self, *away: str) -> None:
        self.away = set(away)
        self.pings = 0

    async def ping(self, service: str, *, within: float) -> Pong:
        self.pings += 1
        if service in self.away:
            raise Unavailable(f"{service} is not running")
        return Pong(
            service=service, instance="i", version="1", pid=1, uptime_s=1, rss_bytes=1, cpu_s=1, ready=True, checks={}
        )

    def bucket(self, _: object) -> "Parts":
        return self

    async def get(self, key: str) -> bytes | None:
        if "broker" in self.away:
            raise Unavailable("the broker is away")
        return None


async def keys() -> Check:
    return Check(ok=True)


async def looked(view: Readiness) -> tuple[str, bool]:
    await asyncio.sleep(0)
    ready, serving = await view.look()
    return ready.status, serving


def view_of(parts: Parts, **bounds: float) -> Readiness:
    return Readiness(parts, keys, **{"fresh": -1.0, **bounds})  # type: ignore[arg-type]


async def test_a_door_that_starts_waits_for_every_part() -> None:
    parts = Parts("graph")
    view = view_of(parts)

    before = await looked(view)
    parts.away.clear()
    after = await looked(view)

    assert (before, after) == (("degraded", False), ("ready", True))


async def test_once_complete_it_serves_on_without_a_service_but_not_without_the_broker() -> None:
    parts = Parts()
    view = view_of(parts)
    assert await looked(view) == ("ready", True)

    parts.away = {"reasoner"}
    without_a_service = await looked(view)
    parts.away = {"broker"}
    without_the_broker = await looked(view)

    assert (without_a_service, without_the_broker) == (("degraded", True), ("unavailable", False))


async def test_a_door_that_never_saw_all_parts_serves_after_a_while() -> None:
    view = view_of(Parts("reasoner"), starting=0.0)

    assert await looked(view) == ("degraded", True)


async def test_many_who_ask_at_once_share_one_look() -> None:
    parts = Parts()
    view = view_of(parts)

    await asyncio.gather(*(view.look() for _ in range(50)))

    assert parts.pings == len(SERVICES)
