"""A log of usage with every kind of repeat in it, and what it must amount to, counted in the plainest way."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from engram_contracts.facts import (
    Chunk,
    Embedding,
    Fact,
    Forgotten,
    ModelUse,
    Remembered,
    Revised,
    SparseVector,
    Thought,
)
from engram_contracts.memory import Memory
from engram_metering.intake import FACTS
from engram_runtime.service import Delivery

BEGIN = datetime(2026, 11, 1, 23, 0, tzinfo=UTC)
Totals = dict[tuple[str, str], int]


@dataclass(frozen=True)
class Step:
    """One fact of a tenant."""

    tenant: str
    fact: Fact


def command_id(number: int) -> str:
    """The id of command `number`."""
    return str(UUID(int=number))


def memory_id(number: int) -> str:
    """The id of memory `number`, which every tenant may use for one of its own."""
    return str(UUID(int=1000 + number))


def embedding(tokens: int) -> Embedding:
    """An embedding that cost so many tokens."""
    sparse = SparseVector(indices=(1, 2), values=(0.5, 1.5))
    return Embedding(model="static@4", tokens=tokens, chunks=(Chunk(start=0, end=1, dense=b"\0" * 8, sparse=sparse),))


def remembered(command: int, memory: int, content: str, *, tokens: int = 3, at: datetime = BEGIN) -> Remembered:
    """A memory is kept."""
    kept = Memory(id=memory_id(memory), content=content, created_at=at, updated_at=at)
    return Remembered(command=command_id(command), accepted_at=at, at=at, memory=kept, embedding=embedding(tokens))


def revised(command: int, memory: int, content: str | None, *, at: datetime = BEGIN) -> Revised:
    """A memory's content changes, or something else of it."""
    changes = {"kind": "plan"} if content is None else {"content": content}
    vectors = None if content is None else embedding(2)
    return Revised(
        command=command_id(command), accepted_at=at, at=at, memory_id=memory_id(memory), changes=changes,
        embedding=vectors,
    )  # fmt: skip


def forgotten(command: int, memory: int, *, at: datetime = BEGIN) -> Forgotten:
    """A memory is forgotten."""
    return Forgotten(command=command_id(command), accepted_at=at, at=at, memory_id=memory_id(memory))


def thought(command: int, prompt: int, completion: int, *, at: datetime = BEGIN) -> Thought:
    """A question was answered."""
    use = ModelUse(prompt_tokens=prompt, completion_tokens=completion, calls=1)
    return Thought(
        command=command_id(command), accepted_at=at, at=at, question="why?", answer="so", mode="model", use=use
    )


def story(seed: int, length: int, *, tenants: int = 3) -> list[Step]:
    """The same facts for the same seed; about a third of them say again what an earlier one said."""
    chance = random.Random(seed)
    steps: list[Step] = []
    for number in range(length):
        if steps and chance.random() < 0.3:
            steps.append(chance.choice(steps))
            continue
        at = BEGIN + timedelta(minutes=number)
        text = "é" * chance.randint(1, 40)
        memory = chance.randrange(1 + length // 4)
        fact: Fact = chance.choice([
            remembered(number, memory, text, at=at), remembered(number, memory, text, at=at),
            revised(number, memory, text, at=at), revised(number, memory, None, at=at),
            forgotten(number, memory, at=at), thought(number, 7, 5, at=at),
        ])  # fmt: skip
        steps.append(Step(f"tenant-{chance.randrange(tenants)}", fact))
    return steps


def deliveries(steps: Iterable[Step], *, first: int = 1) -> list[Delivery[Any]]:
    """The steps as metering gets them from the log, from sequence `first` on."""
    return [
        Delivery(
            tenant=step.tenant,
            event=step.fact.event,
            message=FACTS[step.fact.event].model_validate_json(step.fact.encode()),
            sequence=sequence,
            at=BEGIN,
            correlation=None,
        )
        for sequence, step in enumerate(steps, first)
    ]


def expected(steps: Iterable[Step]) -> Totals:
    """Totals by tenant and meter, without the zeros."""
    totals: Counter[tuple[str, str]] = Counter()
    texts: dict[tuple[str, str], str | None] = {}
    done: set[tuple[str, str]] = set()
    for step in steps:
        tenant, fact = step.tenant, step.fact
        if (tenant, fact.command) in done:
            continue
        done.add((tenant, fact.command))
        if isinstance(fact, Remembered) and (tenant, fact.memory.id) not in texts:
            texts[tenant, fact.memory.id] = fact.memory.content
            totals[tenant, "memories_created"] += 1
            totals[tenant, "embedding_tokens"] += fact.embedding.tokens
        elif isinstance(fact, Revised) and texts.get((tenant, fact.memory_id)) is not None:
            texts[tenant, fact.memory_id] = fact.changes.get("content", texts[tenant, fact.memory_id])
            totals[tenant, "embedding_tokens"] += fact.embedding.tokens if fact.embedding else 0
        elif isinstance(fact, Forgotten) and texts.get((tenant, fact.memory_id)) is not None:
            texts[tenant, fact.memory_id] = None
            totals[tenant, "memories_deleted"] += 1
        elif isinstance(fact, Thought):
            totals[tenant, "thinks"] += 1
            totals[tenant, "think_prompt_tokens"] += fact.use.prompt_tokens
            totals[tenant, "think_completion_tokens"] += fact.use.completion_tokens
    for (tenant, _), text in texts.items():
        totals[tenant, "storage_bytes"] += len((text or "").encode())
    return {key: total for key, total in totals.items() if total}
