"""What handlers of every room share: asking a part, and saying where a list goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from engram_api.cursors import seal
from engram_contracts.messages import Message
from engram_contracts.questions import Question
from engram_runtime.bus import Bus

R = TypeVar("R", bound=Message)


class Asking:
    """Asks over the bus, each question for at most `ask_seconds`. `pepper` signs job ids and cursors."""

    def __init__(self, bus: Bus, *, ask_seconds: float, pepper: bytes) -> None:
        self._bus = bus
        self._ask_seconds = ask_seconds
        self._pepper = pepper

    async def _ask(self, question: Question[R], *, within: float | None = None) -> R:
        return await self._bus.ask(question, within=within or self._ask_seconds)

    def _next(self, after: str | None, tenant: str, listing: str) -> Mapping[str, Any]:
        return {"next": seal(after, tenant=tenant, listing=listing, pepper=self._pepper)} if after else {}
