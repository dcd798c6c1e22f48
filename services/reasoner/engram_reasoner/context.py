"""What a thinker gets to read: recalled memories, each once, numbered, within a budget of tokens. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter

from engram_contracts.memory import Memory
from engram_contracts.questions import Hit, PackingOrder

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


def pack(hits: Sequence[Hit], *, budget: int, order: PackingOrder = "greedy") -> Context:
    """The memories of a recall that fit into `budget` tokens, in the order of `PackingOrder`, of equals the newest.

    Of memories that say the same in the same person's words, one is kept. One that is too long gives its matching
    stretch; the first is cut to fit, so that a recall that found something never leaves an empty context.
    """
    unique = _ordered(_unique(sorted(hits, key=lambda hit: (hit.score, happened(hit.memory)), reverse=True)), order)
    sources: list[Source] = []
    left = budget
    for hit in unique:
        text = _fitting(hit, left - WRAPPING_TOKENS, cut=not sources)
        if text:
            sources.append(Source(len(sources) + 1, hit.memory, text, hit.score))
            left -= estimate(text) + WRAPPING_TOKENS
    return Context(tuple(sources), budget - left, len(unique) - len(sources))


def text_of(context: Context) -> str:
    """The context for a prompt: a line for each source, with its mark, its day and its speaker."""
    return "\n".join(_line(source) for source in context.sources)


def happened(memory: Memory) -> datetime:
    """When a memory's matter happened, or else when it was stored."""
    return memory.occurred_at or memory.created_at


def _ordered(hits: Sequence[Hit], order: PackingOrder) -> list[Hit]:
    """Hits, which come by relevance, in another order; `sorted` keeps that among equals."""
    if order == "recent":
        return sorted(hits, key=lambda hit: happened(hit.memory), reverse=True)
    if order == "greedy":
        return list(hits)
    taken: defaultdict[str | None, int] = defaultdict(int)
    turns: list[int] = []
    for hit in hits:
        turns.append(taken[hit.memory.session_id])
        taken[hit.memory.session_id] += 1
    return [hit for _, hit in sorted(zip(turns, hits, strict=True), key=itemgetter(0))]


def _line(source: Source) -> str:
    who = f", {source.memory.speaker}" if source.memory.speaker else ""
    return f"[{source.number}] ({happened(source.memory).date().isoformat()}{who}) {' '.join(source.text.split())}"


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
