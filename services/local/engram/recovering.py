"""What operators ask of recovery, over the bus and for the whole installation."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from engram.operating import bounded, settings_for
from engram.trails import actor
from engram_contracts import recovery
from engram_contracts.errors import Rejected
from engram_contracts.ids import new_id
from engram_contracts.messages import Message
from engram_contracts.questions import Question
from engram_contracts.recovery import SYSTEM, DropDead, Dropped, ReplayStatus, StartReplay, StatusReplay
from engram_runtime.nats_bus import NatsBus, open_bus

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 30.0
LOOK_SECONDS = 0.2

QUESTIONS = {kind.__name__: kind for kind in recovery.QUESTIONS}

Bar = Callable[[int, str], contextlib.AbstractContextManager[Callable[[int], None]]]
"""Opens a progress bar of so many steps, and a name."""


async def ask(data_dir: Path, question: str, asked: dict[str, Any]) -> dict[str, Any]:
    """The answer to a question, which is named by its class."""
    ready = _question(QUESTIONS[question], asked)
    async with _connected(data_dir) as bus:
        return _told(await bus.ask(ready, within=ANSWER_SECONDS))


async def drop(data_dir: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """Delete all that is chosen, in as many steps as it takes."""
    ready = _question(DropDead, {**asked, "actor": actor()})
    total = 0
    async with _connected(data_dir) as bus:
        while True:
            step = await bus.ask(ready, within=ANSWER_SECONDS)
            total += step.dropped
            if not step.more:
                return _told(Dropped(dropped=total))


async def replay(data_dir: Path, asked: dict[str, Any], bar: Bar | None) -> dict[str, Any]:
    """Start a replay, and with a bar follow it to its end; its status."""
    ready = _question(StartReplay, {**asked, "id": new_id(), "actor": actor()})
    async with _connected(data_dir) as bus:
        status = await bus.ask(ready, within=ANSWER_SECONDS)
        if bar is not None:
            status = await _followed(bus, status, bar)
    return _told(status)


async def _followed(bus: NatsBus, status: ReplayStatus, bar: Bar) -> ReplayStatus:
    while status.until_sequence is None and not status.ended:
        status = await _later(bus, status)
    steps = max((status.until_sequence or 0) - status.from_sequence + 1, 0)
    with bar(steps, f"replay {status.id}") as advance:
        shown = 0
        while True:
            reached = status.cursor - status.from_sequence + 1
            advance(reached - shown)
            shown = reached
            if status.ended:
                return status
            status = await _later(bus, status)


async def _later(bus: NatsBus, status: ReplayStatus) -> ReplayStatus:
    await asyncio.sleep(LOOK_SECONDS)
    return await bus.ask(StatusReplay(tenant=SYSTEM, id=status.id), within=ANSWER_SECONDS)


@contextlib.asynccontextmanager
async def _connected(data_dir: Path) -> AsyncIterator[NatsBus]:
    settings = settings_for(data_dir)
    async with contextlib.AsyncExitStack() as stack:
        async with bounded(settings, CONNECT_SECONDS):
            bus = await stack.enter_async_context(open_bus(settings.nats, name="engram-dead"))
        yield bus


def _question(kind: type[Question[Any]], asked: dict[str, Any]) -> Any:
    """The question for the whole installation. Raises `Rejected`, naming what does not fit."""
    given = {name: value for name, value in asked.items() if value is not None}
    try:
        return kind.model_validate({"tenant": SYSTEM, **given})
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
        words = problem["msg"].removeprefix("Value error, ")
        raise Rejected(words, field=".".join(str(part) for part in problem["loc"]) or None) from error


def _told(answer: Message) -> dict[str, Any]:
    return answer.model_dump(mode="json", exclude_none=True)
