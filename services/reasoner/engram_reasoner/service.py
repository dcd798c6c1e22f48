"""The reasoner: what it is made of."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import TypedDict

from engram_contracts.commands import Think
from engram_contracts.facts import Remembered
from engram_contracts.questions import Check, PackContext
from engram_contracts.topology import EXTRACT_LOG, SETTINGS, THINK
from engram_reasoner.budget import Budget
from engram_reasoner.chat_openai import OpenAIChat, open_chat
from engram_reasoner.handlers import Handlers
from engram_reasoner.linking import Linker
from engram_reasoner.ports import Thinker
from engram_reasoner.settings import LlmSettings, Settings
from engram_reasoner.slots import Slots, whole
from engram_reasoner.thinker_extractive import ExtractiveThinker
from engram_reasoner.thinker_openai import OpenAIThinker
from engram_runtime.bus import Bus
from engram_runtime.nats_bus import NatsBus
from engram_runtime.plans import Plans, open_plans
from engram_runtime.service import Following, Probe, Service, Taking


class Bounds(TypedDict):
    """What a model's use is held against."""

    budget: Budget | None
    most_said: int


@asynccontextmanager
async def open_service(settings: Settings, bus: Bus) -> AsyncIterator[Service]:
    """The service, with a model where one is configured, extractive otherwise."""
    async with AsyncExitStack() as stack:
        chat = await stack.enter_async_context(open_chat(settings.llm)) if settings.llm.configured else None
        plans = await _plans(bus, stack) if chat else None
        slots = Slots(
            settings.reasoner.concurrency, (lambda tenant: plans.limits(tenant).model_share) if plans else whole
        )
        bounds = Bounds(budget=Budget(bus, plans.limits) if plans else None, most_said=settings.llm.max_output_tokens)
        thinker: Thinker = OpenAIThinker(chat) if chat else ExtractiveThinker()
        handlers = Handlers(bus, thinker, slots, context_tokens=settings.llm.context_tokens, now=_now, **bounds)
        linker = _linker(bus, chat, slots, bounds) if chat and settings.reasoner.extract else None
        yield Service(
            name="reasoner",
            answers={PackContext: handlers.context},
            takes=tuple(Taking(consumer=consumer, handler=handlers.think, commands=(Think,)) for consumer in THINK),
            follows=(_following(linker),) if linker else (),
            checks={"model": _check(settings.llm, chat)},
        )


async def _plans(bus: Bus, stack: AsyncExitStack) -> Plans:
    plans = await stack.enter_async_context(open_plans(bus))
    if isinstance(bus, NatsBus):
        bus.reconnected.append(plans.watch_again)
    return plans


def _share(plans: Plans, tenant: str) -> float:
    return plans.limits(tenant).model_share


def _linker(bus: Bus, chat: OpenAIChat, slots: Slots, bounds: Bounds) -> Linker:
    return Linker(bus, chat, bus.bucket(SETTINGS), slots, _now, **bounds)


def _following(linker: Linker) -> Following:
    return Following(
        consumer=EXTRACT_LOG,
        handler=linker.remembered,
        position=linker.position,
        messages={Remembered.event: Remembered},
        appended=linker.appended,
        rewind=linker.rewind,
    )


def _now() -> datetime:
    return datetime.now(UTC)


def _check(settings: LlmSettings, chat: OpenAIChat | None) -> Probe:
    """Whether the last call of the model went well; without a model all is well, and it says what is missing."""

    async def check() -> Check:
        if chat is None:
            missing = "llm.base_url" if settings.base_url is None else "llm.model"
            return Check(ok=True, detail=f"extractive: {missing} is not set")
        return Check(ok=chat.trouble is None, detail=chat.trouble or settings.model)

    return check
