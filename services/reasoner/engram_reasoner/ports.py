"""What thinking needs from outside: a thinker, and where it is one, a chat model."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

from engram_contracts.facts import Citation, ModelUse
from engram_reasoner.context import Context

Relay = Callable[[str], Awaitable[None]]
"""Takes each piece of an answer as it comes. Marks in it are not checked yet; the whole answer's are."""


async def unheard(_: str) -> None:
    """A relay for nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inquiry:
    """A question with the memories to answer it from. `model` asks for another model than the configured one."""

    question: str
    context: Context
    asked_at: datetime
    model: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer, what it rests on and what it cost. `degraded` says in what it falls short, and why."""

    text: str
    mode: Literal["model", "extractive"]
    model: str | None = None
    citations: tuple[Citation, ...] = ()
    use: ModelUse = field(default_factory=ModelUse)
    degraded: tuple[str, ...] = ()


class Thinker(Protocol):
    """Answers questions from memories."""

    async def answer(self, inquiry: Inquiry, relay: Relay = unheard) -> Answer:
        """The answer; only memories of the inquiry are cited. Errors are of the family and carry the retry advice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatMessage:
    """A message of a conversation with a model."""

    role: Literal["system", "user"]
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What a model said. `cut` when it was stopped at the limit of its output."""

    text: str
    model: str
    use: ModelUse
    cut: bool = False


class ChatModel(Protocol):
    """A language model that continues a conversation. `trouble` is what the last call failed with, or `None`."""

    trouble: str | None

    async def complete(
        self,
        messages: Sequence[ChatMessage],
        *,
        model: str | None = None,
        relay: Relay = unheard,
        as_json: bool = False,
    ) -> Completion:
        """The model's next message; one call, never repeated here. Errors are of the family."""
