"""Facts folded into changes of the index: pure, so that any batch, in any number of repeats, can be tried in a test.

A fact no newer than what the index shows of its memory is a replay after a crash, in which anything written since
the last flush may be torn. The vectors that the record speaks of are written again when the fact that brought them is
met. A newer fact of a command that has taken effect is a repeat and changes nothing.

What is newer is told by sequences, but for a log that was cut (`engram_runtime.cuts`): where a number is taken for the
second time, the fact was appended after the index wrote what it shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from engram_contracts.errors import NotFound, Rejected
from engram_contracts.facts import Accessed, Chunk, Embedding, Fact, Forgotten, Judged, Remembered, Revised
from engram_contracts.memory import Memory, MemoryChanges
from engram_runtime.service import Delivery, Outcome
from engram_vectors.places import Places, Session
from engram_vectors.points import (
    Changes,
    Entry,
    PointId,
    head_of,
    points_of,
    relabels_of,
    spans_of,
    surplus,
    tombstone,
)

REMEMBERED_COMMANDS = 16
"""Changes of one memory that may lie between a fact and its repeat."""


@dataclass(slots=True)
class Draft:
    """A memory as a batch leaves it. `chunks` are there when its vectors are to be written."""

    tenant: str
    entry: Entry
    chunks: tuple[Chunk, ...] | None = None


class Fold:
    """Takes facts in order and says what they change.

    `entries` holds what the index knows, by first point; `model` is the model of the index's vectors, if it has any.
    `places` hands out places in sessions; it has learned those of the batch (`session_of`).
    """

    def __init__(self, entries: Mapping[PointId, Entry], *, model: str | None, places: Places, now: datetime) -> None:
        self._entries = entries
        self._model = model
        self._dimension = dimension_of(model) if model else 0
        self._places = places
        self._now = now
        self._drafts: dict[PointId, Draft] = {}

    def take(self, delivery: Delivery[Fact]) -> Outcome:
        """Fold one fact in; its outcome. One that is refused changes nothing."""
        fact = delivery.message
        if isinstance(fact, Remembered):
            return self._remember(delivery, fact)
        if isinstance(fact, Revised):
            return self._revise(delivery, fact)
        if isinstance(fact, Forgotten):
            return self._forget(delivery, fact)
        if isinstance(fact, Judged):
            return self._judge(delivery, fact)
        if isinstance(fact, Accessed):
            self._access(delivery, fact)
        return None

    def changes(self) -> Changes:
        """What all facts taken so far change together."""
        changes = Changes()
        for head, draft in self._drafts.items():
            _add(changes, head, draft)
        return changes

    def _remember(self, delivery: Delivery[Fact], fact: Remembered) -> Outcome:
        if refusal := self._misfit(fact.embedding):
            return refusal
        head = head_of(delivery.tenant, fact.memory.id)
        known = self._known(head)
        if known is None:
            entry = self._entry(delivery, fact.memory, fact.embedding.chunks, known)
            self._drafts[head] = Draft(delivery.tenant, entry, fact.embedding.chunks)
        elif known.memory is not None and delivery.sequence == known.born:
            self._write(delivery.tenant, head, known, fact.embedding if _embedded(fact, known) else None)
        return None

    def _revise(self, delivery: Delivery[Fact], fact: Revised) -> Outcome:
        if fact.embedding is not None and (refusal := self._misfit(fact.embedding)):
            return refusal
        head = head_of(delivery.tenant, fact.memory_id)
        known = self._known(head)
        if known is None or (delivery.sequence < known.born and not _is_newer(delivery, known)):
            return NotFound(f"the index holds no memory {fact.memory_id!r} to revise")
        if known.memory is None:
            return self._too_late(delivery, known, fact)
        try:
            entry = self._renewed(delivery, known, known.memory, fact)
        except ValidationError as error:
            return Rejected(f"the changes to memory {fact.memory_id!r} are not valid: {error}")
        if entry is not None:
            self._write(delivery.tenant, head, entry, fact.embedding if _embedded(fact, entry) else None)
        return None

    def _too_late(self, delivery: Delivery[Fact], known: Entry, fact: Revised) -> Outcome:
        if not _is_newer(delivery, known):
            return None
        return NotFound(f"memory {fact.memory_id!r} was forgotten and cannot be revised")

    def _renewed(self, delivery: Delivery[Fact], known: Entry, old: Memory, fact: Revised) -> Entry | None:
        """What to write: the entry with the changes made, as it is for a replay, nothing for a repeat."""
        memory = revised(old, fact)
        if not _is_newer(delivery, known):
            return known
        if _took_effect(fact, known):
            return None
        if fact.embedding is not None:
            return self._entry(delivery, memory, fact.embedding.chunks, known)
        return self._changed(delivery, known, memory)

    def _forget(self, delivery: Delivery[Fact], fact: Forgotten) -> Outcome:
        head = head_of(delivery.tenant, fact.memory_id)
        known = self._known(head)
        if known is None or _is_newer(delivery, known):
            known = self._entry(delivery, None, (), known)
        self._drafts[head] = Draft(delivery.tenant, known.model_copy(update={"memory": None, "spans": ()}))
        return None

    def _judge(self, delivery: Delivery[Fact], fact: Judged) -> Outcome:
        """Count a verdict; of a memory that was forgotten, none is kept."""
        head = head_of(delivery.tenant, fact.memory_id)
        known = self._known(head)
        if known is None or (delivery.sequence < known.born and not _is_newer(delivery, known)):
            return NotFound(f"the index holds no memory {fact.memory_id!r} to judge")
        if known.memory is None:
            return None
        if _is_newer(delivery, known):
            if _took_effect(fact, known):
                return None
            known = self._changed(delivery, known, known.memory.judged(fact.verdict))
        self._write(delivery.tenant, head, known, None)
        return None

    def _access(self, delivery: Delivery[Fact], fact: Accessed) -> None:
        """Count recalls; of memories that are not there any more, none."""
        for memory_id, times in fact.times.items():
            head = head_of(delivery.tenant, memory_id)
            known = self._known(head)
            if known is None or known.memory is None or delivery.sequence <= known.log_sequence:
                continue
            self.count(delivery.tenant, memory_id, times, at=fact.at, sequence=delivery.sequence)

    def count(self, tenant: str, memory_id: str, times: int, *, at: datetime, sequence: int) -> None:
        """Add to how often a memory that is there was recalled, as the log tells up to a sequence."""
        head = head_of(tenant, memory_id)
        known = self._known(head)
        if known is None or known.memory is None:
            return
        memory = known.memory.accessed(times, max(at, known.memory.accessed_at or at))
        update = {"memory": memory, "log_sequence": max(known.log_sequence, sequence)}
        self._write(tenant, head, known.model_copy(update=update), None)

    def _changed(self, delivery: Delivery[Fact], known: Entry, memory: Memory) -> Entry:
        """The entry with another record and the same vectors."""
        update = {
            "memory": memory,
            "command": delivery.message.command,
            "log_sequence": delivery.sequence,
            "born": min(known.born, delivery.sequence),
            "place": self._place(delivery.tenant, memory, known),
            "indexed_at": self._now,
            "earlier": _earlier(known),
            "embedded_by": known.embedded_by or known.command,
        }
        return known.model_copy(update=update)

    def _known(self, head: PointId) -> Entry | None:
        draft = self._drafts.get(head)
        return draft.entry if draft else self._entries.get(head)

    def _entry(
        self, delivery: Delivery[Fact], memory: Memory | None, chunks: Sequence[Chunk], known: Entry | None
    ) -> Entry:
        return Entry(
            memory=memory,
            command=delivery.message.command,
            log_sequence=delivery.sequence,
            born=min(known.born, delivery.sequence) if known else delivery.sequence,
            indexed_at=self._now,
            spans=spans_of(chunks),
            reach=max(known.reach if known else 0, len(chunks)),
            place=self._place(delivery.tenant, memory, known) if memory else 0,
            earlier=_earlier(known) if known and memory else None,
        )

    def _place(self, tenant: str, memory: Memory, known: Entry | None) -> int:
        """Where a memory stands: where it stood, unless it is new in its session."""
        if memory.session_id is None:
            return 0
        if known is not None and known.memory is not None and known.memory.session_id == memory.session_id:
            return known.place
        return self._places.next((tenant, memory.session_id))

    def _write(self, tenant: str, head: PointId, entry: Entry, embedding: Embedding | None) -> None:
        """Have the record written, with these vectors or those that an earlier fact of the batch brought."""
        draft = self._drafts.get(head)
        chunks = embedding.chunks if embedding else draft.chunks if draft else None
        if chunks and len(chunks) > entry.reach:
            entry = entry.model_copy(update={"reach": len(chunks)})
        self._drafts[head] = Draft(tenant, entry, chunks)

    def _misfit(self, embedding: Embedding) -> Rejected | None:
        if embedding.model != self._model:
            if self._model is None:
                return Rejected(f"a model must be named name@dimension, not {embedding.model!r}")
            return Rejected(
                f"the text was embedded by {embedding.model!r}, but the index holds vectors of {self._model!r}; "
                f"set the embedder back to that model, or give the new model an index of its own and embed all again"
            )
        if not embedding.chunks or not all(_is_sound(chunk, self._dimension) for chunk in embedding.chunks):
            return Rejected(f"the embedding does not hold vectors of {self._model!r}; send the command again")
        return None


def _is_newer(delivery: Delivery[Any], known: Entry) -> bool:
    """Whether a fact comes after the last one that changed its memory."""
    if delivery.sequence > known.log_sequence:
        return True
    return delivery.at > known.indexed_at and not _took_effect(delivery.message, known)


def _earlier(known: Entry) -> tuple[str, ...]:
    """The commands that took effect before the next one: a worker may append a fact again after minutes."""
    return (*(known.earlier or ()), known.command)[-REMEMBERED_COMMANDS:]


def _took_effect(fact: Fact, known: Entry) -> bool:
    return fact.command == known.command or fact.command in (known.earlier or ())


def _embedded(fact: Fact, known: Entry) -> bool:
    """Whether the vectors that the record speaks of came with this fact."""
    return fact.command == (known.embedded_by or known.command)


def session_of(delivery: Delivery[Fact]) -> Session | None:
    """The session that a fact puts a memory into, if any."""
    fact = delivery.message
    if isinstance(fact, Remembered):
        session = fact.memory.session_id
    else:
        session = fact.changes.get("session_id") if isinstance(fact, Revised) else None
    return (delivery.tenant, session) if isinstance(session, str) else None


def memories_of(fact: Fact) -> tuple[str, ...]:
    """The ids of the memories a fact is about."""
    if isinstance(fact, Accessed):
        return tuple(fact.times)
    assert isinstance(fact, Remembered | Revised | Forgotten | Judged)
    return (fact.memory.id if isinstance(fact, Remembered) else fact.memory_id,)


def revised(memory: Memory, fact: Revised) -> Memory:
    """The memory with the changes made, one version on. Raises `ValidationError` when they are no valid edit."""
    changed = MemoryChanges.model_validate(fact.changes).changed()
    if "content" in changed:
        changed["feedback"] = None
    return memory.model_copy(update={**changed, "version": memory.version + 1, "updated_at": fact.at})


def dimension_of(model: str) -> int:
    """The dimension in a model's name, `name@dimension`. Raises `Rejected` where it says none."""
    _, at, dimension = model.rpartition("@")
    if not at or not dimension.isdigit() or not 0 < int(dimension) <= 65_536:
        raise Rejected(f"a model must be named name@dimension, not {model!r}")
    return int(dimension)


def _is_sound(chunk: Chunk, dimension: int) -> bool:
    indices = chunk.sparse.indices
    bounded = not indices or (indices[0] >= 0 and indices[-1] < 2**32)
    ascending = all(map(int.__lt__, indices, indices[1:]))
    return len(chunk.dense) == 2 * dimension and len(indices) == len(chunk.sparse.values) and bounded and ascending


def _add(changes: Changes, head: PointId, draft: Draft) -> None:
    entry = draft.entry
    if entry.memory is None:
        changes.drop.extend(surplus(head, after=1, reach=entry.reach))
        changes.put.append(tombstone(draft.tenant, head, entry))
    elif draft.chunks is None:
        changes.relabel.extend(relabels_of(draft.tenant, head, entry))
    else:
        changes.drop.extend(surplus(head, after=len(draft.chunks), reach=entry.reach))
        changes.put.extend(points_of(draft.tenant, head, entry, draft.chunks))
