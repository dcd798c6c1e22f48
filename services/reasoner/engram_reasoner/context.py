"""What a thinker gets to read: recalled memories, each once, numbered, within a budget of tokens. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from engram_contracts.memory import Memory
from engram_contracts.questions import Hit

CHARACTERS_A_TOKEN = 4
"""A rule of thumb for European languages; counting exactly would take each model's own vocabulary."""

WRAPPING_TOKENS = 24
"""What number, speaker and time around a memory cost."""


@dataclass(frozen=True, slots=True)
class Source:
    """A memory of a context. `number` is how an answer cites it, `text` what fits of it, `score` the recall's."""

    number: int
    memory: Memory
    text: str
    score: float


@dataclass(frozen=True, slots=True)
class Context:
    """Sources from the most relevant on, what they cost by estimate, and how many memories found no room."""

    sources: tuple[Source, ...]
    tokens: int
    left_out: int


def estimate(text: str) -> int:
    """About how many tokens a text has."""
    return -(-len(text) // CHARACTERS_A_TOKEN)


def pack(hits: Sequence[Hit], *, budget: int) -> Context:
    """The memories of a recall that fit into `budget` tokens, the most relevant first, of equals the newest.

    Of memories that say the same in the same person's words, one is kept. One that is too long gives its matching
    stretch; the first is cut to fit, so that a recall that found something never leaves an empty context.
    """
    unique = _unique(sorted(hits, key=lambda hit: (hit.score, happened(hit.memory)), reverse=True))
    sources: list[Source] = []
    left = budget
    for hit in unique:
        text = _fitting(hit, left - WRAPPING_TOKENS, cut=not sources)
        if text:
            sources.append(Source(len(sources) + 1, hit.memory, text, hit.score))
            left -= estimate(text) + WRAPPING_TOKENS
    return Context(tuple(sources), budget - left, len(unique) - len(sources))


def happened(memory: Memory) -> datetime:
    """When a memory's matter happened, or else when it was stored."""
    return memory.occurred_at or memory.created_at


def _unique(hits: Sequence[Hit]) -> list[Hit]:
    kept: dict[object, Hit] = {}
    seen: set[str] = set()
    for hit in hits:
        said = (" ".join(hit.memory.content.casefold().split()), hit.memory.speaker)
        if hit.memory.id not in seen:
            kept.setdefault(said, hit)
        seen.add(hit.memory.id)
    return list(kept.values())


def _fitting(hit: Hit, room: int, *, cut: bool) -> str | None:
    for text in (hit.memory.content, hit.excerpt):
        if text and estimate(text) <= room:
            return text
    return (hit.excerpt or hit.memory.content)[: max(room, 1) * CHARACTERS_A_TOKEN] if cut else None
