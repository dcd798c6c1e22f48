"""The reasoner: what it is made of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime

from engram_contracts.commands import Think
from engram_contracts.facts import Remembered
from engram_contracts.questions import Check, PackContext
from engram_contracts.topology import EXTRACT_LOG, SETTINGS, THINK
from engram_reasoner.chat_openai import OpenAIChat, open_chat
from engram_reasoner.handlers import Handlers
from engram_reasoner.linking import Linker
from engram_reasoner.ports import Thinker
from engram_reasoner.settings import LlmSettings, Settings
from engram_reasoner.thinker_extractive import ExtractiveThinker
from engram_reasoner.thinker_openai import OpenAIThinker
from engram_runtime.bus import Bus
from engram_runtime.service import Following, Probe, Service, Taking


@asynccontextmanager
async def open_service(settings: Settings, bus: Bus) -> AsyncIterator[Service]:
    """The service, with a model where one is configured, extractive otherwise."""
    slots = asyncio.Semaphore(settings.reasoner.concurrency)
    async with AsyncExitStack() as stack:
        chat = await stack.enter_async_context(open_chat(settings.llm)) if settings.llm.configured else None
        thinker: Thinker = OpenAIThinker(chat) if chat else ExtractiveThinker()
        handlers = Handlers(bus, thinker, slots, context_tokens=settings.llm.context_tokens, now=_now)
        linker = Linker(bus, chat, bus.bucket(SETTINGS), slots, _now) if chat and settings.reasoner.extract else None
        yield Service(
            name="reasoner",
            answers={PackContext: handlers.context},
            takes=tuple(Taking(consumer=consumer, handler=handlers.think, commands=(Think,)) for consumer in THINK),
            follows=(_following(linker),) if linker else (),
            checks={"model": _check(settings.llm, chat)},
        )


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
