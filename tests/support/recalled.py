"""Memories of a conversation over three sessions, as a recall gives them back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from engram_contracts.memory import Memory
from engram_contracts.questions import Hit, Recollection

STORED = datetime(2026, 6, 1, 8, 0, tzinfo=UTC)
FIRST = datetime(2026, 3, 4, 19, 30, tzinfo=UTC)
SECOND = datetime(2026, 3, 21, 10, 0, tzinfo=UTC)
THIRD = datetime(2026, 5, 9, 21, 15, tzinfo=UTC)

TURNS: tuple[tuple[str, datetime, str], ...] = (
    ("Ines", FIRST, "Hey Tom! I finally signed up for the pottery class at the harbour workshop. It starts on Monday."),
    ("Tom", FIRST, "That's great! How long have you wanted to do pottery?"),
    ("Ines", FIRST, "Since school, honestly. My grandmother Marta had a kiln in her garden in Porto."),
    ("Tom", FIRST, "I adopted a dog last week. Her name is Juno, she is a greyhound from the shelter."),
    ("Ines", SECOND, "We fired our first bowls yesterday. Mine cracked, but the glaze came out a lovely green."),
    ("Tom", SECOND, "Juno and I ran the ten kilometre charity race on Sunday. We raised 400 euros for the shelter."),
    ("Ines", SECOND, "I am thinking about leaving the bank. Nothing decided yet."),
    ("Tom", SECOND, "What would you do instead?"),
    ("Ines", THIRD, "I handed in my notice at the bank! In July I open a ceramics studio with Paulo from the class."),
    ("Tom", THIRD, "Wow. Juno sends a paw. I will build the shelves, I took a carpentry course in Bremen."),
    ("Ines", THIRD, "The studio is in Rua das Flores, right beside the bakery."),
    ("Tom", THIRD, "My knee hurts since the race, so the doctor told me to swim instead of running."),
)


def memory(number: int, content: str, *, speaker: str | None = None, at: datetime | None = None) -> Memory:
    """A memory with an id that shows its number."""
    return Memory(
        id=f"m{number}", content=content, speaker=speaker, occurred_at=at, created_at=STORED, updated_at=STORED
    )


CONVERSATION = tuple(memory(n, text, speaker=speaker, at=at) for n, (speaker, at, text) in enumerate(TURNS))


def hits(memories: Sequence[Memory] = CONVERSATION, *, best: Sequence[int] = ()) -> tuple[Hit, ...]:
    """The memories as hits, with a falling score; those numbered `best` come first."""
    first = [memory for number in best for memory in memories if memory.id == f"m{number}"]
    ranked = [*first, *(memory for memory in memories if memory not in first)]
    return tuple(
        Hit(memory=memory, score=round(0.9 - 0.05 * place, 2), legs=("dense",)) for place, memory in enumerate(ranked)
    )


def recollection(*, best: Sequence[int] = (), degraded: tuple[str, ...] = ()) -> Recollection:
    """A recall of the whole conversation."""
    return Recollection(hits=hits(best=best), degraded=degraded)
